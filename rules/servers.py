"""Alerts of model servers: down, slow, full, failing."""

from __future__ import annotations

from rules.model import Alert, Example, Group

SERVER = {"server": "127.0.0.1:8000", "kind": "vllm"}
MODEL = SERVER | {"model": "llama3", "source": "server"}


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in labels.items())


_SERVER, _MODEL = _labels(SERVER), _labels(MODEL)


def _counted(name: str, reading: str, summary: str, description: str, why: str) -> Alert:
    series = f'<llm_proxy.{reading} server="{SERVER["server"]}">'
    return Alert(
        name=name,
        severity="warning",
        expr=f"increase(<llm_proxy.{reading}>[5m]) > 0",
        summary=summary,
        description=description,
        why=why,
        example=Example(series={series: ("+0", "+2", "+0")}, labels={"server": SERVER["server"]}, value="10"),
    )


SERVERS = Group(
    "gpumon-model-servers",
    (
        Alert(
            name="model_server_down",
            severity="warning",
            expr="<llm_server.up> == 0",
            lasts="5m",
            summary="The model server {server} on {instance} does not answer",
            description="{kind} at {server} has given no answer for five minutes. It may be loading a model.",
            why="A large model takes minutes to load, and some servers answer nothing meanwhile.",
            example=Example(
                series={
                    f"<llm_server.up {_SERVER}>": (1, 0, 1),
                    '<llm_server.up server="127.0.0.1:11434",kind="ollama">': 1,
                },
                labels=SERVER,
            ),
        ),
        Alert(
            name="model_server_slow_first_token",
            severity="warning",
            expr="histogram_quantile(0.95, sum without (source) "
            "(rate(<llm_traffic.time_to_first_token_seconds:bucket>[10m]))) > 5",
            lasts="10m",
            summary="{model} on {server} of {instance} takes long for the first token",
            description="One request in twenty to {model} has waited longer than {value} for its first token.",
            shown="humanizeDuration",
            why="Five seconds: people take what begins later for broken. 95 of 100 over ten minutes, for ten minutes, "
            "so that a single long prompt does not count. Batch work may want another threshold.",
            example=Example(
                series={
                    f'<llm_traffic.time_to_first_token_seconds:bucket {_MODEL},le="1.0">': ("+6", "+0", "+6"),
                    f'<llm_traffic.time_to_first_token_seconds:bucket {_MODEL},le="10.0">': ("+6", "+0", "+6"),
                    f'<llm_traffic.time_to_first_token_seconds:bucket {_MODEL},le="20.0">': ("+6", "+6", "+6"),
                    f'<llm_traffic.time_to_first_token_seconds:bucket {_MODEL},le="+Inf">': ("+6", "+6", "+6"),
                },
                labels=SERVER | {"model": "llama3"},
                value="19.5s",
                steps=(15, 30, 20),
            ),
        ),
        Alert(
            name="model_server_kv_cache_full",
            severity="warning",
            expr="<llm_traffic.kv_cache_usage_ratio> > 0.95",
            lasts="10m",
            summary="The memory for contexts of {model} on {server} of {instance} is full",
            description="{value} of the memory for contexts of {model} is in use: requests wait, or lose their place "
            "and are begun anew.",
            shown="humanizePercentage",
            why="Servers keep it full of contexts they might need again, but count those as free. Above 95 % they begin "
            "to push requests out. Ten minutes, because a burst may fill it.",
            example=Example(
                series={
                    f"<llm_traffic.kv_cache_usage_ratio {_MODEL}>": (0.4, 0.99, 0.4),
                    f"<llm_traffic.kv_cache_usage_ratio {_MODEL.replace('llama3', 'qwen3')}>": 0.9,
                },
                labels=MODEL,
                value="99%",
            ),
        ),
        Alert(
            name="model_server_queue",
            severity="warning",
            expr="min_over_time(<llm_traffic.requests_waiting>[10m]) > 0 and deriv(<llm_traffic.requests_waiting>[10m]) > 0",
            lasts="10m",
            summary="The queue of {model} on {server} of {instance} grows",
            description="Requests to {model} have waited for twenty minutes, never fewer than {value}, and ever more do.",
            why="A queue that is never empty in ten minutes and grows for ten more will not go away by itself.",
            example=Example(
                series={
                    f"<llm_traffic.requests_waiting {_MODEL}>": ("+0", "+1", 0),
                    f"<llm_traffic.requests_waiting {_MODEL.replace('llama3', 'qwen3')}>": 3,
                },
                labels=MODEL,
                value="20",
                steps=(10, 30, 20),
            ),
        ),
        Alert(
            name="model_server_errors",
            severity="warning",
            expr='sum without (outcome, source) (rate(<llm_traffic.requests_total outcome="error">[10m])) '
            "/ sum without (outcome, source) (rate(<llm_traffic.requests_total>[10m])) > 0.05",
            lasts="5m",
            summary="Requests to {model} on {server} of {instance} fail",
            description="{value} of the requests to {model} of the last ten minutes failed.",
            shown="humanizePercentage",
            why="One in twenty is more than clients that give up or ask nonsense; ten minutes and five more leave out a restart.",
            example=Example(
                series={
                    f'<llm_traffic.requests_total {_MODEL},outcome="ok">': ("+9", "+9", "+9"),
                    f'<llm_traffic.requests_total {_MODEL},outcome="error">': ("+0", "+3", "+0"),
                },
                labels=SERVER | {"model": "llama3"},
                value="25%",
                steps=(15, 30, 20),
            ),
        ),
        Alert(
            name="model_on_cpu",
            severity="info",
            expr="<llm_model.gpu_ratio> < 1",
            lasts="15m",
            summary="{model} on {server} of {instance} does not fit on its GPUs",
            description="Only {value} of {model} is on GPUs; the rest works on the CPU, at a fraction of the speed.",
            shown="humanizePercentage",
            why="It is so from the loading of the model until it is unloaded; 15 minutes leave out what is tried once.",
            example=Example(
                series={
                    '<llm_model.gpu_ratio server="127.0.0.1:11434",kind="ollama",model="llama3">': (1, 0.5, 1),
                    '<llm_model.gpu_ratio server="127.0.0.1:11434",kind="ollama",model="qwen3">': 1,
                },
                labels={"server": "127.0.0.1:11434", "kind": "ollama", "model": "llama3"},
                value="50%",
            ),
        ),
        _counted(
            "proxy_unreachable",
            "unreachable_total",
            "Clients of the proxy of {instance} were told that {server} cannot be reached",
            "{value} connections of the last five minutes were answered with status 502, because {server} took none.",
            "Every one of them is a client's failure.",
        ),
        _counted(
            "proxy_full",
            "refused_total",
            "The proxy of {instance} before {server} turns clients away",
            "{value} connections of the last five minutes were beyond proxy.max_connections and answered with status 503.",
            "Every one of them is a client's failure.",
        ),
    ),
)
