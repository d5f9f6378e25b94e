"""What gpumon says of itself and of its host: whether it works, how old its numbers are, what it costs."""

from __future__ import annotations

from gpumon.catalog.gpu import GPU_LABELS
from gpumon.catalog.model import Cadence, EntityKind, Label, Otel, Reading, Since

UP = Reading(name="up", help="1 while the newest snapshot is fresh, 0 when sampling has stopped or is too far behind.")

UP = Reading(name="up", help="1 while the newest snapshot is fresh, 0 when sampling has stopped or is too far behind.")

DAEMON = EntityKind(
    "daemon",
    "gpumon itself.",
    readings=(
        UP,
        Reading(name="gpu_count", help="GPUs the driver lists; 0 without a driver."),
        Reading(name="ticks_total", help="Snapshots taken since gpumon started."),
        Reading(name="late_ticks_total", help="Ticks left out because the one before took too long."),
        Reading(name="start_time_seconds", help="Unix time at which gpumon started; its own counters count from here."),
    ),
)

SNAPSHOT_AGE = Reading(name="snapshot_age_seconds", help="Age of the newest snapshot at the moment of the scrape.")

AGE = EntityKind("age", "How old the numbers are.", readings=(SNAPSHOT_AGE,))

BUILD = EntityKind(
    "build",
    "What runs.",
    labels=(
        Label("version", "Version of gpumon."),
        Label("python_version", "Version of Python."),
        Label("nvml_version", "Version of the NVML library, empty without one."),
        Label("driver", '"nvml", "nvidia-smi", "simulated", "replayed" or "none": where GPU readings come from.'),
    ),
    readings=(Reading(name="build_info", help="Always 1; what runs, in labels."),),
)

SOURCE = EntityKind(
    "source",
    "A source of readings.",
    prefix="source",
    labels=(Label("source", "Name of the source."),),
    readings=(
        Reading(
            name="success",
            help="1 when all the source's readings could be taken at this tick, 0 when it failed or a device of it is down.",
        ),
        Reading(name="duration_seconds", help="Time the source took at this tick, as the tick waited for it."),
    ),
)

GPU_HEALTH = EntityKind(
    "gpu_health",
    "Whether a GPU answers. Present for every GPU seen since start, also while it is gone.",
    prefix="gpu",
    labels=GPU_LABELS,
    readings=(
        Reading(
            name="up",
            help="1 while the GPU answers, 0 while it is lost, hung or refuses.",
            otel=Otel("hw.status", "1", attributes=(("hw.type", "gpu"), ("hw.state", "ok")), additive=True),
        ),
        Reading(name="hung", help="1 while a driver call for the GPU does not return."),
        Reading(name="lost_total", help="Times the GPU went down since gpumon started."),
        Reading(name="read_duration_seconds", help="Time the last reading of the GPU took."),
    ),
)

GPU_DOWN = EntityKind(
    "gpu_down",
    "Why a GPU is down; present only while it is.",
    prefix="gpu",
    labels=(*GPU_LABELS, Label("reason", "What the driver answered, or that it did not.")),
    readings=(Reading(name="down_info", help="Always 1; why the GPU is down, in a label."),),
)

SUPPORT = EntityKind(
    "support",
    "Readings a GPU does not have, or has only as an estimate.",
    prefix="gpu",
    labels=(
        *GPU_LABELS,
        Label("reading", "Metric name, with label values in braces where only those are meant."),
        Label("reason", "What the driver answered, or what the reading rests on instead."),
    ),
    readings=(
        Reading(
            name="reading_supported",
            help="0 for a reading the GPU does not have, with the reason; 1 for one that is estimated or stands in. "
            "Readings not listed are plain measurements.",
        ),
    ),
)

NVML_ERRORS = EntityKind(
    "nvml_errors",
    "Driver calls that failed unexpectedly.",
    labels=(Label("function", "NVML function or field."), Label("code", "NVML's name for the error.")),
    readings=(
        Reading(
            name="nvml_errors_total", help="Driver calls that failed, but for what a device simply does not support."
        ),
    ),
)

HOST = EntityKind(
    "host",
    "The machine gpumon runs on.",
    prefix="host",
    readings=(
        Reading(
            name="cpu_seconds_total",
            help="Time of all cores not spent idle, since boot.",
            since=Since.BOOT,
            otel=Otel("system.cpu.time", "s"),
        ),
        Reading(
            name="cpus",
            help="Logical CPUs.",
            cadence=Cadence.ONCE,
            otel=Otel("system.cpu.logical.count", "{cpu}", additive=True),
        ),
        Reading(name="load1", help="Load average of one minute.", otel=Otel("system.cpu.load_average.1m", "{thread}")),
        Reading(
            name="memory_total_bytes",
            help="Memory.",
            cadence=Cadence.ONCE,
            otel=Otel("system.memory.limit", "By", additive=True),
        ),
        Reading(
            name="memory_available_bytes",
            help="Memory that can be had without swapping.",
            otel=Otel("system.linux.memory.available", "By", additive=True),
        ),
        Reading(name="boot_time_seconds", help="Unix time of the machine's start.", cadence=Cadence.ONCE),
    ),
    table="host_metrics",
)

# The names every Prometheus client library uses for its own process, so that ready-made dashboards find them.
PROCESS = EntityKind(
    "process",
    "gpumon's own process.",
    prefix=None,
    readings=(
        Reading(name="process_cpu_seconds_total", help="CPU time gpumon used.", otel=Otel("process.cpu.time", "s")),
        Reading(
            name="process_resident_memory_bytes",
            help="Memory of gpumon that is resident.",
            otel=Otel("process.memory.usage", "By", additive=True),
        ),
        Reading(
            name="process_virtual_memory_bytes",
            help="Address space of gpumon.",
            otel=Otel("process.memory.virtual", "By", additive=True),
        ),
        Reading(name="process_start_time_seconds", help="Unix time at which gpumon's process started."),
        Reading(
            name="process_open_fds",
            help="Files gpumon has open.",
            otel=Otel("process.unix.file_descriptor.count", "{file_descriptor}", additive=True),
        ),
        Reading(name="process_max_fds", help="Files gpumon may open."),
        Reading(
            name="process_threads",
            help="Threads of gpumon.",
            otel=Otel("process.thread.count", "{thread}", additive=True),
        ),
    ),
)

EXPORT = EntityKind(
    "export",
    "A way by which readings are sent out.",
    prefix="export",
    labels=(Label("exporter", '"otlp" for metrics by OTLP, "otlp_traces" for spans.'),),
    readings=(
        Reading(
            name="success", help="1 when the last attempt to send was accepted, 0 when not; absent before the first."
        ),
        Reading(name="failures_total", help="Attempts to send that failed, since gpumon started."),
        Reading(
            name="dropped_total",
            help="Data points or spans that nobody took, since gpumon started: rejected, or given up for newer ones.",
        ),
        Reading(name="duration_seconds", help="Time the last attempt to send took."),
    ),
)

# Served also when the snapshot is too old to serve the rest.
HEALTH_KINDS = (DAEMON, BUILD, SOURCE, GPU_HEALTH, GPU_DOWN, SUPPORT, NVML_ERRORS, EXPORT, PROCESS)
