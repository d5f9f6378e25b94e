"""What is said of the processes that use GPUs: how many of which kind, and each workload's share of a device."""

from __future__ import annotations

from gpumon.catalog.gpu import GPU_LABELS
from gpumon.catalog.model import EntityKind, Form, Label, Reading, Since

# Seconds between two stored rows of a workload: its counters lose nothing, and there may be hundreds on a node.
TABLE_SECONDS = 30.0

CATEGORY = Label(
    "category", "gaming, llm_inference, ml_training, general_compute, or unknown for what no rule could tell."
)
_GPU_ID, _, _GPU_UUID = GPU_LABELS
WHERE = (
    Label(
        "namespace",
        "Namespace of the pod; empty outside Kubernetes and where the pod is not known.",
        otel="k8s.namespace.name",
    ),
    Label("pod", "Name of the pod, by the kubelet's word; empty like the namespace.", otel="k8s.pod.name"),
    Label(
        "container",
        "Name of the container in the pod; outside Kubernetes the first 12 digits of the container's id; empty for neither.",
        otel="k8s.container.name",
        otel_form=Form(r"([0-9a-f]{12})", (("container.id", str),)),
    ),
)

PROCESS_CATEGORY = EntityKind(
    "process_category",
    "Processes with a context on any GPU that answers, by kind of work. All five categories are always there.",
    prefix="process",
    labels=(CATEGORY,),
    readings=(
        Reading(name="count", help="Processes; one that uses several GPUs counts once."),
        Reading(
            name="gpu_memory_bytes",
            help="Device memory they hold, on all GPUs; absent where the driver does not tell it for one of them.",
        ),
    ),
    table="process_metrics",
    table_seconds=TABLE_SECONDS,
)

WORKLOAD = EntityKind(
    "workload",
    "A workload's share of one GPU. Over all workloads of a GPU the shares sum to what the device itself counts since gpumon started.",
    prefix="workload",
    labels=(
        _GPU_ID,
        _GPU_UUID,
        Label("category", 'Kind of work, or "idle" for what no process accounts for.'),
        *WHERE,
        # Not "job": that is Prometheus's own name for what it scrapes.
        Label("hpc_job", "Job of a batch system such as Slurm; empty outside one."),
    ),
    readings=(
        Reading(
            name="memory_used_bytes",
            help='Device memory its processes hold; for "idle" what is in use beyond all of them.',
        ),
        Reading(name="processes", help="Its processes on this GPU now; 0 after the last one ended."),
        Reading(
            name="busy_seconds_total",
            help="Its share of gpumon_gpu_busy_seconds_total, divided by the multiprocessor use the driver samples of each process.",
            since=Since.GPUMON,
        ),
        Reading(
            name="energy_joules_total",
            help="Its share of gpumon_gpu_energy_joules_total above the GPU's idle power, divided like busy_seconds_total; "
            'the rest is of category "idle".',
            since=Since.GPUMON,
        ),
    ),
    table="workload_metrics",
    table_seconds=TABLE_SECONDS,
)

ATTRIBUTION = EntityKind(
    "process_attribution",
    "How the driver's pids are joined with processes.",
    prefix="process",
    labels=(
        Label(
            "mode", '"host": gpumon sees the host\'s pids; "host_proc": by a mounted /proc; "none": it sees neither.'
        ),
        Label("reason", "What is missing and how to get it; empty when nothing is."),
    ),
    readings=(Reading(name="attribution", help="Always 1; how processes are seen, in labels."),),
)

FACTS_DENIED = EntityKind(
    "process_facts",
    "What the kernel does not tell of processes to gpumon's user, so that some rules could not be tried.",
    prefix="process",
    labels=(Label("fact", "File below /proc/<pid>, or what rules look at: library, port."),),
    readings=(Reading(name="facts_denied", help="Processes on GPUs of which this could not be read."),),
)

SHARE_REASON = EntityKind(
    "share_reason",
    "Why shares of a GPU cannot be told; present only while something is missing.",
    prefix="workload",
    labels=(
        *GPU_LABELS,
        Label("part", '"processes", "work" for what each process does, "pods" for their names.'),
        Label("reason", "What the driver or the kubelet answered, or what cannot be known."),
    ),
    readings=(Reading(name="missing_info", help="Always 1; what is missing of a GPU's shares and why, in labels."),),
)

GPU_PROCESS = EntityKind(
    "gpu_process",
    "One process on one GPU, only with processes.per_process_metrics: those with the most memory.",
    prefix="gpu_process",
    labels=(
        *GPU_LABELS,
        Label("gpu_instance_id", "GPU instance of its MIG device; empty without."),
        Label(
            "pid",
            "Process id, as the host counts.",
            otel="process.pid",
            otel_form=Form(r"([0-9]{1,10})", (("process.pid", int),)),
        ),
        Label("name", "The kernel's name of the process.", otel="process.executable.name"),
        Label("user", "User it runs as.", otel="process.owner"),
        CATEGORY,
        *WHERE,
    ),
    readings=(
        Reading(name="memory_used_bytes", help="Device memory it holds."),
        Reading(
            name="sm_utilization_percent", help="Multiprocessor use, mean of the driver's samples since the last tick."
        ),
        Reading(name="memory_utilization_percent", help="Use of memory bandwidth, likewise."),
        Reading(name="encoder_utilization_percent", help="Use of the video encoder, likewise."),
        Reading(name="decoder_utilization_percent", help="Use of the video decoder, likewise."),
        Reading(name="jpeg_utilization_percent", help="Use of the JPEG decoder, likewise."),
        Reading(name="ofa_utilization_percent", help="Use of the optical flow accelerator, likewise."),
        Reading(name="cpu_seconds_total", help="CPU time since the process started.", since=Since.SOURCE),
        Reading(name="resident_memory_bytes", help="Memory of the machine it holds."),
        Reading(name="start_time_seconds", help="Unix time at which it started."),
    ),
)

PROCESS_LIMIT = EntityKind(
    "process_limit",
    "The limit of per-process series.",
    prefix="process",
    readings=(
        Reading(name="series_limit", help="Most processes per GPU that have series of their own."),
        Reading(name="series_left_out", help="Processes on GPUs that have none because of the limit."),
    ),
)

GPU_POD = EntityKind(
    "gpu_pod",
    "A container that the kubelet has given a GPU, or a part of one.",
    prefix="gpu",
    labels=(
        *GPU_LABELS,
        *WHERE,
        Label("resource", "What it asked for, as in nvidia.com/gpu."),
        Label("device", "Device as the kubelet names it: a UUID, a replica of one, a MIG device."),
    ),
    readings=(Reading(name="pod_info", help="Always 1; which container has the GPU, in labels."),),
)

POD_NAMES = EntityKind(
    "pod_names",
    "Whether the kubelet tells which pod has which GPU; present only where it is asked.",
    prefix="kubelet",
    labels=(Label("reason", "Why it does not; empty when it does."),),
    readings=(Reading(name="up", help="1 while the kubelet's PodResources API answers."),),
)

POD_LABEL = EntityKind(
    "pod_label",
    "A label of a pod that has a GPU; only with kubernetes.pod_labels.",
    prefix="pod",
    labels=(*WHERE[:2], Label("label", "Name of the label."), Label("value", "Its value.")),
    readings=(Reading(name="label_info", help="Always 1; the pod's label, in labels."),),
)

PROCESS_KINDS = (
    ATTRIBUTION,
    FACTS_DENIED,
    PROCESS_CATEGORY,
    WORKLOAD,
    SHARE_REASON,
    GPU_PROCESS,
    PROCESS_LIMIT,
    GPU_POD,
    POD_NAMES,
    POD_LABEL,
)
