"""Scrapers share one render per snapshot and encoding, get the age of their moment, and nothing that is too old."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from tests.snapshots import Written, entities, node

from gpumon.catalog import AGE, DAEMON, GPU_HEALTH, HEALTH_KINDS, KINDS, SUPPORT, Entity, Snapshot
from gpumon.export.exposition import Exposition, accepts_gzip, choose_form
from gpumon.export.prometheus import Form
from gpumon.hub import Hub

STALE_SECS = 6.0


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Scrape:
    """An exposition with a hub and a clock to turn."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.clock = Clock()
        self.exposition = Exposition(self.hub, STALE_SECS, self.clock)

    def values(self, form: Form = Form.TEXT) -> dict[str, float]:
        """Give the values of a page by name and labels as they are written."""
        page = self.exposition.page(form, gzip=False).decode()
        parse = parse_text if form is Form.TEXT else parse_openmetrics
        assert list(parse(page))
        return dict(_lines(page))


def _lines(page: str) -> Iterator[tuple[str, float]]:
    for line in page.splitlines():
        if not line.startswith("#"):
            series, value = line.rsplit(" ", 1)
            yield series, float(value)


@pytest.fixture
def scrape() -> Scrape:
    return Scrape()


def test_a_snapshot_is_rendered_once_per_encoding_and_only_when_asked(scrape: Scrape) -> None:
    """However many scrape it; a snapshot nobody asks for costs nothing."""
    renders = scrape.exposition.renders
    for number in range(1, 4):
        scrape.hub.publish(node(1, 1, number=number))
    assert not renders
    for _ in range(10):
        for form in Form:
            for compressed in (False, True):
                scrape.exposition.page(form, compressed)
    assert renders == {(form, compressed): 1 for form in Form for compressed in (False, True)}
    scrape.hub.publish(node(1, 1, number=4))
    scrape.exposition.page(Form.TEXT, gzip=True)
    assert renders[Form.TEXT, True] == 2
    assert renders[Form.OPENMETRICS, False] == 1


@settings(deadline=None)
@given(entities())
def test_the_compressed_page_is_the_plain_one(some: tuple[Entity, ...]) -> None:
    """As one ordinary gzip stream, with checksum and size, the tail included."""
    scrape = Scrape()
    scrape.hub.publish(Snapshot(0.0, 0.0, 1, some))
    for form in Form:
        compressed = scrape.exposition.page(form, gzip=True)
        reader = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        assert reader.decompress(compressed) == scrape.exposition.page(form, gzip=False)
        assert reader.eof
        assert reader.unused_data == b""
        assert gzip.decompress(compressed) == scrape.exposition.page(form, gzip=False)


def test_the_age_is_that_of_the_scrape_though_the_page_is_cached(scrape: Scrape) -> None:
    """Plain and compressed, without a render."""
    scrape.hub.publish(node(1, 1, monotonic=100.0))
    for age in (0.25, 1.5, 5.9):
        scrape.clock.now = 100.0 + age
        for form in Form:
            assert scrape.values(form)["gpumon_snapshot_age_seconds"] == age
            compressed = gzip.decompress(scrape.exposition.page(form, gzip=True)).decode()
            assert dict(_lines(compressed))["gpumon_snapshot_age_seconds"] == age
    assert set(scrape.exposition.renders.values()) == {1}


def test_the_whole_page_is_what_prometheus_client_writes(scrape: Scrape) -> None:
    """The tail too."""
    snapshot = node(2, 3)
    scrape.hub.publish(snapshot)
    scrape.clock.now = 1.5
    kinds = (*(kind for kind in KINDS if kind is not AGE), AGE)
    whole = Written((*snapshot.entities, Entity(AGE, (), (1.5,))), kinds)
    assert scrape.exposition.page(Form.OPENMETRICS, gzip=False) == generate_openmetrics(whole)


def test_a_snapshot_older_than_three_ticks_is_withheld(scrape: Scrape) -> None:
    """gpumon's own health is served with up 0; a newer snapshot brings everything back."""
    snapshot = node(1, 1)
    down = Entity(DAEMON, (), (1.0, 1.0, 7.0, 0.0, 1.0))
    device = ("0", "name", "uuid")
    support = Entity(SUPPORT, (*device, "reading", "reason"), (0.0,))
    health = Entity(GPU_HEALTH, device, (0.0, 1.0, 1.0, 2.0))
    scrape.hub.publish(replace(snapshot, entities=(*snapshot.entities[1:], down, support, health)))
    scrape.clock.now = STALE_SECS
    assert scrape.values()["gpumon_up"] == 1.0
    scrape.clock.now += 0.001
    for form in Form:
        values = scrape.values(form)
        assert values["gpumon_up"] == 0.0
        assert values["gpumon_ticks_total"] == 7.0
        assert values["gpumon_snapshot_age_seconds"] == STALE_SECS + 0.001
        served = {kind.metric(reading) for kind in (*HEALTH_KINDS, AGE) for reading in kind.readings}
        assert {series.partition("{")[0] for series in values} <= served
        assert any(series.startswith("gpumon_gpu_reading_supported{") for series in values)
    scrape.hub.publish(node(1, 1, number=2, monotonic=scrape.clock.now))
    assert any(series.startswith("gpumon_gpu_temperature_celsius{") for series in scrape.values())


def test_a_stale_page_says_so_whatever_the_snapshot_held(scrape: Scrape) -> None:
    """Also when the daemon said nothing of itself."""
    scrape.hub.publish(Snapshot(0.0, 0.0, 1, ()))
    scrape.clock.now = STALE_SECS + 1
    assert scrape.values() == {"gpumon_up": 0.0, "gpumon_snapshot_age_seconds": STALE_SECS + 1}


def test_a_stale_page_is_rendered_once_too(scrape: Scrape) -> None:
    """A sampling that hangs does not make scrapes dear."""
    scrape.hub.publish(node(1, 1))
    for now in (0.0, 1.0, 7.0, 8.0, 9.0):
        scrape.clock.now = now
        scrape.exposition.page(Form.TEXT, gzip=False)
    assert scrape.exposition.renders[Form.TEXT, False] == 2


@pytest.mark.parametrize("form", Form)
def test_before_the_first_snapshot_there_is_a_valid_page(scrape: Scrape, form: Form) -> None:
    """It says that gpumon is not up, and gives no age to what does not exist."""
    assert scrape.values(form) == {"gpumon_up": 0.0}


def test_a_clock_behind_the_snapshot_is_no_negative_age(scrape: Scrape) -> None:
    """A tick published while the scrape looked at the clock is brand new."""
    scrape.hub.publish(node(1, 1, monotonic=10.0))
    assert scrape.values()["gpumon_snapshot_age_seconds"] == 0.0


PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain", PROMETHEUS_2, PROMETHEUS_3, BROWSER])
def test_real_clients_get_the_format_prometheus_client_would_choose(accept: str) -> None:
    """Prometheus of both lines, curl, browsers, and those that say nothing."""
    chosen = choose_encoder(accept)[1]
    assert choose_form(accept).value.partition(";")[0] == chosen.partition(";")[0]


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("application/openmetrics-text", Form.OPENMETRICS),
        ('APPLICATION/OpenMetrics-Text; Version="1.0.0"', Form.OPENMETRICS),
        ("application/openmetrics-text;version=1.1.0, text/plain;q=0.5", Form.OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1", Form.TEXT),
        ("application/openmetrics-text;version=2.0.0", Form.TEXT),
        ("application/openmetrics-text;version=abc", Form.TEXT),
        ("application/openmetrics-text;q=0", Form.TEXT),
        ("application/openmetrics-text;q=0.4, text/plain;version=0.0.4;q=0.5", Form.TEXT),
        ("application/openmetrics-text;q=high", Form.TEXT),
        ("application/vnd.google.protobuf;encoding=delimited;q=0.8,text/plain;q=0.5", Form.TEXT),
        ("application/openmetrics-text" + ";" * 1024, Form.TEXT),
    ],
)
def test_the_format_is_what_the_client_likes_best(accept: str, form: Form) -> None:
    """By quality; of OpenMetrics only version 1, which is what is written."""
    assert choose_form(accept) is form


@pytest.mark.parametrize(
    ("accept_encoding", "accepted"),
    [
        ("", False),
        ("gzip", True),
        ("GZIP;q=0.5, br", True),
        ("deflate, gzip, br, zstd", True),
        ("gzip;q=0", False),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("identity", False),
        ("gzipped", False),
    ],
)
def test_gzip_is_used_where_it_is_accepted(accept_encoding: str, accepted: bool) -> None:
    """And not where it is refused by name."""
    assert accepts_gzip(accept_encoding) is accepted


@settings(deadline=None)
@given(st.text())
def test_any_header_gets_a_format(header: str) -> None:
    """What clients send never fails."""
    assert choose_form(header) in Form
    assert accepts_gzip(header) in (True, False)


# Names with "count" are a contract of this project; promtool would rather keep the word for histograms.
AS_CONTRACTED = ('non-histogram and non-summary metrics should not have "_count" suffix',)


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="PROMTOOL IS NOT INSTALLED: the page was not checked by it"
)
def test_promtool_finds_nothing_wrong(scrape: Scrape) -> None:
    """Neither in the syntax nor, but for names that are fixed, in the style."""
    for snapshot in (node(), None):
        if snapshot is not None:
            scrape.hub.publish(snapshot)
        page = scrape.exposition.page(Form.TEXT, gzip=False)
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
        found = (done.stdout + done.stderr).decode().splitlines()
        assert [line for line in found if not line.endswith(AS_CONTRACTED)] == []
        assert done.returncode in (0, 3)  # 3 is for style alone
