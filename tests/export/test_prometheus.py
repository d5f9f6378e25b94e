"""What is rendered from a snapshot is what prometheus_client would write, and what Prometheus can read."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.utils import floatToGoString
from tests.snapshots import Written, entities, node

from gpumon.catalog import GPU, KINDS, NVML_ERRORS, SOURCE, Entity, EntityKind, Histogram, Label, Reading
from gpumon.export.prometheus import Form, Renderer, number

END = b"# EOF\n"


@settings(deadline=None)
@given(entities())
def test_both_formats_are_byte_for_byte_what_prometheus_client_writes(some: tuple[Entity, ...]) -> None:
    """For any label text and any value; what is absent or not finite has no line, and an empty family no header."""
    renderer = Renderer()
    assert b"".join(renderer.render(some, Form.TEXT)) == generate_latest(Written(some))
    assert b"".join(renderer.render(some, Form.OPENMETRICS)) + END == generate_openmetrics(Written(some))


@settings(deadline=None)
@given(entities(st.floats(min_value=0)))
def test_what_was_written_reads_back_to_the_same_values(some: tuple[Entity, ...]) -> None:
    """By both of prometheus_client's parsers; the stricter one takes no counter below 0."""
    expected = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in Written(some).collect()
        for sample in family.samples
    }
    renderer = Renderer()
    pages = {
        parse_text: b"".join(renderer.render(some, Form.TEXT)),
        parse_openmetrics: b"".join(renderer.render(some, Form.OPENMETRICS)) + END,
    }
    for parse, page in pages.items():
        read = [sample for family in parse(page.decode()) for sample in family.samples]
        assert {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in read} == expected
        assert len(read) == len(expected)


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
@example(85899345920.0)
@example(1e6)
@example(999999.9999999999)
@example(1e16)
@example(9999999999999998.0)
@example(-85899345920.0)
@example(-0.0)
def test_numbers_are_written_as_prometheus_client_writes_them(value: float) -> None:
    """With every digit: reading them gives the same float."""
    assert number(value) == floatToGoString(value)
    assert float(number(value)) == value


@settings(deadline=None)
@given(st.integers(-(2**63), 2**64) | st.booleans())
@example(9_999_999_999_999_999)  # below 1e16, and as a float not
def test_whole_numbers_and_truths_are_written_as_floats(value: float) -> None:
    """A source may give an int or a bool where a float is declared."""
    assert number(value) == floatToGoString(value)


def test_the_beginnings_of_lines_are_kept_only_for_what_was_there_last() -> None:
    """Processes and links that come and go do not add up."""
    renderer = Renderer()
    for tick in range(100):
        list(renderer.render([Entity(SOURCE, (f"source {tick} {i}",), (1.0, 0.1)) for i in range(3)], Form.TEXT))
        assert len(renderer._prefixes) == 3
    list(renderer.render([], Form.TEXT))
    assert not renderer._prefixes


def test_a_series_is_never_there_twice() -> None:
    """Prometheus would drop the scrape; the first entity counts."""
    twice = [Entity(NVML_ERRORS, ("nvmlInit", "UNKNOWN"), (float(i),)) for i in (1, 2)]
    page = b"".join(Renderer().render(twice, Form.TEXT)).decode()
    assert page.splitlines()[-1] == 'gpumon_nvml_errors_total{code="UNKNOWN",function="nvmlInit"} 1.0'
    assert page.count("\n") == 3


def test_text_that_utf8_cannot_hold_costs_a_character_not_the_page() -> None:
    """A driver's bytes may have become half of a surrogate pair."""
    page = b"".join(Renderer().render([Entity(SOURCE, ("half \ud800 pair",), (1.0, None))], Form.TEXT))
    assert b'{source="half ? pair"} 1.0' in page


def test_a_name_that_two_kinds_share_is_one_family() -> None:
    """One header, then the samples of both."""
    reading = Reading(name="joules_total", help="Energy.")
    kinds = [EntityKind(name, "", prefix="unit", labels=(Label(name, ""),), readings=(reading,)) for name in "ab"]
    some = [Entity(kind, (kind.name,), (1.0,)) for kind in kinds]
    page = b"".join(Renderer(kinds).render(some, Form.TEXT))
    assert page == generate_latest(Written(some, kinds))
    assert page.count(b"# TYPE") == 1


@pytest.mark.parametrize("form", Form)
def test_every_family_of_the_catalogue_can_be_rendered(form: Form) -> None:
    """Each kind alone with all its columns: the formats' parsers take every name, type and unit."""
    parse = parse_text if form is Form.TEXT else parse_openmetrics
    for kind in KINDS:
        spread = tuple(Histogram((0.5,), (1.0, 2.0), 7.0) for _ in kind.histograms)
        entity = Entity(kind, tuple(label.name for label in kind.labels), tuple(1.0 for _ in kind.columns), spread)
        page = b"".join(Renderer().render([entity], form))
        samples = [sample for family in parse((page + END).decode()) for sample in family.samples]
        assert len(samples) == len(kind.columns) + 4 * len(kind.histograms)


def test_each_thing_may_have_buckets_of_its_own() -> None:
    """A server's histogram keeps the bounds that the server chose, beside another's in the same family."""
    wait = Reading(name="wait_seconds", help="Waiting.")
    kind = EntityKind("queue", "", labels=(Label("who", ""),), readings=(), histograms=(wait,))
    some = (
        Entity(kind, ("a",), (), (Histogram((0.1, 1.0), (2.0, 0.0, 1.0), 3.5),)),
        Entity(kind, ("b",), (), (Histogram((), (4.0,), 1.0),)),
        Entity(kind, ("c",), (), (None,)),
        Entity(kind, ("d",), ()),
    )
    page = b"".join(Renderer([kind]).render(some, Form.TEXT)).decode()
    assert page.splitlines()[2:] == [
        'gpumon_wait_seconds_bucket{le="0.1",who="a"} 2.0',
        'gpumon_wait_seconds_bucket{le="1.0",who="a"} 2.0',
        'gpumon_wait_seconds_bucket{le="+Inf",who="a"} 3.0',
        'gpumon_wait_seconds_count{who="a"} 3.0',
        'gpumon_wait_seconds_sum{who="a"} 3.5',
        'gpumon_wait_seconds_bucket{le="+Inf",who="b"} 4.0',
        'gpumon_wait_seconds_count{who="b"} 4.0',
        'gpumon_wait_seconds_sum{who="b"} 1.0',
    ]
    assert page.splitlines()[1] == "# TYPE gpumon_wait_seconds histogram"


def test_kinds_the_renderer_was_not_made_for_are_left_out() -> None:
    """Which is how the age, added at each scrape, stays out of what is cached."""
    assert b"".join(Renderer([SOURCE]).render(node().entities, Form.TEXT)).count(b"# TYPE") == 2


def test_absent_is_not_zero_and_not_nan() -> None:
    """A GPU that gave nothing has no line at all."""
    for nothing in (None, math.nan, math.inf):
        empty = Entity(GPU, ("0", "name", "uuid"), tuple(nothing for _ in GPU.columns))
        assert b"".join(Renderer().render([empty], Form.TEXT)) == b""
