"""What is known of the model servers of the node: servers, models, tokens, speed and what a token costs."""

from __future__ import annotations

from gpumon.catalog.model import EntityKind, Form, Label, Otel, Reading, Since

SERVER = Label(
    "server",
    "Address of the server, as in 127.0.0.1:11434.",
    otel="server.address",
    otel_form=Form(r"\[?(.+?)\]?:([0-9]{1,5})", (("server.address", str), ("server.port", int))),
)
SERVER_KIND = Label("kind", "Kind of server, as in ollama or vllm.", otel="gen_ai.provider.name")
MODEL = Label(
    "model",
    'Name of the model as its server lists it; "other" beyond `llm.model_limit`.',
    otel="gen_ai.request.model",
)
BY = Label(
    "source",
    'How it was measured: "proxy", "server" (its own metrics), "runner" (those of its child) '
    'or "slots" (an estimate that misses short requests).',
    counted_here=("proxy", "slots"),
)

LLM_SERVER = EntityKind(
    "llm_server",
    "A model server. Present while it is watched.",
    prefix="llm_server",
    labels=(SERVER, SERVER_KIND),
    readings=(
        Reading(name="up", help="1 while the server answers, 0 while it does not."),
        Reading(name="poll_duration_seconds", help="Time the last look at the server took, all its answers together."),
        Reading(name="models_loaded", help="Models the server holds in memory; absent where it does not say."),
    ),
)

LLM_SERVER_INFO = EntityKind(
    "llm_server_info",
    "What a model server is.",
    prefix="llm_server",
    labels=(
        SERVER,
        SERVER_KIND,
        Label("version", "Version as the server gives it, empty where it does not."),
        Label("found_by", '"settings" or "process".'),
    ),
    readings=(Reading(name="info", help="Always 1; what the server is, in labels."),),
)

LLM_WAY = EntityKind(
    "llm_way",
    "A way by which a model server is looked at, and what stands in it.",
    prefix="llm_way",
    labels=(
        SERVER,
        SERVER_KIND,
        Label("way", "What is asked, as in /api/ps, /metrics or runner /slots."),
        Label("reason", "Why it gives nothing; empty while it does."),
    ),
    readings=(Reading(name="up", help="1 while this way gives readings, 0 while it does not."),),
)

LLM_MODEL = EntityKind(
    "llm_model",
    "A model that a server holds in memory.",
    prefix="llm_model",
    labels=(SERVER, SERVER_KIND, MODEL),
    readings=(
        Reading(name="memory_bytes", help="Memory the model takes, on GPUs and elsewhere, as the server reckons it."),
        Reading(name="gpu_memory_bytes", help="Part of it that is on GPUs."),
        Reading(name="gpu_ratio", help="Share of the model's memory that is on GPUs; below 1 the CPU works as well."),
        Reading(name="context_tokens", help="Longest prompt and reply together that the model was loaded for."),
        Reading(
            name="expiry_timestamp_seconds",
            help="Unix time at which the server will unload the model if nobody asks it anything.",
        ),
    ),
)

LLM_MODEL_INFO = EntityKind(
    "llm_model_info",
    "What a model in memory is.",
    prefix="llm_model",
    labels=(
        SERVER,
        SERVER_KIND,
        MODEL,
        Label("family", "Architecture, as in llama."),
        Label("parameter_size", "Parameters, as in 8.0B."),
        Label("quantization", "Form of the weights, as in Q4_K_M."),
        Label("digest", "First 12 digits of the digest of the model."),
    ),
    readings=(Reading(name="info", help="Always 1; what the model is, in labels."),),
)

LLM_MODEL_LOADS = EntityKind(
    "llm_model_loads",
    "Coming and going of models. Present for every model seen in memory since gpumon started.",
    prefix="llm_model",
    labels=(SERVER, SERVER_KIND, MODEL),
    readings=(
        Reading(
            name="loads_total",
            help="Times the model was seen newly in memory since gpumon started; one that was there before counts none.",
        ),
        Reading(name="unloads_total", help="Times the model was seen to have left memory since gpumon started."),
    ),
)

# Seconds to the first token: OpenTelemetry's bounds, and on to what a laptop takes for a long prompt.
FIRST_TOKEN_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 320.0),
)
# Seconds per token: OpenTelemetry's bounds, with 2.5 and 5 ms for an H200 and up to 10 s for a model that swaps.
PER_TOKEN_BOUNDS = (
    *(0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
    *(5.0, 10.0),
)
# Seconds of a request: OpenTelemetry's bounds, doubling, and on to 22 minutes.
DURATION_BOUNDS = tuple(0.01 * 2**i for i in range(18))
# Tokens per second of one reply: a model on a laptop's CPU writes 1, a small one on an H200 some hundreds.
SPEED_BOUNDS = (
    *(0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0),
    *(750.0, 1000.0),
)

OUTCOMES = ("ok", "error", "cancelled")

LLM_TRAFFIC = EntityKind(
    "llm_traffic",
    "What a model does. A token is counted by one source only, the best that a server has: its sum over sources is true.",
    prefix="llm",
    labels=(SERVER, SERVER_KIND, MODEL, BY),
    readings=(
        Reading(name="requests_running", help="Requests being worked on."),
        Reading(name="requests_waiting", help="Requests waiting for their turn."),
        Reading(name="kv_cache_usage_ratio", help="Share of the memory for contexts that is in use."),
        Reading(
            name="prompt_tokens_total",
            help="Tokens read, with those that were in a cache; older llama.cpp servers count without them.",
            since=Since.SOURCE,
        ),
        Reading(
            name="cached_prompt_tokens_total",
            help="Tokens of prompts that were in a cache and cost no work.",
            since=Since.SOURCE,
        ),
        Reading(name="generated_tokens_total", help="Tokens written.", since=Since.SOURCE),
        Reading(name="prompt_seconds_total", help="Time spent on reading prompts.", since=Since.SOURCE),
        Reading(name="generation_seconds_total", help="Time spent on writing replies.", since=Since.SOURCE),
        Reading(
            name="requests_total",
            help="Requests that ended.",
            labels=("outcome",),
            values={(outcome,): () for outcome in OUTCOMES},
            since=Since.SOURCE,
        ),
        Reading(name="session_count", help="Requests that ended and are in llm_sessions, since gpumon started."),
    ),
    histograms=(
        Reading(
            name="tokens_per_second",
            help="Speed of a reply: tokens after the first by the time after the first.",
            buckets=SPEED_BOUNDS,
            since=Since.SOURCE,
        ),
        Reading(
            name="time_to_first_token_ms",
            help="Time from a request's arrival to the first token of its reply, in milliseconds.",
            buckets=tuple(1000 * bound for bound in FIRST_TOKEN_BOUNDS),
            since=Since.SOURCE,
        ),
        Reading(
            name="time_to_first_token_seconds",
            help="Time from a request's arrival to the first token of its reply.",
            buckets=FIRST_TOKEN_BOUNDS,
            since=Since.SOURCE,
            otel=Otel("gen_ai.server.time_to_first_token", "s"),
        ),
        Reading(
            name="time_per_output_token_seconds",
            help="Time of a reply after its first token, per token after the first; of each reply its mean.",
            buckets=PER_TOKEN_BOUNDS,
            since=Since.SOURCE,
            otel=Otel("gen_ai.server.time_per_output_token", "s"),
        ),
        Reading(
            name="inter_token_latency_seconds",
            help="Time between two tokens of a reply, each pair for itself.",
            since=Since.SOURCE,
        ),
        Reading(
            name="request_duration_seconds",
            help="Time from a request's arrival to the end of its reply.",
            buckets=DURATION_BOUNDS,
            since=Since.SOURCE,
            otel=Otel("gen_ai.server.request.duration", "s"),
        ),
        Reading(
            name="request_queue_seconds",
            help="Time a request waited for its turn.",
            buckets=DURATION_BOUNDS,
            since=Since.SOURCE,
        ),
    ),
)

LLM_ENERGY = EntityKind(
    "llm_energy",
    "What a model costs: the energy of its server's processes on all GPUs, above what these use idle.",
    prefix="llm",
    labels=(SERVER, SERVER_KIND, MODEL),
    readings=(
        Reading(
            name="energy_joules_total",
            help="Energy the GPUs used for the model above their idle power, since gpumon started.",
        ),
        Reading(
            name="joules_per_token",
            help="Energy per token written, over the last minute or so; absent while nothing is written.",
        ),
        Reading(
            name="joules_per_token_error_ratio",
            help="Largest error of joules_per_token that the sharing of GPUs and the moments of counting allow, "
            "as a share of it.",
        ),
    ),
)

LLM_RECORDS = EntityKind(
    "llm_records",
    "Requests that gpumon measured itself.",
    prefix="llm",
    readings=(
        Reading(name="sessions_dropped_total", help="Requests that were counted but not kept as a row, since start."),
        Reading(name="models_renamed_total", help='Requests counted under the model "other", since start.'),
    ),
)

LLM_KINDS = (
    *(LLM_SERVER, LLM_SERVER_INFO, LLM_WAY, LLM_MODEL, LLM_MODEL_INFO, LLM_MODEL_LOADS),
    *(LLM_TRAFFIC, LLM_ENERGY, LLM_RECORDS),
)
