"""The fleet: what all clusters and nodes do, cost and suffer."""

from __future__ import annotations

from generate.common import (
    BUSY,
    BUSY_AN_HOUR,
    BY_GPU,
    BY_NODE,
    CLUSTER,
    EVENTS,
    HELD,
    IDLE_HELD,
    JOULES_PER_KWH,
    MEMORY,
    NODES,
    or_zero,
    xids,
)
from generate.rows import BAD, FULL, HEAT, ODD, USED, Column, Dashboard, Panel, Query, Row, Steps

TO_NODE = "/d/gpumon-gpu?${__url_time_range}&var-node=${__data.fields.Node}"
TO_GPU = f"{TO_NODE}&var-gpu=${{__data.fields.GPU}}"

LEAST = f"bottomk(10, {BUSY_AN_HOUR} and {HELD})"
BY_ALERT = "by (cluster, instance, severity, alert, gpu_id, subject)"

# Of the last hour: below 1 % a GPU is idle.
LAZY: Steps = ((None, "red"), (0.01, "orange"), (0.3, "green"))

NOW = Row(
    "Now",
    (
        Panel(
            form="stat",
            title="GPUs",
            description="GPUs that the drivers list, on the chosen nodes.",
            queries=(Query(expr="sum(<daemon.gpu_count>)"),),
            unit="short",
            more="gpu",
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="GPUs down",
            description="GPUs that are lost, hung or refuse to answer. Those on nodes that are silent are not among them.",
            queries=(Query(expr="sum(1 - <gpu_health.up>)"),),
            unit="short",
            more="gpu",
            steps=BAD,
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="Nodes silent",
            description="Nodes that reported in the time shown and do not any more, and nodes whose readings have stopped.",
            queries=(
                Query(
                    expr=or_zero(
                        "count((max_over_time(<daemon.up>[$__range]) unless <daemon.up>) or <daemon.up> == 0)"
                    ),
                ),
            ),
            unit="short",
            more="gpumon",
            steps=BAD,
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="Held but idle",
            description="GPUs that a process or a container has and that have been below 1 % for an hour. Listed below.",
            queries=(Query(expr=or_zero(f"count({IDLE_HELD})")),),
            unit="short",
            more="workloads",
            steps=ODD,
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="GPUs busy",
            description="Mean share of time in which a kernel ran. It says nothing of how much of a GPU a kernel used.",
            queries=(Query(expr=f"avg({BUSY})"),),
            unit="percentunit",
            more="workloads",
            steps=USED,
            maximum=1,
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="Memory in use",
            description="Share of all device memory that is allocated.",
            queries=(Query(expr="sum(<gpu.memory_used_bytes>) / sum(<gpu.memory_total_bytes>)"),),
            unit="percentunit",
            more="workloads",
            steps=FULL,
            maximum=1,
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="Power",
            description="Power that all GPUs draw now.",
            queries=(Query(expr="sum(<gpu.power_watts>)"),),
            unit="watt",
            more="gpu",
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="Energy cost",
            description="Energy of all GPUs in the time shown, times the price per kWh above. Cooling and hosts are not in it.",
            queries=(Query(expr=f"sum(increase(<gpu.energy_joules_total>[$__range])) / {JOULES_PER_KWH} * $price"),),
            unit="none",
            more="workloads",
            decimals=2,
            width=3,
            height=5,
        ),
    ),
)

USE = Row(
    "Use",
    (
        Panel(
            title="GPUs busy, by node",
            description="Share of time in which a kernel ran, mean of a node's GPUs.",
            queries=(Query(expr=f"avg {BY_NODE} ({BUSY})", legend="{{instance}}"),),
            unit="percentunit",
            more="gpu",
            maximum=1,
        ),
        Panel(
            title="Busy GPUs, by kind of work",
            description="How many GPUs' worth of time each kind of work takes. The line is the number of GPUs there are.",
            queries=(
                Query(
                    expr="sum by (category) (rate(<workload.busy_seconds_total>[$__rate_interval]))",
                    legend="{{category}}",
                    needs="undivided",
                ),
                Query(expr="sum(<daemon.gpu_count>)", legend="GPUs"),
            ),
            unit="short",
            more="workloads",
            stacked=True,
            dashed="GPUs",
        ),
        Panel(
            title="Memory in use, by node",
            description="Share of a node's device memory that is allocated.",
            queries=(Query(expr=MEMORY, legend="{{instance}}"),),
            unit="percentunit",
            more="gpu",
            steps=FULL,
            maximum=1,
        ),
        Panel(
            form="bargauge",
            title="Top namespaces by GPU hours",
            description="Hours in which GPUs were busy for a namespace, in the time shown. Work outside Kubernetes has none.",
            queries=(
                Query(
                    expr='label_replace(topk(10, sum by (namespace) (increase(<workload.busy_seconds_total category!="idle">'
                    '[$__range])) / 3600), "namespace", "(none)", "namespace", "^$")',
                    legend="{{namespace}}",
                    needs="undivided",
                ),
            ),
            unit="h",
            more="workloads",
            decimals=2,
            needs="undivided",
        ),
        Panel(
            form="bargauge",
            title="GPU hours by kind of work",
            description="Hours in which GPUs were busy with each kind of work, in the time shown.",
            queries=(
                Query(
                    expr='sort_desc(sum by (category) (increase(<workload.busy_seconds_total category!="idle">[$__range])) / 3600)',
                    legend="{{category}}",
                ),
            ),
            unit="h",
            more="workloads",
            decimals=2,
            needs="undivided",
        ),
        Panel(
            form="table",
            title="Held GPUs that work least",
            description="GPUs that a process or a container has, by how busy they were in the last hour; below 1 % counts as idle.",
            queries=(
                Query(expr=f"{LEAST} / 100", column="Busy"),
                Query(expr=f"sum {BY_GPU} (<gpu.memory_used_bytes>) and {LEAST}", column="Memory held"),
            ),
            unit="none",
            more="workloads",
            labels=(("cluster", "Cluster"), ("instance", "Node"), ("gpu_id", "GPU")),
            columns=(
                Column(name="Cluster", width=90),
                Column(name="Node", link=TO_NODE),
                Column(name="GPU", link=TO_GPU, width=60),
                Column(name="Busy", unit="percentunit", steps=LAZY, width=90),
                Column(name="Memory held", unit="bytes", width=110),
            ),
            sort="-Busy",
            needs="work",
        ),
    ),
)

COST = Row(
    "Heat, power and cost",
    (
        Panel(
            title="Power, by node",
            description="Power that a node's GPUs draw. The line is what their limits allow.",
            queries=(
                Query(expr=f"sum {BY_NODE} (<gpu.power_watts>)", legend="{{instance}}"),
                Query(expr='sum(<gpu.power_limit_watts limit="enforced">)', legend="limit"),
            ),
            unit="watt",
            more="gpu",
            stacked=True,
            dashed="limit",
        ),
        Panel(
            title="Cost per day, by node",
            description="What the power of this moment costs in a day, at the price per kWh above.",
            queries=(Query(expr=f"sum {BY_NODE} (<gpu.power_watts>) * 24 / 1000 * $price", legend="{{instance}}"),),
            unit="none",
            more="workloads",
            stacked=True,
            decimals=2,
        ),
        Panel(
            title="Hottest GPU, by node",
            description="Temperature of each node's hottest GPU.",
            queries=(Query(expr=f"max {BY_NODE} (<gpu.temperature_celsius>)", legend="{{instance}}"),),
            unit="celsius",
            more="gpu",
            steps=HEAT,
            minimum=None,
        ),
    ),
)

HEALTH = Row(
    "Health",
    (
        Panel(
            form="table",
            title="Nodes",
            description="Every node at a glance; its name leads to its GPUs. Energy and XIDs are those of the time shown.",
            queries=(
                Query(expr=f"max {BY_NODE} (<daemon.gpu_count>)", column="GPUs"),
                Query(expr=f"sum {BY_NODE} (1 - <gpu_health.up>)", column="Down"),
                Query(expr=f"avg {BY_NODE} ({BUSY})", column="Busy"),
                Query(expr=MEMORY, column="Memory"),
                Query(expr=f"max {BY_NODE} (<gpu.temperature_celsius>)", column="Hottest"),
                Query(expr=f"sum {BY_NODE} (<gpu.power_watts>)", column="Power"),
                Query(
                    expr=f"sum {BY_NODE} (increase(<gpu.energy_joules_total>[$__range])) / {JOULES_PER_KWH}",
                    column="Energy",
                ),
                Query(
                    expr=or_zero(f"sum {BY_NODE} ({xids('$__range')})", BY_NODE),
                    column="XIDs",
                ),
                Query(expr=or_zero(f"count {BY_NODE} ({IDLE_HELD})", BY_NODE), column="Held but idle"),
            ),
            unit="none",
            more="gpu",
            width=24,
            labels=(("cluster", "Cluster"), ("instance", "Node")),
            columns=(
                Column(name="Node", link=TO_NODE),
                Column(name="GPUs", width=70),
                Column(name="Down", steps=BAD, width=80),
                Column(name="Busy", unit="percentunit", bar=True, maximum=1, steps=USED),
                Column(name="Memory", unit="percentunit", bar=True, maximum=1, steps=FULL),
                Column(name="Hottest", unit="celsius", steps=HEAT, width=100),
                Column(name="Power", unit="watt", width=100),
                Column(name="Energy", unit="kwatth", width=110),
                Column(name="XIDs", steps=BAD, width=80, decimals=0),
                Column(name="Held but idle", steps=ODD, width=120),
            ),
            sort="Busy",
        ),
        Panel(
            form="bargauge",
            title="Faults in the time shown",
            description="What GPUs and links have reported in the time shown. Healthy nodes count none.",
            queries=(
                Query(expr=or_zero(f"sum({xids('$__range')})"), legend="XID errors"),
                Query(
                    expr=or_zero(
                        'sum(increase(<gpu.ecc_errors_total severity="uncorrected",scope="volatile">[$__range]))'
                    ),
                    legend="uncorrected memory errors",
                ),
                Query(expr=or_zero("sum(increase(<gpu_health.lost_total>[$__range]))"), legend="GPUs lost"),
                Query(expr=or_zero("sum(increase(<gpu.pcie_replays_total>[$__range]))"), legend="PCIe replays"),
                Query(expr=or_zero("sum(increase(<gpu.nvlink_errors_total>[$__range]))"), legend="NVLink errors"),
            ),
            width=6,
            unit="short",
            more="gpu",
            steps=BAD,
            decimals=0,
        ),
        Panel(
            title="Alerts, by severity",
            description="Alerts of gpumon's own that are active. They are marked on every graph, too.",
            queries=(Query(expr="sum by (severity) (<alerting.firing>)", legend="{{severity}}"),),
            width=6,
            unit="short",
            more="gpu",
            stacked=True,
            decimals=0,
        ),
        Panel(
            title="Slowed down, by reason",
            description="GPUs whose clocks are held down. A power cap is how a GPU under load keeps to its limit; heat is a fault.",
            queries=(
                Query(
                    expr='sum by (reason) (<gpu.throttle_active reason!~"gpu_idle|applications_clocks|display_clocks">)',
                    legend="{{reason}}",
                ),
            ),
            width=6,
            unit="short",
            more="gpu",
            stacked=True,
            decimals=0,
        ),
        Panel(
            form="bargauge",
            title="GPUs that need somebody",
            description="GPUs for which the driver advises a reset or more, and those whose memory could not be repaired.",
            queries=(
                Query(expr=or_zero("sum(<gpu.recovery_action> > bool 0)"), legend="driver advises an action"),
                Query(expr=or_zero("sum(<gpu.row_remap_pending>)"), legend="reset needed to repair memory"),
                Query(expr=or_zero("sum(<gpu.row_remap_failure>)"), legend="memory beyond repair"),
                Query(expr=or_zero("sum(<gpu_health.hung>)"), legend="driver call hangs"),
            ),
            width=6,
            unit="short",
            more="gpu",
            steps=BAD,
            decimals=0,
        ),
    ),
)

ALERTS = Row(
    "Alerts that are active",
    (
        Panel(
            form="table",
            title="Alerts",
            description="Every alert of gpumon's own that is active, with what was compared with what.",
            queries=(
                Query(expr=f"max {BY_ALERT} (<alert.value>)", column="Value"),
                Query(expr=f"max {BY_ALERT} (<alert.threshold>)", column="Threshold"),
                Query(expr=f"time() - min {BY_ALERT} (<alert.start_timestamp_seconds>)", column="For"),
            ),
            unit="none",
            more="gpu",
            width=24,
            labels=(
                ("cluster", "Cluster"),
                ("instance", "Node"),
                ("severity", "Severity"),
                ("alert", "Alert"),
                ("gpu_id", "GPU"),
                ("subject", "About"),
            ),
            columns=(Column(name="Node", link=TO_NODE), Column(name="For", unit="s")),
            sort="For",
            needs="alert",
        ),
    ),
    collapsed=True,
)

FLEET = Dashboard(
    key="fleet",
    title="gpumon / Fleet",
    description="Are all GPUs there and well, do they work, for whom, and what does it cost?",
    variables=(CLUSTER, NODES),
    rows=(NOW, USE, COST, HEALTH, ALERTS),
    annotations=EVENTS,
    priced=True,
)
