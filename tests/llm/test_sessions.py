"""Finished requests become counters, histograms and rows; what is not known is counted nowhere."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumon.catalog import LLM_RECORDS, LLM_TRAFFIC, Entity, Histogram, Reading
from gpumon.llm.counting import counted_once
from gpumon.llm.names import ModelNames
from gpumon.llm.normal import HISTOGRAMS
from gpumon.llm.request import ModelRequest, Outcome, RequestSource
from gpumon.llm.sessions import OBSERVED, Buckets, Sessions

REQUEST = ModelRequest(
    server="127.0.0.1:11434",
    kind="ollama",
    model="llama3.2:latest",
    source=RequestSource.PROXY,
    started_at=1.7e9,
    duration_seconds=4.0,
    outcome=Outcome.OK,
    streamed=True,
    endpoint="/api/chat",
    prompt_tokens=100,
    cached_tokens=30,
    completion_tokens=50,
    queue_seconds=0.25,
    time_to_first_token_seconds=0.5,
    time_per_output_token_seconds=0.02,
    finish_reason="stop",
)


def sessions(limit: int = 50, waiting: int = 100) -> Sessions:
    """Give sessions that were never used."""
    return Sessions(ModelNames(limit), waiting)


def traffic(some: Sessions) -> dict[tuple[str, ...], Entity]:
    """Give the traffic by model and source."""
    return {entity.labels[2:]: entity for entity in some.entities() if entity.kind is LLM_TRAFFIC}


def spread(entity: Entity, name: str) -> Histogram | None:
    """Give one histogram of an entity."""
    return entity.histograms[HISTOGRAMS[name]]


def test_a_request_is_counted_under_its_model_and_source() -> None:
    """Tokens, outcome, speed, first token in both units, duration and queue; the name is as the server lists it."""
    some = sessions()
    some.record(REQUEST)
    some.record(replace(REQUEST, outcome=Outcome.CANCELLED, completion_tokens=7))
    (entity,) = traffic(some).values()
    assert entity.labels == ("127.0.0.1:11434", "ollama", "llama3.2", "proxy")
    expected = {"prompt_tokens_total": 200, "cached_prompt_tokens_total": 60, "generated_tokens_total": 57}
    expected |= {"requests_ok_total": 1, "requests_cancelled_total": 1, "requests_error_total": 0, "session_count": 2}
    read = {column.name: value for column, value in zip(LLM_TRAFFIC.columns, entity.values, strict=True)}
    assert {name: value for name, value in read.items() if value is not None} == expected
    sums = {"tokens_per_second": 100, "time_to_first_token_ms": 1000, "time_to_first_token_seconds": 1}
    sums |= {"time_per_output_token_seconds": 0.04, "request_duration_seconds": 8, "request_queue_seconds": 0.5}
    for name, total in sums.items():
        histogram = spread(entity, name)
        assert histogram is not None
        assert (histogram.count, histogram.sum) == (2, pytest.approx(total))
    assert set(sums) == set(OBSERVED)


def test_what_is_not_known_is_absent() -> None:
    """A request that was refused has no tokens and no first token; they are neither 0 nor in a bucket."""
    some = sessions()
    bare = ModelRequest(
        server="s",
        kind="vllm",
        model="m",
        source=RequestSource.PROXY,
        started_at=0.0,
        duration_seconds=0.1,
        outcome=Outcome.ERROR,
        streamed=False,
        endpoint="/v1/chat/completions",
    )
    some.record(bare)
    (entity,) = traffic(some).values()
    assert entity["generated_tokens_total"] is None
    assert entity["requests_error_total"] == 1
    assert spread(entity, "time_to_first_token_seconds") is None
    assert spread(entity, "request_duration_seconds") is not None


def test_rows_are_given_once_in_order() -> None:
    """With the label of the model; what nobody takes in time is dropped, oldest first, and counted."""
    some = sessions(waiting=3)
    for i in range(5):
        some.record(replace(REQUEST, started_at=float(i)))
    assert [request.started_at for request in some.drain()] == [2.0, 3.0, 4.0]
    assert some.drain() == ()
    some.record(REQUEST)
    (row,) = some.drain()
    assert (row.model, row.server, row.source, row.outcome) == ("llama3.2", "127.0.0.1:11434", "proxy", "ok")
    assert (row.prompt_tokens, row.completion_tokens, row.total_tokens) == (100, 50, 150)
    assert (row.tokens_per_second, row.time_to_first_token_ms, row.time_per_output_token_ms) == (50.0, 500.0, 20.0)
    assert row.duration_ms == 4000.0
    (records,) = (entity for entity in some.entities() if entity.kind is LLM_RECORDS)
    assert records["sessions_dropped_total"] == 2


def test_without_a_store_no_rows_wait_and_none_are_missed() -> None:
    """Counting goes on."""
    some = sessions(waiting=0)
    some.record(REQUEST)
    assert some.drain() == ()
    (records,) = (entity for entity in some.entities() if entity.kind is LLM_RECORDS)
    assert records["sessions_dropped_total"] == 0


def test_made_up_names_of_models_share_one_label() -> None:
    """A server's list is what counts; without one, the first so many names do."""
    some = sessions(limit=3)
    some.names.listed(REQUEST.server, ["llama3.2:latest", "qwen3:8b"])
    for model in ("llama3.2", "llama3.2:latest", "made up", "qwen3:8b", "also made up"):
        some.record(replace(REQUEST, model=model))
    for i in range(1000):
        some.record(replace(REQUEST, server="unlisted", model=f"m{i}"))
    labels = [(entity.labels[0], entity.labels[2], entity["session_count"]) for entity in traffic_list(some)]
    assert labels == [
        (REQUEST.server, "llama3.2", 2),
        (REQUEST.server, "other", 2),
        (REQUEST.server, "qwen3:8b", 1),
        ("unlisted", "m0", 1),
        ("unlisted", "other", 999),
    ]
    (records,) = (entity for entity in some.entities() if entity.kind is LLM_RECORDS)
    assert records["models_renamed_total"] == 1001


def traffic_list(some: Sessions) -> list[Entity]:
    """Give the traffic in the order in which it began."""
    return [entity for entity in some.entities() if entity.kind is LLM_TRAFFIC]


BOUNDS = (0.1, 1.0, 10.0)


@given(st.lists(st.floats(0, 100)))
def test_buckets_count_what_does_not_pass_their_bound(values: list[float]) -> None:
    """As Prometheus has it: a bucket's bound is in the bucket."""
    buckets = Buckets(Reading(name="x_seconds", help="", buckets=BOUNDS))
    for value in values:
        buckets.observe(value)
    histogram = buckets.histogram()
    if not values:
        assert histogram is None
        return
    assert histogram is not None
    reached = [sum(histogram.counts[: i + 1]) for i in range(len(BOUNDS) + 1)]
    assert reached == [sum(value <= bound for value in values) for bound in (*BOUNDS, math.inf)]
    assert histogram.sum == pytest.approx(sum(values))


def test_the_buckets_tell_a_laptop_from_an_h200() -> None:
    """Both ends of what there is fall into buckets that have others on both sides."""
    some = sessions()
    laptop = replace(REQUEST, model="a", time_to_first_token_seconds=90.0, time_per_output_token_seconds=1.4)
    h200 = replace(REQUEST, model="b", time_to_first_token_seconds=0.012, time_per_output_token_seconds=0.004)
    for request in (replace(laptop, duration_seconds=600.0), replace(h200, duration_seconds=0.3)):
        some.record(request)
    for entity in traffic(some).values():
        for name in OBSERVED:
            histogram = spread(entity, name)
            assert histogram is not None
            assert 0 < histogram.counts.index(1) < len(histogram.bounds) - 1, name


SOURCES = st.sampled_from([source.value for source in RequestSource])


def counting(server: str, source: str, tokens: float | None, running: float | None) -> Entity:
    """Give traffic of a server as a source may."""
    values = {"generated_tokens_total": tokens, "requests_running": running}
    return Entity(LLM_TRAFFIC, (server, "k", "m", source), tuple(map(values.get, LLM_TRAFFIC.index)))


@given(
    st.dictionaries(
        st.tuples(st.sampled_from("ab"), SOURCES), st.tuples(st.none() | st.just(1.0), st.none() | st.just(2.0))
    )
)
def test_no_token_is_counted_by_two_sources(
    given_traffic: dict[tuple[str, str], tuple[float | None, float | None]],
) -> None:
    """Of each server the best source counts; what the others know besides is kept."""
    some = [counting(server, source, *values) for (server, source), values in given_traffic.items()]
    kept = list(counted_once(some))
    for server in "ab":
        sources = [source for (at, source), (tokens, _) in given_traffic.items() if at == server and tokens]
        counted = [
            entity.labels[3] for entity in kept if entity.labels[0] == server and entity["generated_tokens_total"]
        ]
        assert counted == [source.value for source in RequestSource if source.value in sources][:1]
    running = {entity.labels: entity["requests_running"] for entity in kept}
    assert all(running[entity.labels] == 2.0 for entity in some if entity["requests_running"])
