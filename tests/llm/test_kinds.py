"""Each kind's page is read as its row says; the traps of the servers' metrics are stepped around."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumon.catalog import LLM_TRAFFIC, Entity, Histogram
from gpumon.llm.kinds import BY_NAME, KINDS
from gpumon.llm.normal import HISTOGRAMS, NormalForm

PAGES = Path(__file__).with_name("pages")

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
LIKE_VLLM: dict[str, float] = {
    "requests_running": 3,
    "requests_waiting": 2,
    "prompt_tokens_total": 12345,
    "generated_tokens_total": 6789,
}
# (count, sum) of the histograms that all who follow vLLM have.
TIMES_LIKE_VLLM: dict[str, tuple[float, float]] = {
    "time_to_first_token_seconds": (4, 30.26),
    "request_duration_seconds": (4, 43.9),
}

# Page, the kind that reads it, model, all values and all histograms as (count, sum).
READ: tuple[tuple[str, str, str, dict[str, float], dict[str, tuple[float, float]]], ...] = (
    (
        "vllm-0.11",  # two engines
        "vllm",
        LLAMA,
        {name: 2 * value for name, value in LIKE_VLLM.items()}
        | {"cached_prompt_tokens_total": 690, "kv_cache_usage_ratio": 0.5}
        | {"requests_ok_total": 84, "requests_cancelled_total": 6, "requests_error_total": 0},
        {name: (2 * count, 2 * total) for name, (count, total) in TIMES_LIKE_VLLM.items()}
        | {"inter_token_latency_seconds": (12, 0.24), "time_per_output_token_seconds": (6, 0.16)}
        | {"request_queue_seconds": (4, 1.0)},
    ),
    (
        "vllm-0.8",
        "vllm",
        LLAMA,
        LIKE_VLLM | {"kv_cache_usage_ratio": 0.125, "requests_ok_total": 42, "requests_cancelled_total": 3},
        TIMES_LIKE_VLLM | {"inter_token_latency_seconds": (6, 0.12)},
    ),
    (
        "vllm-0.10",  # old and new names at once
        "vllm",
        LLAMA,
        LIKE_VLLM | {"kv_cache_usage_ratio": 0.125},
        TIMES_LIKE_VLLM | {"inter_token_latency_seconds": (6, 0.12)},
    ),
    (
        "sglang-0.5",  # two ranks that tell of the same requests
        "sglang",
        "Qwen/Qwen3-8B",
        {"requests_running": 4, "requests_waiting": 1, "kv_cache_usage_ratio": 0.75}
        | {"prompt_tokens_total": 5000, "generated_tokens_total": 2000, "cached_prompt_tokens_total": 750}
        | {"requests_ok_total": 50, "requests_cancelled_total": 2},
        {"time_to_first_token_seconds": (2, 0.65), "inter_token_latency_seconds": (2, 0.035)}
        | {"request_duration_seconds": (2, 50.5), "request_queue_seconds": (1, 0.05)},
    ),
    (
        "llama.cpp-b10488",
        "llama.cpp",
        "",
        {"requests_running": 1, "requests_waiting": 5, "prompt_tokens_total": 1000, "generated_tokens_total": 400}
        | {"prompt_seconds_total": 2.5, "generation_seconds_total": 8},
        {},
    ),
    (
        "llama.cpp-b11434",  # recorded
        "llama.cpp",
        "",
        {"requests_running": 0, "requests_waiting": 0, "prompt_tokens_total": 38, "cached_prompt_tokens_total": 18}
        | {"generated_tokens_total": 80, "prompt_seconds_total": 0.126912, "generation_seconds_total": 0.397508},
        {},
    ),
    (
        "tgi-3.3",
        "tgi",
        "",
        {"requests_running": 6, "requests_waiting": 7, "prompt_tokens_total": 120, "generated_tokens_total": 420}
        | {"requests_ok_total": 30, "requests_error_total": 1},
        {"request_duration_seconds": (2, 4.0), "request_queue_seconds": (2, 0.03)}
        | {"time_per_output_token_seconds": (2, 0.06)},
    ),
    (
        "triton-25.06",
        "triton",
        "ensemble",
        {"requests_running": 5, "requests_waiting": 2, "kv_cache_usage_ratio": 0.25}
        | {"requests_ok_total": 90, "requests_error_total": 4},
        {"time_to_first_token_seconds": (3, 9.35)},
    ),
    (
        "trtllm-1.2",
        "trtllm",
        "llama",
        LIKE_VLLM
        | {"cached_prompt_tokens_total": 345, "kv_cache_usage_ratio": 0.4}
        | {"requests_ok_total": 42, "requests_error_total": 1},
        TIMES_LIKE_VLLM | {"time_per_output_token_seconds": (2, 0.05), "request_queue_seconds": (2, 0.5)},
    ),
    (
        "nim-1.8",
        "nim",
        "meta/llama-3.1-8b-instruct",
        LIKE_VLLM | {"kv_cache_usage_ratio": 0.33, "requests_ok_total": 12, "requests_cancelled_total": 1},
        TIMES_LIKE_VLLM | {"inter_token_latency_seconds": (3, 0.06)},
    ),
    (
        "nim-1.14",
        "nim",
        LLAMA,
        LIKE_VLLM | {"kv_cache_usage_ratio": 0.33, "requests_ok_total": 12},
        TIMES_LIKE_VLLM,
    ),
    (
        "lmdeploy-0.10",
        "lmdeploy",
        "internlm",
        LIKE_VLLM | {"cached_prompt_tokens_total": 345, "kv_cache_usage_ratio": 0.2, "requests_ok_total": 42},
        TIMES_LIKE_VLLM
        | {"time_per_output_token_seconds": (2, 0.05), "inter_token_latency_seconds": (1, 0.02)}
        | {"request_queue_seconds": (2, 0.5)},
    ),
    (
        "ollama-unreleased",
        "ollama",
        "llama3.2:1b",
        {"prompt_tokens_total": 111, "generated_tokens_total": 222},
        {},
    ),
)


def page(name: str) -> bytes:
    """Give a page that is kept beside the tests."""
    return (PAGES / f"{name}.prom").read_bytes()


def traffic(name: str, kind: str, model: str) -> Entity:
    """Read a page and give the entity of one model."""
    found = NormalForm(BY_NAME[kind]).read(page(name), "127.0.0.1:8000")
    (entity,) = (entity for entity in found if entity.label("model") == model)
    return entity


@pytest.mark.parametrize(("name", "kind", "model", "values", "times"), READ, ids=[row[0] for row in READ])
def test_a_page_is_read_into_the_normal_form(
    name: str, kind: str, model: str, values: dict[str, float], times: dict[str, tuple[float, float]]
) -> None:
    """All that the page has and nothing else; what a server does not measure is absent."""
    entity = traffic(name, kind, model)
    assert entity.labels == ("127.0.0.1:8000", kind, model, "server")
    read = {column.name: value for column, value in zip(LLM_TRAFFIC.columns, entity.values, strict=True)}
    assert {column: value for column, value in read.items() if value is not None} == pytest.approx(values)
    spread = {reading: entity.histograms[i] for reading, i in HISTOGRAMS.items() if reading != "time_to_first_token_ms"}
    for reading, histogram in spread.items():
        if reading in times:
            assert histogram is not None
            assert (histogram.count, histogram.sum) == pytest.approx(times[reading])
        else:
            assert histogram is None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_has_a_page_or_says_that_it_has_none(kind: object) -> None:
    """A new kind is one row and one page."""
    name = kind.name  # type: ignore[attr-defined]
    assert bool(list(PAGES.glob(f"{name}-*.prom"))) == bool(kind.pages)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_rows_name_readings_that_exist(kind: object) -> None:
    """Each row is of a column or a histogram of the traffic, and no reading has two rows."""
    readings = [row.reading for row in kind.metrics]  # type: ignore[attr-defined]
    assert set(readings) <= set(LLM_TRAFFIC.index) | set(HISTOGRAMS)
    assert len(readings) == len(set(readings))


def test_a_page_is_known_by_its_marks_as_one_kind_only() -> None:
    """But for NIM, whose newer pages are vLLM's, at a path of its own."""
    for file in sorted(PAGES.glob("*.prom")):
        own = file.name.rsplit("-", 1)[0]
        lines = file.read_text().splitlines()
        marked = [kind.name for kind in KINDS if any(line.startswith(kind.marks) for line in lines if kind.marks)]
        assert own in marked
        assert set(marked) - {"nim"} <= {own, "vllm"}


def test_a_servers_buckets_are_kept() -> None:
    """Its own bounds and counts, in seconds, and the same in milliseconds under the older name."""
    entity = traffic("vllm-0.8", "vllm", LLAMA)
    seconds = entity.histograms[HISTOGRAMS["time_to_first_token_seconds"]]
    milliseconds = entity.histograms[HISTOGRAMS["time_to_first_token_ms"]]
    assert seconds is not None
    assert milliseconds is not None
    assert seconds.bounds[-2:] == (640.0, 2560.0)
    assert {bound: count for bound, count in zip(seconds.bounds, seconds.counts, strict=False) if count} == {
        0.04: 2,
        0.25: 1,
        40.0: 1,
    }
    assert milliseconds == Histogram(tuple(1000 * bound for bound in seconds.bounds), seconds.counts, 30260.0)


def test_milliseconds_become_seconds() -> None:
    """Triton gives its first response in milliseconds."""
    seconds = traffic("triton-25.06", "triton", "ensemble").histograms[HISTOGRAMS["time_to_first_token_seconds"]]
    assert seconds is not None
    assert seconds.bounds == (0.1, 0.5, 2.0, 5.0)
    assert seconds.counts == (1, 1, 0, 0, 1)


def test_a_page_without_a_models_name_is_the_only_models() -> None:
    """The name comes from the server's list."""
    (entity,) = NormalForm(BY_NAME["tgi"]).read(page("tgi-3.3"), "s", "bigscience/bloom")
    assert entity.label("model") == "bigscience/bloom"


def test_a_histogram_that_contradicts_itself_is_absent() -> None:
    """Buckets that shrink (processes that answer in turn) or lack their end are no reading."""
    form = NormalForm(BY_NAME["vllm"])
    bucket = 'vllm:time_to_first_token_seconds_bucket{{le="{}",model_name="m"}} {}\n'
    total = 'vllm:time_to_first_token_seconds_sum{model_name="m"} 1.0\n'
    for buckets in ((("0.1", 5), ("1.0", 4), ("+Inf", 6)), (("0.1", 5), ("1.0", 6)), ()):
        text = "".join(bucket.format(*pair) for pair in buckets) + total
        (entity,) = form.read(text.encode(), "s")
        assert entity.histograms[HISTOGRAMS["time_to_first_token_seconds"]] is None
