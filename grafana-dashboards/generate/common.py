"""What several dashboards share: variables, annotations, and expressions that would be written twice."""

from __future__ import annotations

from generate.rows import Annotation, Query, Variable

CLUSTER = Variable(name="cluster", title="Cluster", label="cluster", readings=("daemon.up",))
NODES = Variable(name="node", title="Node", label="instance", readings=("daemon.up",))
NODE = Variable(name="node", title="Node", label="instance", readings=("daemon.up",), many=False)
GPU = Variable(name="gpu", title="GPU", label="gpu_id", readings=("gpu_health.up",))
NAMESPACE = Variable(
    name="namespace", title="Namespace", label="namespace", readings=("workload.memory_used_bytes", "gpu_pod.pod_info")
)
MODEL = Variable(
    name="model",
    title="Model",
    label="model",
    readings=("llm_traffic.generated_tokens_total", "llm_model.memory_bytes"),
)

# One node, and one GPU, wherever in the fleet.
BY_NODE = "by (cluster, instance)"
BY_GPU = "by (cluster, instance, gpu_id)"

# A divided GPU (MIG) has no utilisation in NVML; how long its engines were busy says the same.
# The one is without a metric's name, and so has to be the other, or they would be two lines.
BUSY = "(sum without (method) (rate(<gpu.busy_seconds_total>[$__rate_interval])) or 1 * <gpu.graphics_active_ratio>)"
MEMORY = f"sum {BY_NODE} (<gpu.memory_used_bytes>) / sum {BY_NODE} (<gpu.memory_total_bytes>)"
JOULES_PER_KWH = "3.6e6"
# GPUs that a process or, by the kubelet's word, a container has.
HELD = f"((max {BY_GPU} (<workload.processes>) > 0) or max {BY_GPU} (<gpu_pod.pod_info>))"
# An hour below 1 %: what a process that only keeps a context shows now and then is less.
BUSY_AN_HOUR = (
    f"max {BY_GPU} (avg_over_time(<gpu.utilization_percent>[1h])"
    " or avg_over_time(<gpu.graphics_active_ratio>[1h]) * 100)"
)
IDLE_AN_HOUR = f"({BUSY_AN_HOUR} < 1)"
IDLE_HELD = f"({HELD} and {IDLE_AN_HOUR})"


# A line at 0 where there is a gpumon, for graphs of what healthy nodes do not have.
NOTHING = Query(expr="0 * max(<daemon.up>)", legend="none")


def or_zero(expression: str, by: str = "") -> str:
    """Give 0 where there are no series of it although there is a gpumon, so that "none" is not "no data"."""
    return f"{expression} or 0 * max {by} (<daemon.up>)".replace("  ", " ")


def grown(counter: str, window: str) -> str:
    """Give how much a counter grew that may begin inside the window, as those of faults do with the first of a kind.

    increase() tells only what came after the first sample, and so nothing of the one XID that there was.
    """
    after = f"increase({counter}[{window}])"
    return f"(({after} + (min_over_time({counter}[{window}]) unless {counter} offset {window})) or {after})"


def xids(window: str) -> str:
    """Give how many XID errors there were in a window, by GPU and code."""
    return grown("<gpu_xid.xid_errors_total>", window)


DOWN = Annotation(
    name="GPU down",
    expr="<gpu_down.down_info>",
    title="GPU {{gpu_id}} is down",
    text="{{instance}}: {{reason}}",
    color="red",
)
XID = Annotation(
    name="XID",
    # A code that was not seen before has no sample to differ from.
    expr="(changes(<gpu_xid.xid_errors_total>[1m]) > 0) or (<gpu_xid.xid_errors_total> unless <gpu_xid.xid_errors_total> offset 1m)",
    title="XID {{xid}} on GPU {{gpu_id}}",
    text="{{instance}}",
    color="purple",
)
SLOWED = Annotation(
    name="Slowed down by hardware",
    expr=f'max {BY_GPU[:-1]}, reason) (<gpu.throttle_active reason=~"hw_.*">) > 0',
    title="GPU {{gpu_id}} is slowed down: {{reason}}",
    text="{{instance}}",
    color="orange",
)
STARTED = Annotation(
    name="gpumon started",
    expr="changes(<daemon.start_time_seconds>[1m]) > 0",
    title="gpumon started",
    text="{{instance}}",
    color="blue",
)
LOADED = Annotation(
    name="Model loaded",
    expr="changes(<llm_model_loads.loads_total>[1m]) > 0",
    title="{{model}} was loaded",
    text="{{server}}",
    color="green",
)
ALERT = Annotation(
    name="Alert",
    expr="<alert.active> > 0",
    title="{{alert}} {{gpu_id}}",
    text="{{instance}}",
    color="yellow",
)
EVENTS = (DOWN, XID, SLOWED, ALERT, STARTED)
