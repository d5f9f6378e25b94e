"""Model servers: how fast they answer, how much they do, what waits, what is in memory, what a token costs."""

from __future__ import annotations

from generate.common import CLUSTER, DOWN, LOADED, MODEL, NODES, STARTED
from generate.rows import BAD, FULL, GOOD, PLAIN, Column, Dashboard, Panel, Query, Row, Steps

TOKENS = "suffix:tok/s"
# What people feel: half a second to the first word is at once, five are a wait.
WAIT: Steps = ((None, "green"), (1, "yellow"), (5, "red"))
# People read about 10 words a second at most.
PACE: Steps = ((None, "green"), (0.1, "yellow"), (0.5, "red"))


def quantile(share: float, histogram: str, by: str = "") -> str:
    """Give the expression for a quantile of a histogram, over all series or by a label."""
    return f"histogram_quantile({share}, sum by (le{by}) (rate(<llm_traffic.{histogram}:bucket>[$__rate_interval])))"


def spread(histogram: str) -> tuple[Query, ...]:
    """Give the queries for the middle and the slow end of a histogram, by model."""
    return tuple(
        Query(expr=quantile(share, histogram, ", model"), legend=f"{{{{model}}}} p{share * 100:g}")
        for share in (0.5, 0.95, 0.99)
    )


NOW = Row(
    "Now",
    (
        Panel(
            form="stat",
            title="Tokens written",
            description="Tokens that models write in a second, all together.",
            queries=(Query(expr="sum(rate(<llm_traffic.generated_tokens_total>[$__rate_interval]))"),),
            unit=TOKENS,
            more="gpu",
            decimals=0,
            width=3,
            height=5,
            needs="server_metrics",
        ),
        Panel(
            form="stat",
            title="Requests",
            description="Requests that end in a second.",
            queries=(Query(expr="sum(rate(<llm_traffic.requests_total>[$__rate_interval]))"),),
            unit="reqps",
            more="workloads",
            width=3,
            height=5,
            needs="server_metrics",
        ),
        Panel(
            form="stat",
            title="First token, p95",
            description="Time to the first token that 95 of 100 requests stay below.",
            queries=(Query(expr=quantile(0.95, "time_to_first_token_seconds")),),
            unit="s",
            more="gpu",
            steps=WAIT,
            width=3,
            height=5,
            needs="server_metrics",
        ),
        Panel(
            form="stat",
            title="Per token, p95",
            description="Time per token after the first that 95 of 100 requests stay below.",
            queries=(Query(expr=quantile(0.95, "time_per_output_token_seconds")),),
            unit="s",
            more="gpu",
            steps=PACE,
            width=3,
            height=5,
            needs="server_metrics",
        ),
        Panel(
            form="stat",
            title="Running and waiting",
            description="Requests being worked on, and requests that wait for their turn.",
            queries=(
                Query(expr="sum(<llm_traffic.requests_running>)", legend="running"),
                Query(expr="sum(<llm_traffic.requests_waiting>)", legend="waiting"),
            ),
            unit="short",
            more="workloads",
            width=3,
            height=5,
            needs="server_metrics",
        ),
        Panel(
            form="stat",
            title="Memory for contexts",
            description="Share of the memory for contexts (KV cache) that is in use, the fullest; when it is full, requests wait.",
            queries=(Query(expr="max(<llm_traffic.kv_cache_usage_ratio>)"),),
            unit="percentunit",
            more="gpu",
            steps=FULL,
            maximum=1,
            width=3,
            height=5,
            needs="server_metrics",
        ),
        Panel(
            form="stat",
            title="Servers down",
            description="Model servers that do not answer.",
            queries=(Query(expr="sum(1 - <llm_server.up>)"),),
            unit="short",
            more="gpumon",
            steps=BAD,
            width=3,
            height=5,
            needs="model_server",
        ),
        Panel(
            form="stat",
            title="Energy per token",
            description="Energy per token written, above what GPUs use idle, mean of the models.",
            queries=(Query(expr="avg(<llm_energy.joules_per_token>)"),),
            unit="joule",
            more="gpu",
            width=3,
            height=5,
            needs="model_energy",
        ),
    ),
)

LATENCY = Row(
    "How fast",
    (
        Panel(
            title="Time to the first token",
            description="From a request's arrival to the first token: the middle, and what 95 and 99 of 100 requests stay below.",
            queries=spread("time_to_first_token_seconds"),
            unit="s",
            more="gpu",
            steps=WAIT,
            needs="server_metrics",
        ),
        Panel(
            title="Time per token",
            description="Time of a reply after its first token, per token: the middle, and the slow end.",
            queries=spread("time_per_output_token_seconds"),
            unit="s",
            more="gpu",
            steps=PACE,
            needs="server_metrics",
        ),
        Panel(
            title="Time of a request",
            description="From a request's arrival to the end of its reply.",
            queries=spread("request_duration_seconds"),
            unit="s",
            more="gpu",
            needs="server_metrics",
        ),
        Panel(
            title="Time in the queue",
            description="Time a request waited for its turn.",
            queries=spread("request_queue_seconds"),
            unit="s",
            more="workloads",
            needs="server_metrics",
        ),
        Panel(
            title="Speed of replies",
            description="Tokens per second of one reply, as the proxy measures it: the middle, and what only 5 of 100 stay below.",
            queries=(
                Query(expr=quantile(0.5, "tokens_per_second", ", model"), legend="{{model}} p50"),
                Query(expr=quantile(0.05, "tokens_per_second", ", model"), legend="{{model}} p5"),
            ),
            unit=TOKENS,
            more="gpu",
            needs="proxy",
        ),
        Panel(
            title="Time between two tokens",
            description="Every gap between two tokens for itself: stalls that a mean hides.",
            queries=spread("inter_token_latency_seconds"),
            unit="s",
            more="gpu",
            steps=PACE,
            needs="server_metrics",
        ),
    ),
)

TRAFFIC = Row(
    "How much",
    (
        Panel(
            title="Tokens written",
            description="Tokens that each model writes in a second.",
            queries=(
                Query(
                    expr="sum by (model) (rate(<llm_traffic.generated_tokens_total>[$__rate_interval]))",
                    legend="{{model}}",
                ),
            ),
            unit=TOKENS,
            more="workloads",
            stacked=True,
            needs="server_metrics",
        ),
        Panel(
            title="Tokens read",
            description="Tokens of prompts in a second, and those of them that were in a cache and cost no work.",
            queries=(
                Query(
                    expr="sum by (model) (rate(<llm_traffic.prompt_tokens_total>[$__rate_interval]))",
                    legend="{{model}}",
                ),
                Query(
                    expr="sum by (model) (rate(<llm_traffic.cached_prompt_tokens_total>[$__rate_interval]))",
                    legend="{{model}} cached",
                ),
            ),
            unit=TOKENS,
            more="workloads",
            needs="server_metrics",
        ),
        Panel(
            title="Requests, by outcome",
            description="Requests that end in a second, by how they ended.",
            queries=(
                Query(
                    expr="sum by (outcome) (rate(<llm_traffic.requests_total>[$__rate_interval]))",
                    legend="{{outcome}}",
                ),
            ),
            unit="reqps",
            more="workloads",
            stacked=True,
            needs="server_metrics",
        ),
        Panel(
            title="Running and waiting",
            description="Requests being worked on, and requests that wait for their turn.",
            queries=(
                Query(expr="sum by (model) (<llm_traffic.requests_running>)", legend="{{model}} running"),
                Query(expr="sum by (model) (<llm_traffic.requests_waiting>)", legend="{{model}} waiting"),
            ),
            unit="short",
            more="gpu",
            needs="server_metrics",
        ),
        Panel(
            title="Memory for contexts",
            description="Share of the memory for contexts (KV cache) that is in use.",
            queries=(
                Query(
                    expr="max by (model, server) (<llm_traffic.kv_cache_usage_ratio>)", legend="{{model}} on {{server}}"
                ),
            ),
            unit="percentunit",
            more="gpu",
            steps=FULL,
            maximum=1,
            needs="server_metrics",
        ),
        Panel(
            title="Energy per token",
            description="Energy per token written, above what GPUs use idle.",
            queries=(
                Query(expr="avg by (model, server) (<llm_energy.joules_per_token>)", legend="{{model}} on {{server}}"),
            ),
            unit="joule",
            more="gpu",
            needs="model_energy",
        ),
    ),
)

RESIDENCY = Row(
    "What is in memory",
    (
        Panel(
            title="Memory of models",
            description="Memory that models take, as their server reckons it. A model that leaves memory ends here.",
            queries=(
                Query(
                    expr="sum by (instance, server, model) (<llm_model.memory_bytes>)", legend="{{model}} on {{server}}"
                ),
            ),
            unit="bytes",
            more="gpu",
            stacked=True,
            needs="ollama",
        ),
        Panel(
            title="Memory on GPUs",
            description="Share of each model's memory that is on GPUs; below 100 % the CPU works as well, which is slow.",
            queries=(Query(expr="min by (server, model) (<llm_model.gpu_ratio>)", legend="{{model}} on {{server}}"),),
            unit="percentunit",
            more="gpu",
            maximum=1,
            needs="ollama",
        ),
        Panel(
            title="Loads and unloads",
            description="Models that came into memory and left it in each interval: many are a server that swaps.",
            queries=(
                Query(
                    expr="sum by (model) (increase(<llm_model_loads.loads_total>[$__rate_interval]))",
                    legend="{{model}} loaded",
                ),
                Query(
                    expr="-sum by (model) (increase(<llm_model_loads.unloads_total>[$__rate_interval]))",
                    legend="{{model}} unloaded",
                ),
            ),
            unit="short",
            more="workloads",
            minimum=None,
            bars=True,
            needs="ollama",
        ),
        Panel(
            form="table",
            title="Models in memory",
            description="What is in memory now; below 100 % on GPUs the CPU works as well, which is slow.",
            queries=(
                Query(
                    expr="max by (instance, server, model, family, parameter_size, quantization) (<llm_model_info.info>)"
                ),
                Query(expr="max by (instance, server, model) (<llm_model.memory_bytes>)", column="Memory"),
                Query(expr="max by (instance, server, model) (<llm_model.gpu_ratio>)", column="On GPUs"),
                Query(expr="max by (instance, server, model) (<llm_model.context_tokens>)", column="Context"),
                Query(
                    expr="max by (instance, server, model) (<llm_model.expiry_timestamp_seconds>) - time()",
                    column="Unloaded in",
                ),
            ),
            unit="none",
            more="gpu",
            width=24,
            height=6,
            labels=(
                ("instance", "Node"),
                ("server", "Server"),
                ("model", "Model"),
                ("family", "Family"),
                ("parameter_size", "Size"),
                ("quantization", "Weights"),
            ),
            columns=(
                Column(name="Memory", unit="bytes"),
                Column(
                    name="On GPUs",
                    unit="percentunit",
                    bar=True,
                    maximum=1,
                    steps=((None, "red"), (0.99, "green")),
                ),
                *(
                    Column(name=name, width=width)
                    for name, width in (("Node", 90), ("Family", 90), ("Size", 70), ("Weights", 100))
                ),
                Column(name="Context", unit="short", width=90),
                Column(name="Unloaded in", unit="s", width=110),
            ),
            sort="Memory",
            needs="ollama",
        ),
        Panel(
            form="table",
            title="Servers",
            description="Model servers, their versions, how many models they hold, and how long they take to say so.",
            queries=(
                Query(expr="max by (instance, server, kind, version, found_by) (<llm_server_info.info>)"),
                Query(expr="max by (instance, server, kind) (<llm_server.up>)", column="Answers"),
                Query(
                    expr="max by (instance, server, kind) (<llm_server.models_loaded>)", column="Models", needs="ollama"
                ),
                Query(expr="max by (instance, server, kind) (<llm_server.poll_duration_seconds>)", column="Asked in"),
            ),
            unit="none",
            more="gpumon",
            width=12,
            labels=(
                ("instance", "Node"),
                ("server", "Server"),
                ("kind", "Kind"),
                ("version", "Version"),
                ("found_by", "Found by"),
            ),
            columns=(
                *(Column(name=name, width=90) for name in ("Node", "Kind", "Version", "Found by")),
                Column(name="Answers", width=90, steps=GOOD),
                Column(name="Models", width=80),
                Column(name="Asked in", unit="s", width=90),
            ),
            needs="model_server",
        ),
        Panel(
            form="table",
            title="How servers are looked at",
            description="Every way a server is asked, and why one gives nothing.",
            queries=(Query(expr="max by (instance, server, kind, way, reason) (<llm_way.up>)", column="Works"),),
            unit="none",
            more="gpumon",
            width=12,
            steps=GOOD,
            labels=(("instance", "Node"), ("server", "Server"), ("kind", "Kind"), ("way", "Way"), ("reason", "Reason")),
            columns=(
                *(Column(name=name, width=90) for name in ("Node", "Kind")),
                Column(name="Works", width=80, steps=GOOD),
            ),
            needs="model_server",
        ),
    ),
)

COST = Row(
    "What it costs",
    (
        Panel(
            title="Power of models",
            description="Power of each model's server above what its GPUs draw idle.",
            queries=(
                Query(
                    expr="sum by (model) (rate(<llm_energy.energy_joules_total>[$__rate_interval]))",
                    legend="{{model}}",
                ),
            ),
            unit="watt",
            more="gpu",
            stacked=True,
            needs="model_energy",
        ),
        Panel(
            title="How sure the energy per token is",
            description="Largest error that the sharing of GPUs allows, as a share of the energy per token.",
            queries=(
                Query(
                    expr="max by (model, server) (<llm_energy.joules_per_token_error_ratio>)",
                    legend="{{model}} on {{server}}",
                ),
            ),
            unit="percentunit",
            more="gpumon",
            steps=PLAIN,
            needs="model_energy",
        ),
        Panel(
            title="The proxy's connections",
            description="Connections of clients that are open, and connections refused or without a server in each interval.",
            queries=(
                Query(expr="sum by (server) (<llm_proxy.open_connections>)", legend="{{server}} open"),
                Query(
                    expr="sum by (server) (increase(<llm_proxy.refused_total>[$__rate_interval]))",
                    legend="{{server}} refused",
                ),
                Query(
                    expr="sum by (server) (increase(<llm_proxy.unreachable_total>[$__rate_interval]))",
                    legend="{{server}} unreachable",
                ),
                Query(
                    expr="sum by (server) (increase(<llm_proxy.unreadable_total>[$__rate_interval]))",
                    legend="{{server}} unmeasured",
                ),
            ),
            unit="short",
            more="gpumon",
            needs="proxy",
        ),
    ),
)

MODELS = Dashboard(
    key="models",
    title="gpumon / Models",
    description="How fast do models answer, how much do they do, what is in memory, and what does a token cost?",
    variables=(CLUSTER, NODES, MODEL),
    rows=(NOW, LATENCY, TRAFFIC, RESIDENCY, COST),
    annotations=(DOWN, LOADED, STARTED),
)
