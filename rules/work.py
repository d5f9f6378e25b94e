"""Alerts of GPUs that are held and not used, and of use that belongs to nobody."""

from __future__ import annotations

from rules.device import GPU, SAME_GPU
from rules.model import Alert, Example, Group

POD = {"namespace": "team", "pod": "notebook-0", "container": "main", "resource": "nvidia.com/gpu"}
_POD = ",".join(f'{name}="{value}"' for name, value in POD.items())

# Where GPU and system share their memory, what is in use is mostly the system's.
NOT_UNIFIED = f'unless on {SAME_GPU} <gpu_info.info memory_kind="unified">'
_UNIFIED = '<gpu_info.info gpu_id="3",memory_kind="unified">'

WORK = Group(
    "gpumon-work",
    (
        Alert(
            name="gpu_idle_allocated",
            severity="warning",
            expr=f"<gpu_pod.pod_info> * on {SAME_GPU} group_left () "
            "sum without (method) (rate(<gpu.busy_seconds_total>[1h])) < 0.01",
            lasts="1h",
            summary="{namespace}/{pod} has a GPU of {instance} and does not use it",
            description="GPU {gpu_id} ({gpu_uuid}) is given to {namespace}/{pod} and was busy for {value} of the last hour.",
            shown="humanizePercentage",
            why="The last hour, for an hour: after two hours without 1 % of work nobody is about to begin. "
            "Partitioned GPUs have no utilisation and are left out.",
            example=Example(
                series={
                    f'<gpu_pod.pod_info {_POD},device="GPU-0">': 1,
                    '<gpu.busy_seconds_total method="samples">': ("+240", "+0", "+240"),
                    f'<gpu_pod.pod_info gpu_id="1",{_POD},device="GPU-1">': 1,
                    '<gpu.busy_seconds_total gpu_id="1",method="samples">': ("+10", "+10", "+10"),
                    '<gpu.busy_seconds_total gpu_id="2",method="samples">': ("+0", "+0", "+0"),
                },
                labels=GPU | POD | {"device": "GPU-0"},
                value="0%",
                steps=(13, 30, 14),
                step_minutes=5,
            ),
        ),
        Alert(
            name="gpu_memory_held",
            severity="info",
            expr="<gpu.memory_used_bytes> / <gpu.memory_total_bytes> > 0.5 "
            f"and on {SAME_GPU} sum without (method) (rate(<gpu.busy_seconds_total>[1h])) < 0.05 "
            f"{NOT_UNIFIED}",
            lasts="5h",
            summary="The memory of GPU {gpu_id} of {instance} is held and hardly used",
            description="{value} of the memory of GPU {gpu_id} ({gpu_uuid}) is taken, "
            "and in six hours the GPU was never busy for 5 % of an hour.",
            shown="humanizePercentage",
            why="Half of the memory is enough that nothing else of size fits. An hour's mean, for five hours: a model server "
            "may have quiet hours, but below 5 % two such servers could share the GPU. The range is short because rate() "
            "takes what a range lacks, as after a start, for idle time.",
            example=Example(
                series={
                    "<gpu.memory_used_bytes>": 60e9,
                    "<gpu.memory_total_bytes>": 80e9,
                    '<gpu.busy_seconds_total method="samples">': ("+300", "+10", "+300"),
                    '<gpu.memory_used_bytes gpu_id="1">': 30e9,
                    '<gpu.memory_total_bytes gpu_id="1">': 80e9,
                    '<gpu.busy_seconds_total gpu_id="1",method="samples">': 0,
                    '<gpu.memory_used_bytes gpu_id="3">': 60e9,
                    '<gpu.memory_total_bytes gpu_id="3">': 80e9,
                    '<gpu.busy_seconds_total gpu_id="3",method="samples">': 0,
                    _UNIFIED: 1,
                },
                labels=GPU,
                value="75%",
                steps=(10, 45, 15),
                step_minutes=10,
            ),
        ),
        Alert(
            name="gpu_memory_unattributed",
            severity="warning",
            expr=f'<workload.memory_used_bytes category="idle"> / on {SAME_GPU} group_left () <gpu.memory_total_bytes> > 0.2 '
            f'{NOT_UNIFIED} unless on (job, instance) <process_attribution.attribution mode="none">',
            lasts="15m",
            summary="Memory of GPU {gpu_id} of {instance} is in use, and no process holds it",
            description="{value} of the memory of GPU {gpu_id} ({gpu_uuid}) belongs to no process that gpumon sees: "
            "one that ended and left it, or one in a container that is hidden from it.",
            shown="humanizePercentage",
            why="The driver itself takes some hundred megabytes. A fifth of a device is more than any driver holds; "
            "15 minutes, because memory of a process that ends is given back in seconds.",
            example=Example(
                series={
                    '<workload.memory_used_bytes category="idle">': (1e9, 40e9, 1e9),
                    "<gpu.memory_total_bytes>": 80e9,
                    '<workload.memory_used_bytes gpu_id="1",category="idle">': 8e9,
                    '<gpu.memory_total_bytes gpu_id="1">': 80e9,
                    '<workload.memory_used_bytes gpu_id="3",category="idle">': 60e9,
                    '<gpu.memory_total_bytes gpu_id="3">': 80e9,
                    _UNIFIED: 1,
                    '<workload.memory_used_bytes instance="blind",category="idle">': 60e9,
                    '<gpu.memory_total_bytes instance="blind">': 80e9,
                    '<process_attribution.attribution instance="blind",mode="none">': 1,
                },
                labels={"gpu_id": "0", "gpu_uuid": "GPU-0", "category": "idle"},
                value="50%",
            ),
        ),
        Alert(
            name="processes_unattributed",
            severity="warning",
            expr='<process_attribution.attribution mode="none"> == 1',
            lasts="15m",
            summary="gpumon on {instance} does not see the processes on its GPUs",
            description="Work cannot be told by process, pod or kind: {reason}",
            why="It is so from the start or not at all; 15 minutes leave out a restart.",
            example=Example(
                series={
                    '<process_attribution.attribution mode="none",reason="hostPID is off">': (None, 1, None),
                    '<process_attribution.attribution mode="host",reason="">': (1, None, 1),
                },
                labels={"mode": "none", "reason": "hostPID is off"},
                steps=(10, 20, 20),
            ),
        ),
        Alert(
            name="workload_shares_missing",
            severity="info",
            expr="<share_reason.missing_info> == 1",
            lasts="1h",
            summary="Shares of GPU {gpu_id} of {instance} cannot be told ({part})",
            description="What is missing of {part} on GPU {gpu_id} ({gpu_uuid}): {reason}",
            why="New pods are named within a minute. What is missing for an hour stays missing.",
            example=Example(
                series={
                    '<share_reason.missing_info part="pods",reason="several pods share the GPU">': (None, 1, None),
                },
                labels=GPU | {"part": "pods", "reason": "several pods share the GPU"},
                steps=(10, 70, 20),
            ),
        ),
        Alert(
            name="kubelet_unreachable",
            severity="warning",
            expr="<pod_names.up> == 0",
            lasts="5m",
            summary="The kubelet of {instance} does not tell which pod has which GPU",
            description="Pods on GPUs get no names: {reason}",
            why="A kubelet restarts within a minute; it is asked every 15 s.",
            example=Example(
                series={
                    '<pod_names.up reason="">': (1, None, 1),
                    '<pod_names.up reason="the kubelet does not answer">': (None, 0, None),
                },
                labels={"reason": "the kubelet does not answer"},
            ),
        ),
    ),
)
