"""gpumon itself: how old its numbers are, what fails, what is lost, and what it costs."""

from __future__ import annotations

from generate.common import BY_NODE, CLUSTER, DOWN, NODES, NOTHING, STARTED, grown, or_zero
from generate.rows import BAD, GOOD, ODD, Column, Dashboard, Panel, Query, Row, Steps

# gpumon serves no snapshot that is older than three ticks, which is 6 s unless told otherwise.
AGE: Steps = ((None, "green"), (4, "yellow"), (6, "red"))
SPACE: Steps = ((None, "red"), (0.05, "orange"), (0.1, "green"))
# Its promise is 50 MB: half as much again is odd, twice is broken.
FOOTPRINT: Steps = ((None, "green"), (75e6, "yellow"), (100e6, "red"))


def of_gpumon(expression: str) -> str:
    """Give only gpumon's of series whose names every program has."""
    return f"{expression} and on (cluster, job, instance) <daemon.up>"


NOW = Row(
    "Now",
    (
        Panel(
            form="stat",
            title="Running",
            description="gpumons whose numbers are fresh.",
            queries=(Query(expr="sum(<daemon.up>)"),),
            unit="short",
            more="fleet",
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="Stale",
            description="gpumons that answer but whose sampling has stopped or is too far behind.",
            queries=(Query(expr="sum(1 - <daemon.up>)"),),
            unit="short",
            more="fleet",
            steps=BAD,
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="Oldest numbers",
            description="Age of the oldest newest snapshot; by OTLP it is how long ago it was received.",
            queries=(Query(expr="max(<age.snapshot_age_seconds> or (time() - timestamp(<daemon.up>)))"),),
            unit="s",
            more="fleet",
            steps=AGE,
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="Sources that fail",
            description="Sources of readings that failed at their last tick, or of which a device is down.",
            queries=(Query(expr="sum(1 - <source.success>)"),),
            unit="short",
            more="gpu",
            steps=BAD,
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="Exports that fail",
            description="Ways out whose last attempt was not accepted. None are counted where nothing is exported.",
            queries=(Query(expr=or_zero("sum(1 - <export.success>)")),),
            unit="short",
            more="fleet",
            steps=BAD,
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="History not written",
            description="gpumons that keep history in memory because the database takes none.",
            queries=(Query(expr=or_zero("sum(1 - <storage.up>)")),),
            unit="short",
            more="fleet",
            steps=BAD,
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="Most memory",
            description="Resident memory of the largest gpumon.",
            queries=(Query(expr=f"max({of_gpumon('<process.process_resident_memory_bytes>')})"),),
            unit="bytes",
            more="fleet",
            steps=FOOTPRINT,
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="Most CPU",
            description="CPU of the busiest gpumon, as a share of one core.",
            queries=(Query(expr=f"max({of_gpumon('rate(<process.process_cpu_seconds_total>[$__rate_interval])')})"),),
            unit="percentunit",
            more="fleet",
            decimals=2,
            width=3,
            height=5,
        ),
    ),
)

READING = Row(
    "Reading",
    (
        Panel(
            title="Age of the numbers",
            description="Age of the newest snapshot at the scrape; by OTLP how long ago it was received.",
            queries=(
                Query(
                    expr="<age.snapshot_age_seconds> or (time() - timestamp(<daemon.up>))",
                    legend="{{instance}}",
                ),
            ),
            unit="s",
            more="fleet",
            steps=AGE,
        ),
        Panel(
            title="Time of each source",
            description="Time a source took at its last tick, the slowest node.",
            queries=(Query(expr="max by (source) (<source.duration_seconds>)", legend="{{source}}"),),
            unit="s",
            more="gpu",
        ),
        Panel(
            title="Ticks left out",
            description="Ticks left out in each interval because the one before took too long.",
            queries=(
                Query(
                    expr=f"sum {BY_NODE} (increase(<daemon.late_ticks_total>[$__rate_interval]))",
                    legend="{{instance}}",
                ),
            ),
            unit="short",
            more="gpu",
            steps=ODD,
            bars=True,
        ),
        Panel(
            title="Slowest GPU",
            description="Time that reading a GPU took, each node's slowest: a driver that begins to hang shows here.",
            queries=(Query(expr=f"max {BY_NODE} (<gpu_health.read_duration_seconds>)", legend="{{instance}}"),),
            unit="s",
            more="gpu",
        ),
        Panel(
            title="Driver calls that failed",
            description="Calls in each interval that failed for another reason than that a device does not support them.",
            queries=(
                Query(
                    expr=f"sum by (function, code) ({grown('<nvml_errors.nvml_errors_total>', '$__rate_interval')})",
                    legend="{{function}} {{code}}",
                    needs="fault",
                ),
                NOTHING,
            ),
            unit="short",
            more="gpu",
            steps=BAD,
            bars=True,
        ),
        Panel(
            title="Processes that could not be looked at",
            description="Processes on GPUs of which the kernel did not tell gpumon something, by what it is.",
            queries=(
                Query(
                    expr="sum by (fact) (<process_facts.facts_denied>)",
                    legend="{{fact}}",
                    needs="fault",
                ),
                NOTHING,
            ),
            unit="short",
            more="workloads",
            steps=ODD,
        ),
        Panel(
            form="table",
            title="Readings that fail or are estimates",
            description="Readings that GPUs lack (0) or that stand in for one (1), with the driver's reason.",
            queries=(
                Query(
                    expr="count by (gpu_name, reading, reason) (<support.reading_supported>)",
                    column="GPUs",
                ),
            ),
            width=24,
            unit="none",
            more="gpu",
            labels=(("gpu_name", "Name"), ("reading", "Reading"), ("reason", "Reason")),
            columns=(Column(name="GPUs", width=80), Column(name="Name", width=240)),
        ),
    ),
)

OUT = Row(
    "Sending out by OTLP",
    (
        Panel(
            title="Exports",
            description="1 while the last attempt to send was accepted.",
            queries=(
                Query(expr=f"min {BY_NODE[:-1]}, exporter) (<export.success>)", legend="{{instance}} {{exporter}}"),
            ),
            unit="short",
            more="fleet",
            steps=GOOD,
            maximum=1,
            decimals=0,
            needs="otlp",
        ),
        Panel(
            title="Time of an export",
            description="Time the last attempt to send took.",
            queries=(Query(expr="max by (exporter) (<export.duration_seconds>)", legend="{{exporter}}"),),
            unit="s",
            more="fleet",
            needs="otlp",
        ),
        Panel(
            title="Failed and dropped",
            description="Attempts that failed, and data points or spans that nobody took, in each interval.",
            queries=(
                Query(
                    expr="sum by (exporter) (increase(<export.failures_total>[$__rate_interval]))",
                    legend="{{exporter}} failed",
                ),
                Query(
                    expr="sum by (exporter) (increase(<export.dropped_total>[$__rate_interval]))",
                    legend="{{exporter}} dropped",
                ),
            ),
            unit="short",
            more="fleet",
            steps=BAD,
            bars=True,
            needs="otlp",
        ),
    ),
    collapsed=True,
)

STORAGE = Row(
    "History",
    (
        Panel(
            title="Space",
            description="Bytes that database and archive take, on all nodes.",
            queries=(Query(expr="sum by (kind) (<storage_size.used_bytes>)", legend="{{kind}}"),),
            unit="bytes",
            more="fleet",
            stacked=True,
            needs="storage",
        ),
        Panel(
            title="Space left",
            description="Share of the volume of service.data_dir that gpumon may still use.",
            queries=(
                Query(
                    expr=f"min {BY_NODE} (<storage.volume_free_bytes> / <storage.volume_size_bytes>)",
                    legend="{{instance}}",
                ),
            ),
            unit="percentunit",
            more="fleet",
            steps=SPACE,
            maximum=1,
            needs="storage",
        ),
        Panel(
            title="Rows written and lost",
            description="Rows written in a second by table; what is lost is below the axis.",
            queries=(
                Query(
                    expr="sum by (table) (rate(<storage_table.written_rows_total>[$__rate_interval]))",
                    legend="{{table}}",
                ),
                Query(
                    expr="-sum(rate(<storage_table.dropped_rows_total>[$__rate_interval]))",
                    legend="lost",
                ),
            ),
            unit="wps",
            more="fleet",
            minimum=None,
            needs="storage",
        ),
        Panel(
            title="Time of a write",
            description="Time the last write to the database took, and ticks that wait for it.",
            queries=(Query(expr=f"max {BY_NODE} (<storage.write_duration_seconds>)", legend="{{instance}}"),),
            unit="s",
            more="fleet",
            needs="storage",
        ),
        Panel(
            title="Ticks that wait to be written",
            description="Ticks in memory that are not in the database yet; they grow while the disk is full or away.",
            queries=(Query(expr=f"max {BY_NODE} (<storage.waiting_ticks>)", legend="{{instance}}"),),
            unit="short",
            more="fleet",
            steps=ODD,
            needs="storage",
        ),
        Panel(
            form="table",
            title="Archive",
            description="The last run of the archive on each node.",
            queries=(
                Query(expr=f"min {BY_NODE} (<archive.success>)", column="Succeeded"),
                Query(
                    expr=f"time() - max {BY_NODE} (<archive.last_success_timestamp_seconds>)",
                    column="Last success",
                ),
                Query(expr=f"max {BY_NODE} (<archive.duration_seconds>)", column="Took"),
                Query(expr=f"sum {BY_NODE} (<archive.rows_total>)", column="Rows moved"),
            ),
            unit="none",
            more="fleet",
            labels=(("instance", "Node"),),
            columns=(
                Column(name="Node", width=90),
                Column(name="Succeeded", steps=GOOD, width=95),
                Column(name="Last success", unit="s", width=110),
                Column(name="Took", unit="s", width=80),
                Column(name="Rows moved", unit="short", width=105),
            ),
            needs="archive",
        ),
    ),
)

COST = Row(
    "What it costs, and what runs",
    (
        Panel(
            title="Memory",
            description="Resident memory of each gpumon.",
            queries=(Query(expr=of_gpumon("<process.process_resident_memory_bytes>"), legend="{{instance}}"),),
            unit="bytes",
            more="fleet",
            steps=FOOTPRINT,
        ),
        Panel(
            title="CPU",
            description="CPU of each gpumon, as a share of one core.",
            queries=(
                Query(
                    expr=of_gpumon("rate(<process.process_cpu_seconds_total>[$__rate_interval])"), legend="{{instance}}"
                ),
            ),
            unit="percentunit",
            more="fleet",
        ),
        Panel(
            title="Files and threads",
            description="Open files and threads, the most of any gpumon; more threads than usual are driver calls that hang.",
            queries=(
                Query(expr=f"max({of_gpumon('<process.process_open_fds>')})", legend="files"),
                Query(expr=f"max({of_gpumon('<process.process_threads>')})", legend="threads"),
            ),
            unit="short",
            more="fleet",
        ),
        Panel(
            form="table",
            title="What runs",
            description="Version of each gpumon, of Python and of NVIDIA's library, and where readings come from.",
            queries=(Query(expr="<build.build_info>"),),
            unit="none",
            more="fleet",
            width=12,
            labels=(
                ("instance", "Node"),
                ("version", "Version"),
                ("python_version", "Python"),
                ("nvml_version", "NVML"),
                ("driver", "Driver"),
            ),
        ),
        Panel(
            form="table",
            title="How processes are seen",
            description="How the driver's pids are joined with processes, and what is missing for it.",
            queries=(Query(expr="<process_attribution.attribution>"),),
            unit="none",
            more="workloads",
            width=12,
            labels=(("instance", "Node"), ("mode", "Mode"), ("reason", "What is missing")),
            columns=(Column(name="Mode", width=110),),
        ),
    ),
)

ALERTS = Row(
    "Alerts",
    (
        Panel(
            title="Alerts that began",
            description="Alerts that began in each interval, by severity.",
            queries=(
                Query(
                    expr="sum by (severity) (increase(<alerting.started_total>[$__rate_interval]))",
                    legend="{{severity}}",
                ),
            ),
            unit="short",
            more="fleet",
            bars=True,
        ),
        Panel(
            title="Time of a look at all alerts",
            description="Time the last look at all alerts took, by node.",
            queries=(Query(expr=f"max {BY_NODE} (<alerting.evaluation_seconds>)", legend="{{instance}}"),),
            unit="s",
            more="fleet",
        ),
        Panel(
            title="Alerts sent",
            description="Beginnings and ends of alerts in each interval that were accepted, and attempts that failed.",
            queries=(
                Query(
                    expr="sum by (target) (increase(<alert_delivery.sent_total>[$__rate_interval]))",
                    legend="{{target}} accepted",
                ),
                Query(
                    expr="sum by (target) (increase(<alert_delivery.failures_total>[$__rate_interval]))",
                    legend="{{target}} failed",
                ),
                Query(
                    expr="sum by (target) (increase(<alert_delivery.dropped_total>[$__rate_interval]))",
                    legend="{{target}} given up",
                ),
            ),
            unit="short",
            more="fleet",
            steps=BAD,
            bars=True,
            needs="delivery",
        ),
    ),
)

MISSING = Row(
    "What is missing of workloads, and the kubelet",
    (
        Panel(
            form="table",
            title="Why shares of a GPU cannot be told",
            description="GPUs of which processes, their work or their pods are not known, and why.",
            queries=(
                Query(
                    expr="max by (instance, gpu_id, part, reason) (<share_reason.missing_info>)",
                    column="Missing",
                    needs="incomplete",
                ),
            ),
            unit="none",
            more="workloads",
            width=16,
            labels=(("instance", "Node"), ("gpu_id", "GPU"), ("part", "Part"), ("reason", "Reason")),
            columns=(
                *(Column(name=name, width=90) for name in ("Node", "GPU", "Part")),
                Column(name="Missing", width=90),
            ),
            needs="incomplete",
        ),
        Panel(
            title="Kubelet",
            description="1 while the kubelet's PodResources API answers.",
            queries=(Query(expr=f"min {BY_NODE} (<pod_names.up>)", legend="{{instance}}"),),
            unit="short",
            more="workloads",
            steps=GOOD,
            maximum=1,
            decimals=0,
            needs="kubelet",
        ),
    ),
    collapsed=True,
)

DAEMON = Dashboard(
    key="gpumon",
    title="gpumon / gpumon itself",
    description="Are the numbers fresh, is anything lost on the way, and what does it cost?",
    variables=(CLUSTER, NODES),
    rows=(NOW, READING, STORAGE, COST, ALERTS, OUT, MISSING),
    annotations=(DOWN, STARTED),
)
