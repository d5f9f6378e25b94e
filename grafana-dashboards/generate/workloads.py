"""Who uses the GPUs: kinds of work, pods, containers, jobs and users; hours, memory, energy and waste."""

from __future__ import annotations

from generate.common import BY_GPU, CLUSTER, EVENTS, GPU, IDLE_AN_HOUR, JOULES_PER_KWH, NAMESPACE, NODES, or_zero
from generate.rows import ODD, USED, Column, Dashboard, Panel, Query, Row

WORK = 'category!="idle"'
BUSY_HOURS = f"increase(<workload.busy_seconds_total {WORK}>[$__range]) / 3600"
# One sample a minute is enough for hours, and cheap over weeks; over minutes it may be less than hours busy.
HELD_HOURS = f"count_over_time((<workload.processes {WORK}> > 0)[$__range:1m]) / 60"
ENERGY = f"increase(<workload.energy_joules_total {WORK}>[$__range]) / {JOULES_PER_KWH}"
# Prometheus has a label "job" of its own, and renames gpumon's.
POD = "by (namespace, pod, container, hpc_job, category)"
NAMED = 'label_replace({}, "user", "(not known)", "user", "^$")'
IN_WORDS = 'label_replace({}, "namespace", "(none)", "namespace", "^$")'

TOTALS = Row(
    "In the time shown",
    (
        Panel(
            form="stat",
            title="Hours busy",
            description="Hours in which GPUs were busy for somebody, all GPUs together.",
            queries=(Query(expr=f"sum({BUSY_HOURS})"),),
            unit="h",
            more="fleet",
            decimals=2,
            width=4,
            height=5,
            needs="undivided",
        ),
        Panel(
            form="stat",
            title="Hours held",
            description="Hours in which somebody's processes were on GPUs, busy or not; two on one GPU count twice.",
            queries=(Query(expr=f"sum({HELD_HOURS})"),),
            unit="h",
            more="fleet",
            decimals=2,
            width=4,
            height=5,
            needs="work",
        ),
        Panel(
            form="stat",
            title="Busy while held",
            description="Hours busy as a share of hours held: what is missing was reserved and not used.",
            queries=(Query(expr=f"clamp_max(sum({BUSY_HOURS}) / sum({HELD_HOURS}), 1)"),),
            unit="percentunit",
            more="fleet",
            steps=USED,
            maximum=1,
            width=4,
            height=5,
            needs="undivided",
        ),
        Panel(
            form="stat",
            title="Energy of work",
            description="Energy above what GPUs use idle, of all that somebody's processes did.",
            queries=(Query(expr=f"sum({ENERGY})"),),
            unit="kwatth",
            more="fleet",
            width=4,
            height=5,
            needs="work",
        ),
        Panel(
            form="stat",
            title="Energy of nobody's",
            description="Energy that GPUs use idle, and what no process accounts for.",
            queries=(
                Query(
                    expr=f'sum(increase(<workload.energy_joules_total category="idle">[$__range])) / {JOULES_PER_KWH}'
                ),
            ),
            unit="kwatth",
            more="fleet",
            width=4,
            height=5,
        ),
        Panel(
            form="stat",
            title="Cost of work",
            description="Energy of work at the price per kWh above.",
            queries=(Query(expr=f"sum({ENERGY}) * $price"),),
            unit="none",
            more="fleet",
            decimals=2,
            width=4,
            height=5,
            needs="work",
        ),
    ),
)

TIME = Row(
    "Over time",
    (
        Panel(
            title="Busy GPUs, by kind of work",
            description="How many GPUs' worth of time each kind of work takes.",
            queries=(
                Query(
                    expr="sum by (category) (rate(<workload.busy_seconds_total>[$__rate_interval]))",
                    legend="{{category}}",
                ),
            ),
            unit="short",
            more="gpu",
            stacked=True,
            needs="undivided",
        ),
        Panel(
            title="Memory, by kind of work",
            description="Device memory each kind of work holds; idle is what no process accounts for.",
            queries=(Query(expr="sum by (category) (<workload.memory_used_bytes>)", legend="{{category}}"),),
            unit="bytes",
            more="gpu",
            stacked=True,
        ),
        Panel(
            title="Power, by kind of work",
            description="Power above what GPUs draw idle, by kind of work; idle is the rest, so that all is what they draw.",
            queries=(
                Query(
                    expr="sum by (category) (rate(<workload.energy_joules_total>[$__rate_interval]))",
                    legend="{{category}}",
                ),
            ),
            unit="watt",
            more="gpu",
            stacked=True,
        ),
        Panel(
            title="Held and at work",
            description="GPUs that processes are on, and how many GPUs' worth of time these take: the gap is waste.",
            queries=(
                Query(
                    expr=or_zero(f"count(max {BY_GPU} (<workload.processes>) > 0)"),
                    legend="held",
                ),
                Query(
                    expr=or_zero(f"sum(rate(<workload.busy_seconds_total {WORK}>[$__rate_interval]))"),
                    legend="at work",
                ),
            ),
            unit="short",
            more="fleet",
        ),
        Panel(
            title="Busy GPUs, by pod",
            description="The ten pods that take most time; (none) is what is in no pod.",
            queries=(
                Query(
                    expr=IN_WORDS.format(
                        f"topk(10, sum by (namespace, pod) (rate(<workload.busy_seconds_total {WORK}>[$__rate_interval])))"
                    ),
                    legend="{{namespace}} {{pod}}",
                ),
            ),
            unit="short",
            more="gpu",
            stacked=True,
            needs="undivided",
        ),
        Panel(
            title="Processes, by kind of work",
            description="Processes with a context on a GPU; one on several GPUs counts once.",
            queries=(Query(expr="sum by (category) (<process_category.count>)", legend="{{category}}"),),
            unit="short",
            more="gpu",
            stacked=True,
            decimals=0,
        ),
    ),
)

TABLES = Row(
    "Who",
    (
        Panel(
            form="table",
            title="Workloads",
            description="Hours, memory and energy of each pod, container or job in the time shown, those that held most first.",
            queries=(
                Query(expr=f"sum {POD} ({HELD_HOURS})", column="Hours held"),
                Query(expr=f"sum {POD} ({BUSY_HOURS})", column="Hours busy", needs="undivided"),
                Query(
                    expr=f"clamp_max(sum {POD} ({BUSY_HOURS}) / sum {POD} ({HELD_HOURS}), 1)",
                    column="Busy while held",
                    needs="undivided",
                ),
                Query(
                    expr=f"sum {POD} (max_over_time(<workload.memory_used_bytes {WORK}>[$__range]))",
                    column="Most memory",
                ),
                Query(expr=f"sum {POD} ({ENERGY})", column="Energy"),
                Query(expr=f"sum {POD} ({ENERGY}) * $price", column="Cost"),
            ),
            unit="none",
            more="gpu",
            width=24,
            height=9,
            labels=(
                ("namespace", "Namespace"),
                ("pod", "Pod"),
                ("container", "Container"),
                ("hpc_job", "Job"),
                ("category", "Kind of work"),
            ),
            columns=(
                Column(name="Hours held", unit="h", decimals=2, width=110),
                Column(name="Hours busy", unit="h", decimals=2, width=110),
                Column(name="Busy while held", unit="percentunit", bar=True, maximum=1, steps=USED, width=220),
                Column(name="Most memory", unit="bytes", width=120),
                Column(name="Energy", unit="kwatth", decimals=1, width=110),
                Column(name="Cost", unit="none", decimals=2, width=80),
            ),
            sort="Hours held",
            needs="work",
        ),
        Panel(
            form="bargauge",
            title="Hours busy, by namespace",
            description="Hours in which GPUs were busy for each namespace, in the time shown.",
            queries=(
                Query(
                    expr=IN_WORDS.format(f"topk(10, sum by (namespace) ({BUSY_HOURS}))"),
                    legend="{{namespace}}",
                ),
            ),
            unit="h",
            more="fleet",
            decimals=2,
            needs="undivided",
        ),
        Panel(
            form="bargauge",
            title="Energy, by namespace",
            description="Energy above what GPUs use idle, of each namespace, in the time shown.",
            queries=(
                Query(
                    expr=IN_WORDS.format(f"topk(10, sum by (namespace) ({ENERGY}))"),
                    legend="{{namespace}}",
                ),
            ),
            unit="kwatth",
            more="fleet",
            decimals=1,
            needs="work",
        ),
        Panel(
            form="bargauge",
            title="Memory held, by namespace",
            description="Device memory that each namespace holds now.",
            queries=(
                Query(
                    expr=IN_WORDS.format(f"topk(10, sum by (namespace) (<workload.memory_used_bytes {WORK}>))"),
                    legend="{{namespace}}",
                ),
            ),
            unit="bytes",
            more="fleet",
            decimals=1,
            needs="work",
        ),
    ),
)

USERS = Row(
    "Users and processes (with processes.per_process_metrics)",
    (
        Panel(
            form="table",
            title="Users",
            description="Processes on GPUs by the user they run as, now.",
            queries=(
                Query(expr=NAMED.format("count by (user) (<gpu_process.memory_used_bytes>)"), column="Processes"),
                Query(expr=NAMED.format("sum by (user) (<gpu_process.memory_used_bytes>)"), column="Memory"),
            ),
            unit="none",
            more="gpu",
            labels=(("user", "User"),),
            columns=(Column(name="Memory", unit="bytes"),),
            sort="Memory",
            needs="processes",
        ),
        Panel(
            form="table",
            title="Processes with the most memory",
            description="The twenty processes that hold most device memory now.",
            queries=(
                Query(
                    expr="topk(20, sum by (instance, gpu_id, pid, name, user, category) (<gpu_process.memory_used_bytes>))",
                    column="Memory",
                ),
                Query(
                    expr="sum by (instance, gpu_id, pid, name, user, category) (<gpu_process.sm_utilization_percent>)"
                    " and topk(20, sum by (instance, gpu_id, pid, name, user, category) (<gpu_process.memory_used_bytes>))",
                    column="Multiprocessors",
                    needs="undivided",
                ),
            ),
            unit="none",
            more="gpu",
            width=16,
            labels=(
                ("instance", "Node"),
                ("gpu_id", "GPU"),
                ("pid", "PID"),
                ("name", "Name"),
                ("user", "User"),
                ("category", "Kind of work"),
            ),
            columns=(Column(name="Memory", unit="bytes"), Column(name="Multiprocessors", unit="percent")),
            sort="Memory",
            needs="processes",
        ),
    ),
    collapsed=True,
)

PODS = Row(
    "Containers that have a GPU and do nothing with it (in Kubernetes)",
    (
        Panel(
            form="table",
            title="Containers that have a GPU and do nothing with it",
            description="By the kubelet's word, on GPUs that have been below 1 % for an hour.",
            queries=(
                Query(
                    expr="<gpu_pod.pod_info> and on (cluster, instance, gpu_id) " + IDLE_AN_HOUR,
                ),
            ),
            unit="none",
            more="fleet",
            width=16,
            steps=ODD,
            labels=(
                ("instance", "Node"),
                ("gpu_id", "GPU"),
                ("namespace", "Namespace"),
                ("pod", "Pod"),
                ("container", "Container"),
            ),
            needs="kubelet",
        ),
    ),
    collapsed=True,
)

WORKLOADS = Dashboard(
    key="workloads",
    title="gpumon / Workloads",
    description="Who has the GPUs, what do they do with them, what does it cost, and what goes to waste?",
    variables=(CLUSTER, NODES, GPU, NAMESPACE),
    rows=(TOTALS, TIME, TABLES, USERS, PODS),
    annotations=EVENTS,
    priced=True,
)
