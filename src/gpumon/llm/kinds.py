"""The kinds of model servers: one row each says how it is recognised, what it is asked, and what its metrics mean.

Names, units and traps are those of the servers' documentation and source; `tests/llm/pages` has a page per kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

Where = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Metric:
    """What one reading of LLM_TRAFFIC is on a server's page.

    `reading` is a column or a histogram of LLM_TRAFFIC. `names` are its names on the page, without `_bucket`, `_sum`
    and `_count` where it is a histogram; of several the first that is there is meant, because a server that renames
    a metric shows both for a while. Names joined by + are added, as far as they are there.
    Only samples that have one of the values for each label of `where` count. Those of several engines are summed,
    or, if `highest`, the largest is taken. `over` divides by the samples of the same name that it selects.
    `scale` makes base units of what the server gives.
    """

    reading: str
    names: tuple[str, ...]
    where: Where = ()
    scale: float = 1.0
    highest: bool = False
    over: Where = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """A path that answers JSON, and where in it the thing is: keys joined by dots, `*` for all members of a list."""

    path: str
    pick: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of server.

    `processes` are names of its processes, or words of their command lines, for people and for the rules of `process`.
    `pages` are the paths where its metrics may be, the likeliest first; a page is this kind's if a line of it begins
    with one of `marks`. `known_by` is what only this kind answers where there is no page.
    `model_label` names the model on the page; without one the page is of the only model that `models` lists.
    Samples of `ranks` other than "0" are the same requests seen from another rank of one engine, and not counted.
    `turn_on` says how to make it show more. `unverified` says what of the row was never held against a real server.
    """

    name: str
    title: str
    processes: tuple[str, ...] = ()
    pages: tuple[str, ...] = ("/metrics",)
    marks: tuple[str, ...] = ()
    known_by: Ask | None = None
    version: Ask | None = None
    models: Ask | None = Ask("/v1/models", "data.*.id")
    model_label: str | None = None
    ranks: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    turn_on: str = ""
    unverified: str = ""


def _same(prefix: str, names: Mapping[str, str]) -> Iterator[Metric]:
    """Give rows for metrics that need nothing but a name; several names are separated by spaces."""
    for reading, some in names.items():
        yield Metric(reading, tuple(prefix + name for name in some.split()))


def _finished(name: str, label: str) -> tuple[Metric, ...]:
    return (
        Metric("requests_ok_total", (name,), ((label, ("stop", "length", "tool_calls")),)),
        Metric("requests_error_total", (name,), ((label, ("error",)),)),
        Metric("requests_cancelled_total", (name,), ((label, ("abort",)),)),
    )


# Names that servers have taken over from vLLM.
_VLLM_LIKE = {
    "requests_running": "num_requests_running",
    "requests_waiting": "num_requests_waiting",
    "prompt_tokens_total": "prompt_tokens_total",
    "generated_tokens_total": "generation_tokens_total",
    "time_to_first_token_seconds": "time_to_first_token_seconds",
    "request_duration_seconds": "e2e_request_latency_seconds",
}

VLLM = Kind(
    name="vllm",
    title="vLLM",
    processes=("vllm", "vllm.entrypoints"),
    marks=("vllm:",),
    version=Ask("/version", "version"),
    model_label="model_name",
    metrics=(
        *_same("vllm:", _VLLM_LIKE),
        *_same(
            "vllm:",
            {
                "cached_prompt_tokens_total": "prompt_tokens_cached_total",
                # Renamed when it was found to be the time between tokens, not a request's mean.
                "inter_token_latency_seconds": "inter_token_latency_seconds time_per_output_token_seconds",
                "time_per_output_token_seconds": "request_time_per_output_token_seconds",
                "request_queue_seconds": "request_queue_time_seconds",
            },
        ),
        Metric("kv_cache_usage_ratio", ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"), highest=True),
        *_finished("vllm:request_success_total", "finished_reason"),
    ),
    turn_on="its metrics are on unless it is started with --disable-log-stats",
    unverified="page written from the documented names",
)

SGLANG = Kind(
    name="sglang",
    title="SGLang",
    processes=("sglang", "sglang.launch_server"),
    marks=("sglang:",),
    known_by=Ask("/get_model_info", "model_path"),
    model_label="model_name",
    ranks=("tp_rank", "pp_rank", "moe_ep_rank"),
    metrics=(
        *_same(
            "sglang:",
            {
                "requests_running": "num_running_reqs",
                "requests_waiting": "num_queue_reqs",
                "prompt_tokens_total": "prompt_tokens_total",
                "cached_prompt_tokens_total": "cached_tokens_total",
                "generated_tokens_total": "generation_tokens_total",
                "requests_ok_total": "num_requests_total",
                "requests_cancelled_total": "num_aborted_requests_total",
                "inter_token_latency_seconds": "inter_token_latency_seconds",
                "request_duration_seconds": "e2e_request_latency_seconds",
                "request_queue_seconds": "queue_time_seconds",
            },
        ),
        # Of replies that were not streamed it is the whole duration.
        Metric(
            "time_to_first_token_seconds",
            ("sglang:time_to_first_token_seconds",),
            where=(("is_streaming", ("", "true", "True")),),
        ),
        Metric("kv_cache_usage_ratio", ("sglang:token_usage",), highest=True),
    ),
    turn_on="start it with --enable-metrics",
    unverified="page written from the documented names; whether num_requests_total has those that were aborted",
)

LLAMA_CPP = Kind(
    name="llama.cpp",
    title="llama.cpp server",
    processes=("llama-server", "llama_cpp.server"),
    marks=("llamacpp:",),
    known_by=Ask("/props", "default_generation_settings"),
    version=Ask("/props", "build_info"),
    metrics=tuple(
        # Its gauges of tokens per second are left out: they are reset by being looked at, or are lifetime means.
        _same(
            "llamacpp:",
            {
                "requests_running": "requests_processing",
                "requests_waiting": "requests_deferred",
                # Its counter leaves out what was in the cache; that is told by newer versions only (b11434 does).
                "prompt_tokens_total": "prompt_tokens_total+llamacpp:prompt_tokens_cached_total",
                "cached_prompt_tokens_total": "prompt_tokens_cached_total",
                "generated_tokens_total": "tokens_predicted_total",
                "prompt_seconds_total": "prompt_seconds_total",
                "generation_seconds_total": "tokens_predicted_seconds_total",
            },
        )
    ),
    turn_on="start it with --metrics, or LLAMA_ARG_ENDPOINT_METRICS=1 in its environment",
)

TGI = Kind(
    name="tgi",
    title="Text Generation Inference",
    processes=("text-generation-launcher", "text-generation-router"),
    marks=("tgi_",),
    known_by=Ask("/info", "model_id"),
    version=Ask("/info", "version"),
    models=Ask("/info", "model_id"),
    metrics=tuple(
        _same(
            "tgi_",
            {
                "requests_running": "batch_current_size",
                "requests_waiting": "queue_size",
                "prompt_tokens_total": "request_input_length_sum",
                "generated_tokens_total": "request_generated_tokens_sum",
                "requests_ok_total": "request_success",
                "requests_error_total": "request_failure",
                "time_per_output_token_seconds": "request_mean_time_per_token_duration",
                "request_duration_seconds": "request_duration",
                "request_queue_seconds": "request_queue_duration",
            },
        )
    ),
    turn_on="its metrics are always on; it measures no time to the first token",
    unverified="page written from the documented names",
)

TRITON = Kind(
    name="triton",
    title="Triton Inference Server",
    processes=("tritonserver",),
    marks=("nv_inference_", "nv_trt_llm_"),
    version=Ask("/v2", "version"),
    models=None,  # its metrics port answers metrics only
    model_label="model",
    metrics=(
        *_same(
            "nv_",
            {
                "requests_waiting": "inference_pending_request_count",
                "requests_ok_total": "inference_request_success",
                "requests_error_total": "inference_request_failure",
            },
        ),
        Metric("requests_running", ("nv_trt_llm_request_metrics",), (("request_type", ("active",)),)),
        Metric(
            "kv_cache_usage_ratio",
            ("nv_trt_llm_kv_cache_block_metrics",),
            (("kv_cache_block_type", ("used",)),),
            over=(("kv_cache_block_type", ("max",)),),
        ),
        Metric("time_to_first_token_seconds", ("nv_inference_first_response_histogram_ms",), scale=0.001),
    ),
    turn_on="for the time to the first token start it with --metrics-config histogram_latencies=true; "
    "it counts no tokens, so send requests through gpumon's proxy for those",
    unverified="page written from the documented names",
)

TRTLLM = Kind(
    name="trtllm",
    title="TensorRT-LLM (trtllm-serve)",
    processes=("trtllm-serve",),
    pages=("/prometheus/metrics",),  # its /metrics is JSON
    marks=("trtllm_",),
    version=Ask("/version", "version"),
    model_label="model_name",
    metrics=(
        *_same("trtllm_", _VLLM_LIKE),
        *_same(
            "trtllm_",
            {
                "cached_prompt_tokens_total": "prompt_cached_tokens_total",
                "time_per_output_token_seconds": "time_per_output_token_seconds",
                "request_queue_seconds": "request_queue_time_seconds",
                "requests_ok_total": "request_success_total",
                "requests_error_total": "request_error_total",
            },
        ),
        Metric("kv_cache_usage_ratio", ("trtllm_kv_cache_utilization",), highest=True),
    ),
    turn_on="set return_perf_metrics: true in its options",
    unverified="page written from the names in its source",
)

NIM = Kind(
    name="nim",
    title="NVIDIA NIM",
    processes=("nim", "nim_llm"),
    pages=("/v1/metrics", "/metrics"),
    marks=("num_request_max", "num_requests_running", "gpu_cache_usage_perc"),
    version=Ask("/v1/version", "release"),
    model_label="model_name",
    metrics=(
        *_same("", _VLLM_LIKE),
        # What it calls the time per output token is vLLM's old name for the time between tokens.
        *_same("", {"inter_token_latency_seconds": "time_per_output_token_seconds"}),
        Metric("kv_cache_usage_ratio", ("gpu_cache_usage_perc",), highest=True),
        *_finished("request_finish_total", "finished_reason"),
    ),
    turn_on="its metrics are always on, at /v1/metrics",
    unverified="page written from the documented names; newer ones show vLLM's own names and are read by those",
)

# A newer NIM shows vLLM's names at NIM's path.
NIM = replace(
    NIM,
    marks=(*NIM.marks, "vllm:"),
    metrics=tuple(
        replace(
            row,
            names=(*row.names, *(name for vllm in VLLM.metrics if vllm.reading == row.reading for name in vllm.names)),
        )
        for row in NIM.metrics
    ),
)

LMDEPLOY = Kind(
    name="lmdeploy",
    title="LMDeploy",
    processes=("lmdeploy",),
    marks=("lmdeploy:",),
    model_label="model_name",
    metrics=(
        # A version was seen that counts every generated token twice in its generation_tokens_total; nothing tells it.
        *_same("lmdeploy:", _VLLM_LIKE),
        *_same(
            "lmdeploy:",
            {
                "cached_prompt_tokens_total": "cached_tokens_total",
                "time_per_output_token_seconds": "time_per_output_token_seconds",
                "inter_token_latency_seconds": "iter_token_latency",
                "request_queue_seconds": "request_queue_time_seconds",
            },
        ),
        Metric("kv_cache_usage_ratio", ("lmdeploy:gpu_cache_usage_perc",), highest=True),
        *_finished("lmdeploy:request_success_total", "finished_reason"),
    ),
    turn_on="start it with --enable-metrics",
    unverified="page written from the names in its source",
)

LM_STUDIO = Kind(
    name="lmstudio",
    title="LM Studio",
    processes=("lms", "LM Studio"),
    pages=(),
    known_by=Ask("/api/v0/models", "data.*.state"),
    models=Ask("/api/v0/models", "data.*.id"),
    turn_on="it publishes no metrics: send requests through gpumon's proxy",
    unverified="written from its documentation",
)

OLLAMA = Kind(
    name="ollama",
    title="Ollama",
    processes=("ollama",),
    # No release has metrics; the names are those of the request for it that is furthest (OLLAMA_METRICS=1).
    marks=("ollama_",),
    known_by=Ask("/api/version", "version"),
    version=Ask("/api/version", "version"),
    models=Ask("/api/tags", "models.*.name"),
    model_label="model",
    metrics=(
        *_same(
            "ollama_",
            {
                "requests_waiting": "requests_queued",
                "prompt_tokens_total": "prompt_eval_total",
                "generated_tokens_total": "eval_total",
            },
        ),
    ),
    turn_on="set LLAMA_ARG_ENDPOINT_METRICS=1 in Ollama's environment for exact counts of tokens (0.30 and newer), "
    "or send requests through gpumon's proxy",
    unverified="metrics of its own, which no release has",
)

# In the order in which an unknown server is held against them: those with a name of their own first.
KINDS: tuple[Kind, ...] = (OLLAMA, VLLM, SGLANG, LLAMA_CPP, TGI, TRITON, TRTLLM, LMDEPLOY, LM_STUDIO, NIM)
BY_NAME = {kind.name: kind for kind in KINDS}


def kind_of(name: str) -> Kind | None:
    """Give the kind of that name."""
    return BY_NAME.get(name)
