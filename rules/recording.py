"""Recording rules of the fleet, named level:metric:operations as Prometheus advises.

Levels: `gpu` each GPU, `instance` each node, `job` the fleet as it is scraped, `namespace`, `category` and `model`.
Everything above a node keeps the label `cluster`, where Prometheus adds one.
"""

from __future__ import annotations

from rules.device import SAME_GPU
from rules.model import Phase, Recording

# Seconds between two evaluations; sums over time rest on it.
INTERVAL_SECONDS = 60

NODE = "(cluster, job, instance)"
FLEET = "(cluster, job)"
_BUSY = "gpu:gpumon_gpu_busy:rate5m"
_POD = 'namespace="team",pod="p",container="main",resource="nvidia.com/gpu"'
_WORK = 'category="ml_training",namespace="team",pod="p",container="main"'
_MODEL = 'server="127.0.0.1:8000",kind="vllm",model="llama3",source="server"'
AT = {"instance": "node:9090"}
GPU_0 = {"gpu_id": "0", "gpu_name": "H100", "gpu_uuid": "GPU-0", **AT}
GPU_1 = {"gpu_id": "1", "gpu_name": "H100", "gpu_uuid": "GPU-1", **AT}

# Half of the time for one GPU, none for the other.
_TWO_BUSY: dict[str, Phase] = {
    '<gpu.busy_seconds_total method="samples">': "+30",
    '<gpu.busy_seconds_total gpu_id="1",method="polled">': "+0",
}
_TWO_GIVEN: dict[str, Phase] = {
    f'<gpu_pod.pod_info {_POD},device="GPU-0">': 1,
    f'<gpu_pod.pod_info gpu_id="1",{_POD},device="GPU-1::0">': 1,
    f'<gpu_pod.pod_info gpu_id="1",{_POD},device="GPU-1::1">': 1,
}
_TWO_POWER = {"<gpu.power_watts>": 700, '<gpu.power_watts gpu_id="1">': 100}
_TWO_ENERGY = {
    '<gpu.energy_joules_total method="driver">': "+42000",
    '<gpu.energy_joules_total gpu_id="1",method="integrated">': "+6000",
}
_TOKENS = {f"<llm_traffic.generated_tokens_total {_MODEL}>": "+600"}
_LLM_ENERGY = {'<llm_energy.energy_joules_total server="127.0.0.1:8000",kind="vllm",model="llama3">': "+1200"}

USE = (
    Recording(
        record=_BUSY,
        expr="sum without (method) (rate(<gpu.busy_seconds_total>[5m]))",
        what="Utilisation of each GPU from 0 to 1, exact over five minutes; absent for partitioned GPUs.",
        series=_TWO_BUSY,
        gives=((GPU_0, 0.5), (GPU_1, 0)),
    ),
    Recording(
        record="instance:gpumon_gpu_busy:avg_rate5m",
        expr=f"avg by {NODE} ({_BUSY})",
        what="Mean utilisation of a node's GPUs.",
        series=_TWO_BUSY,
        gives=((AT, 0.25),),
    ),
    Recording(
        record="job:gpumon_gpu_busy:avg_rate5m",
        expr=f"avg by {FLEET} ({_BUSY})",
        what="Mean utilisation of the fleet's GPUs.",
        series=_TWO_BUSY,
        gives=(({}, 0.25),),
    ),
    Recording(
        record="instance:gpumon_gpu_memory_used:ratio",
        expr=f"sum by {NODE} (<gpu.memory_used_bytes>) / sum by {NODE} (<gpu.memory_total_bytes>)",
        what="Share of a node's device memory that is in use.",
        series={
            "<gpu.memory_used_bytes>": 60,
            '<gpu.memory_used_bytes gpu_id="1">': 0,
            "<gpu.memory_total_bytes>": 80,
            '<gpu.memory_total_bytes gpu_id="1">': 80,
        },
        gives=((AT, 0.375),),
    ),
)

FLEET_COUNTS = (
    Recording(
        record="job:gpumon_gpu:count",
        expr=f"sum by {FLEET} (<daemon.gpu_count>)",
        what="GPUs of the fleet.",
        series={"<daemon.gpu_count>": 8, '<daemon.gpu_count instance="other">': 4},
        gives=(({}, 12),),
    ),
    Recording(
        record="job:gpumon_gpu_down:count",
        expr=f"sum by {FLEET} (<gpu_health.up> == bool 0)",
        what="GPUs that do not answer.",
        series={"<gpu_health.up>": 1, '<gpu_health.up gpu_id="1">': 0},
        gives=(({}, 1),),
    ),
    Recording(
        record="job:gpumon_gpu_allocated:count",
        expr=f"count by {FLEET} (count by (cluster, job, instance, gpu_uuid) (<gpu_pod.pod_info>))",
        what="GPUs that pods were given, each counted once however many share it.",
        series=_TWO_GIVEN,
        gives=(({}, 2),),
    ),
    Recording(
        record="job:gpumon_gpu_allocated_idle:count",
        expr=f"sum by {FLEET} ((max by (cluster, job, instance, gpu_uuid) (<gpu_pod.pod_info>)) "
        f"* on {SAME_GPU} ({_BUSY} < bool 0.01))",
        what="GPUs that pods were given and that did less than 1 % in five minutes.",
        series=_TWO_BUSY | _TWO_GIVEN,
        gives=(({}, 1),),
    ),
    Recording(
        record="namespace:gpumon_gpu_allocated:count",
        expr="count by (cluster, job, namespace) "
        "(count by (cluster, job, instance, gpu_uuid, namespace) (<gpu_pod.pod_info>))",
        what="GPUs that a namespace was given; one that several namespaces share counts for each.",
        series=_TWO_GIVEN,
        gives=(({"namespace": "team"}, 2),),
    ),
    Recording(
        record="namespace:gpumon_gpu_hours:sum1h",
        # Half a minute less than an hour: whether a range has its first moment in it depends on the version.
        expr=f"sum_over_time(namespace:gpumon_gpu_allocated:count[59m30s]) * {INTERVAL_SECONDS} / 3600",
        what="GPU hours that a namespace was given in the last hour, by counting once a minute.",
        series=_TWO_GIVEN,
        gives=(({"namespace": "team"}, 2),),
    ),
)

POWER = (
    Recording(
        record="instance:gpumon_gpu_power_watts:sum",
        expr=f"sum by {NODE} (<gpu.power_watts>)",
        what="Power that a node's GPUs draw.",
        series=_TWO_POWER,
        gives=((AT, 800),),
    ),
    Recording(
        record="job:gpumon_gpu_power_watts:sum",
        expr=f"sum by {FLEET} (<gpu.power_watts>)",
        what="Power that the fleet's GPUs draw.",
        series=_TWO_POWER,
        gives=(({}, 800),),
    ),
    Recording(
        record="instance:gpumon_gpu_energy_joules:increase1h",
        expr=f"sum by {NODE} (increase(<gpu.energy_joules_total>[1h]))",
        what="Energy that a node's GPUs used in the last hour; 3,600,000 J are 1 kWh.",
        series=_TWO_ENERGY,
        gives=((AT, 2_880_000),),
    ),
    Recording(
        record="job:gpumon_gpu_energy_joules:increase1h",
        expr=f"sum by {FLEET} (increase(<gpu.energy_joules_total>[1h]))",
        what="Energy that the fleet's GPUs used in the last hour.",
        series=_TWO_ENERGY,
        gives=(({}, 2_880_000),),
    ),
)

# Of workloads the label `job` may be a batch job's, so it is none of the fleet's levels here.
WORKLOADS = (
    Recording(
        record="namespace:gpumon_workload_busy_seconds:increase1h",
        expr="sum by (cluster, namespace) (increase(<workload.busy_seconds_total>[1h]))",
        what="Seconds of GPU work of a namespace in the last hour; 3,600 are one GPU hour of work done.",
        series={f"<workload.busy_seconds_total {_WORK}>": "+30"},
        gives=(({"namespace": "team"}, 1800),),
    ),
    Recording(
        record="namespace:gpumon_workload_energy_joules:increase1h",
        expr="sum by (cluster, namespace) (increase(<workload.energy_joules_total>[1h]))",
        what="Energy of a namespace's work in the last hour, above what GPUs use idle.",
        series={f"<workload.energy_joules_total {_WORK}>": "+6000"},
        gives=(({"namespace": "team"}, 360_000),),
    ),
    Recording(
        record="namespace:gpumon_workload_memory_used_bytes:sum",
        expr="sum by (cluster, namespace) (<workload.memory_used_bytes>)",
        what="Device memory that a namespace's processes hold.",
        series={
            f"<workload.memory_used_bytes {_WORK}>": 5e9,
            f'<workload.memory_used_bytes gpu_id="1",{_WORK}>': 3e9,
        },
        gives=(({"namespace": "team"}, 8e9),),
    ),
    Recording(
        record="category:gpumon_workload_busy:rate5m",
        expr="sum by (cluster, category) (rate(<workload.busy_seconds_total>[5m]))",
        what="GPUs kept busy by each kind of work; 1 is one GPU all the time.",
        series={
            f"<workload.busy_seconds_total {_WORK}>": "+30",
            f'<workload.busy_seconds_total gpu_id="1",{_WORK}>': "+60",
        },
        gives=(({"category": "ml_training"}, 1.5),),
    ),
    Recording(
        record="category:gpumon_workload_power_watts:rate5m",
        expr="sum by (cluster, category) (rate(<workload.energy_joules_total>[5m]))",
        what="Power of each kind of work, above what GPUs draw idle; that is of the category idle.",
        series={f"<workload.energy_joules_total {_WORK}>": "+6000"},
        gives=(({"category": "ml_training"}, 100),),
    ),
)

MODELS = (
    Recording(
        record="model:gpumon_llm_generated_tokens:rate5m",
        expr="sum by (cluster, job, model) (rate(<llm_traffic.generated_tokens_total>[5m]))",
        what="Tokens that a model writes in a second, over all its servers.",
        series=_TOKENS,
        gives=(({"model": "llama3"}, 10),),
    ),
    Recording(
        record="model:gpumon_llm_prompt_tokens:rate5m",
        expr="sum by (cluster, job, model) (rate(<llm_traffic.prompt_tokens_total>[5m]))",
        what="Tokens that a model reads in a second.",
        series={f"<llm_traffic.prompt_tokens_total {_MODEL}>": "+6000"},
        gives=(({"model": "llama3"}, 100),),
    ),
    Recording(
        record="model:gpumon_llm_requests:rate5m",
        expr="sum by (cluster, job, model, outcome) (rate(<llm_traffic.requests_total>[5m]))",
        what="Requests to a model that end in a second, by outcome.",
        series={f'<llm_traffic.requests_total {_MODEL},outcome="ok">': "+120"},
        gives=(({"model": "llama3", "outcome": "ok"}, 2),),
    ),
    Recording(
        record="model:gpumon_llm_time_to_first_token_seconds:p95_5m",
        expr="histogram_quantile(0.95, sum by (cluster, job, model, le) "
        "(rate(<llm_traffic.time_to_first_token_seconds:bucket>[5m])))",
        what="Time within which 95 of 100 requests to a model get their first token.",
        series={
            f'<llm_traffic.time_to_first_token_seconds:bucket {_MODEL},le="1.0">': "+0",
            f'<llm_traffic.time_to_first_token_seconds:bucket {_MODEL},le="2.0">': "+60",
            f'<llm_traffic.time_to_first_token_seconds:bucket {_MODEL},le="+Inf">': "+60",
        },
        gives=(({"model": "llama3"}, 1.95),),
    ),
    Recording(
        record="model:gpumon_llm_time_per_output_token_seconds:p95_5m",
        expr="histogram_quantile(0.95, sum by (cluster, job, model, le) "
        "(rate(<llm_traffic.time_per_output_token_seconds:bucket>[5m])))",
        what="Time per token after the first that 95 of 100 replies of a model stay below.",
        series={
            f'<llm_traffic.time_per_output_token_seconds:bucket {_MODEL},le="1.0">': "+0",
            f'<llm_traffic.time_per_output_token_seconds:bucket {_MODEL},le="2.0">': "+60",
            f'<llm_traffic.time_per_output_token_seconds:bucket {_MODEL},le="+Inf">': "+60",
        },
        gives=(({"model": "llama3"}, 1.95),),
    ),
    Recording(
        record="model:gpumon_llm_joules_per_token:ratio5m",
        expr="sum by (cluster, job, model) (rate(<llm_energy.energy_joules_total>[5m])) "
        "/ (model:gpumon_llm_generated_tokens:rate5m > 0)",
        what="Energy per token written, over all servers of a model.",
        series=_TOKENS | _LLM_ENERGY,
        gives=(({"model": "llama3"}, 2),),
    ),
    Recording(
        record="job:gpumon_llm_generated_tokens:rate5m",
        expr=f"sum by {FLEET} (model:gpumon_llm_generated_tokens:rate5m)",
        what="Tokens that the fleet writes in a second.",
        series=_TOKENS,
        gives=(({}, 10),),
    ),
    Recording(
        record="job:gpumon_llm_joules_per_token:ratio5m",
        expr=f"sum by {FLEET} (rate(<llm_energy.energy_joules_total>[5m])) "
        "/ (job:gpumon_llm_generated_tokens:rate5m > 0)",
        what="Energy per token written, over the fleet.",
        series=_TOKENS | _LLM_ENERGY,
        gives=(({}, 2),),
    ),
)

# A group is evaluated in order, so that a rule may use one above it.
RECORDINGS = {
    "gpumon-use": USE + FLEET_COUNTS,
    "gpumon-power": POWER,
    "gpumon-workloads": WORKLOADS,
    "gpumon-models": MODELS,
}
