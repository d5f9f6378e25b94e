"""Our reader of pages finds the samples that prometheus_client's parser finds, and stumbles over nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from gpumon.llm.openmetrics import Labels, Page

PAGES = Path(__file__).with_name("pages")
Seen = tuple[str, tuple[tuple[str, str], ...]]


def seen(name: str, labels: Labels) -> Seen:
    """Take every series as itself."""
    return name, tuple(sorted(labels.items()))


def read(page: bytes, *names: str) -> list[tuple[Seen, float]]:
    """Read a page that was never read before."""
    return list(Page(names, seen).read(page))


class Written(Collector):
    """Some families, to be written by prometheus_client."""

    def __init__(self, families: list[tuple[str, list[tuple[dict[str, str], float]]]]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """Give the families."""
        metrics = []
        for name, samples in self._families:
            metric = Metric(name, 'help with a \n and a "quote" and # a hash', "gauge")
            for labels, value in samples:
                metric.add_sample(name, labels, value)
            metrics.append(metric)
        return metrics


LABELS = st.dictionaries(st.sampled_from(["model", "le", "engine"]), st.text(max_size=6), max_size=3)
SAMPLES = st.lists(st.tuples(LABELS, st.floats(allow_nan=True)), max_size=4)
FAMILIES = st.lists(
    st.tuples(st.sampled_from(["want:a", "want_b", "other", "want"]), SAMPLES), max_size=4, unique_by=lambda row: row[0]
)


@settings(deadline=None)
@given(FAMILIES)
def test_what_is_wanted_is_found_whatever_stands_in_labels(
    families: list[tuple[str, list[tuple[dict[str, str], float]]]],
) -> None:
    """Quotes, braces, backslashes and line ends in label values included; NaN is no reading."""
    page = generate_latest(Written(families))
    expected = [
        (seen(name, labels), value)
        for name, samples in families
        for labels, value in samples
        if name.startswith("want") and not math.isnan(value)
    ]
    assert read(page, "want") == expected


@pytest.mark.parametrize("file", sorted(PAGES.glob("*.prom")), ids=lambda file: file.stem)
def test_the_kept_pages_read_as_prometheus_client_reads_them(file: Path) -> None:
    """Every sample of every page, first and second time."""
    text = file.read_text()
    expected = [
        (tuple(sorted(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not math.isnan(sample.value)
    ]
    page = Page(tuple("abcdefghijklmnopqrstuvwxyz"), seen)
    for _ in range(2):
        assert [(labels, value) for (_, labels), value in page.read(text.encode())] == expected


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=20))
def test_no_page_is_too_odd_to_be_read(noise: bytes, more: bytes) -> None:
    """Whatever a port answers, reading it ends and raises nothing."""
    read(noise, "want")
    read(b"want" + noise + b"\nwant{" + more, "want")


@pytest.mark.parametrize(
    "line",
    [
        b'want{a="b"} 5',
        b'want{a="b"} 5 1700000000000',
        b'want{a="b"}\t5.0',
        b'want{ a = "b", } 5e0',
        b'want {a="b"} 5',
        b'want{a="b"} 5 # {trace_id="x"} 0.5 1.7e9',
        b'want{a="b"} 5\r',
    ],
)
def test_other_ways_to_write_a_line_are_read(line: bytes) -> None:
    """Time stamps, tabs, exemplars, spaces and Windows' line ends."""
    assert read(line + b"\n", "want") == [(("want", (("a", "b"),)), 5.0)]
    assert read(b"# TYPE want gauge\n" + line + b"\nother 1\n", "want") == [(("want", (("a", "b"),)), 5.0)]


def test_a_page_without_comments_is_read_as_well() -> None:
    """Families are passed over as a whole only where comments tell them apart."""
    assert read(b"other 1\nwant 2\nother 3\nwant_b 4\n", "want") == [(("want", ()), 2.0), (("want_b", ()), 4.0)]
    assert read(b"# HELP other x\nother 1\nwant 2\n", "want") == [(("want", ()), 2.0)]


def test_what_left_the_page_is_forgotten() -> None:
    """Series that come and go do not add up."""
    page = Page(("want",), seen)
    for i in range(50):
        list(page.read(f'want{{i="{i}"}} 1\n'.encode()))
        assert len(page._known) <= 2
