"""One node and its GPUs: everything that is known about a device."""

from __future__ import annotations

from generate.common import BUSY, BY_GPU, CLUSTER, EVENTS, GPU, JOULES_PER_KWH, NODE, NOTHING, or_zero, xids
from generate.rows import BAD, FULL, GOOD, HEAT, PLAIN, USED, Column, Dashboard, Panel, Query, Row

NAME = "GPU {{gpu_id}}"
PART = "GPU {{gpu_id}} / {{gpu_instance_id}}"

OVERVIEW = Row(
    "Now",
    (
        Panel(
            form="stat",
            title="Answering",
            description="Whether each GPU answers; down is lost, hung or refusing.",
            queries=(Query(expr="<gpu_health.up>", legend=NAME),),
            unit="short",
            more="gpumon",
            steps=GOOD,
            names={0: ("down", "red"), 1: ("up", "green")},
            width=6,
            height=5,
        ),
        Panel(
            form="stat",
            title="Busy",
            description="Share of time in which a kernel ran, mean of the chosen GPUs.",
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
            title="Memory",
            description="Share of the chosen GPUs' memory that is allocated.",
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
            title="Hottest",
            description="Temperature of the hottest of the chosen GPUs.",
            queries=(Query(expr="max(<gpu.temperature_celsius>)"),),
            unit="celsius",
            more="fleet",
            steps=HEAT,
            maximum=100,
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="Power",
            description="Power of the chosen GPUs as a share of what their limits allow.",
            queries=(Query(expr='sum(<gpu.power_watts>) / sum(<gpu.power_limit_watts limit="enforced">)'),),
            unit="percentunit",
            more="fleet",
            steps=USED,
            maximum=1,
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="Energy",
            description="Energy of the chosen GPUs in the time shown.",
            queries=(Query(expr=f"sum(increase(<gpu.energy_joules_total>[$__range])) / {JOULES_PER_KWH}"),),
            unit="kwatth",
            more="workloads",
            width=3,
            height=5,
        ),
        Panel(
            form="stat",
            title="XIDs",
            description="XID errors of the chosen GPUs in the time shown.",
            queries=(Query(expr=or_zero(f"sum({xids('$__range')})")),),
            unit="short",
            more="fleet",
            steps=BAD,
            decimals=0,
            width=3,
            height=5,
        ),
        Panel(
            form="table",
            title="What they are",
            description="Model, driver and modes of each GPU.",
            queries=(Query(expr="<gpu_info.info>"),),
            unit="none",
            more="fleet",
            width=24,
            height=10,
            labels=(
                ("gpu_id", "GPU"),
                ("gpu_name", "Name"),
                ("architecture", "Architecture"),
                ("driver_version", "Driver"),
                ("cuda_version", "CUDA"),
                ("vbios_version", "VBIOS"),
                ("pci_bus_id", "PCI"),
                ("numa_node", "NUMA"),
                ("mig_mode", "MIG"),
                ("ecc_mode", "ECC"),
                ("persistence_mode", "Persistence"),
                ("gpu_uuid", "UUID"),
            ),
            columns=(
                Column(name="GPU", width=50),
                Column(name="Name", width=220),
                Column(name="Architecture", width=120),
                Column(name="Driver", width=120),
                Column(name="CUDA", width=70),
                Column(name="VBIOS", width=140),
                Column(name="PCI", width=155),
                Column(name="NUMA", width=70),
                *(Column(name=name, width=95) for name in ("MIG", "ECC", "Persistence")),
                Column(name="UUID", width=370),
            ),
        ),
    ),
)

USE = Row(
    "Use",
    (
        Panel(
            title="Busy",
            description="Share of time in which a kernel ran, exact over each interval. It says nothing of how much a kernel used.",
            queries=(Query(expr=BUSY, legend=NAME),),
            unit="percentunit",
            more="workloads",
            maximum=1,
        ),
        Panel(
            title="Memory",
            description="Device memory that is allocated. The dashed line is what there is.",
            queries=(
                Query(expr="<gpu.memory_used_bytes>", legend=NAME),
                Query(expr="max(<gpu.memory_total_bytes>)", legend="total"),
            ),
            unit="bytes",
            more="workloads",
            dashed="total",
        ),
        Panel(
            title="Engines",
            description="Use of the video and picture engines, the highest of the chosen GPUs.",
            queries=(
                Query(expr="max(<gpu.encoder_utilization_percent>)", legend="encoder"),
                Query(expr="max(<gpu.decoder_utilization_percent>)", legend="decoder"),
                Query(expr="max(<gpu.jpeg_utilization_percent>)", legend="JPEG"),
                Query(expr="max(<gpu.ofa_utilization_percent>)", legend="optical flow"),
            ),
            unit="percent",
            more="workloads",
            maximum=100,
            needs="undivided",
        ),
        Panel(
            title="Multiprocessors at work",
            description="Share of time in which a warp was on a multiprocessor, mean of all: how much of the GPU work really uses.",
            queries=(Query(expr="<gpu.sm_active_ratio>", legend=NAME),),
            unit="percentunit",
            more="workloads",
            maximum=1,
            needs="gpm",
        ),
        Panel(
            title="Pipes",
            description="Which units are busy, mean of the chosen GPUs: tensor cores, number formats, warps resident.",
            queries=(
                Query(expr="avg(<gpu.tensor_active_ratio>)", legend="tensor"),
                Query(expr="avg(<gpu.fp64_active_ratio>)", legend="FP64"),
                Query(expr="avg(<gpu.fp32_active_ratio>)", legend="FP32"),
                Query(expr="avg(<gpu.fp16_active_ratio>)", legend="FP16"),
                Query(expr="avg(<gpu.integer_active_ratio>)", legend="integer"),
                Query(expr="avg(<gpu.sm_occupancy_ratio>)", legend="occupancy"),
            ),
            unit="percentunit",
            more="workloads",
            maximum=1,
            needs="gpm",
        ),
        Panel(
            title="Memory bandwidth",
            description="Data moved to and from device memory as a share of the peak, or the driver's coarser share without GPM.",
            queries=(Query(expr="<gpu.dram_active_ratio> or <gpu.memory_utilization_percent> / 100", legend=NAME),),
            unit="percentunit",
            more="workloads",
            maximum=1,
        ),
    ),
)

HEAT_AND_POWER = Row(
    "Heat, power and clocks",
    (
        Panel(
            title="Temperature",
            description="Temperature of the die; the dashed line is where the first of the chosen GPUs slows down.",
            queries=(
                Query(expr="<gpu.temperature_celsius>", legend=NAME),
                Query(expr='min(<gpu.temperature_threshold_celsius threshold="slowdown">)', legend="slowdown"),
            ),
            unit="celsius",
            more="fleet",
            steps=HEAT,
            minimum=None,
            dashed="slowdown",
        ),
        Panel(
            title="Memory temperature",
            description="Temperature of the device memory.",
            queries=(Query(expr="<gpu.memory_temperature_celsius>", legend=NAME),),
            unit="celsius",
            more="fleet",
            minimum=None,
            steps=HEAT,
            needs="memory_sensor",
        ),
        Panel(
            title="Degrees left to a slowdown",
            description="Margin to the nearest threshold (T.Limit); the driver slows a GPU down when it is used up.",
            queries=(Query(expr="<gpu.temperature_margin_celsius>", legend=NAME),),
            unit="celsius",
            more="fleet",
            needs="margin",
        ),
        Panel(
            title="Power",
            description="Power drawn. The dashed line is the lowest limit in force.",
            queries=(
                Query(expr="<gpu.power_watts>", legend=NAME),
                Query(expr='min(<gpu.power_limit_watts limit="enforced">)', legend="limit"),
            ),
            unit="watt",
            more="fleet",
            dashed="limit",
        ),
        Panel(
            title="Multiprocessor clock",
            description="Clock of the multiprocessors. The dashed line is the highest they can have.",
            queries=(
                Query(expr='<gpu.clock_hertz clock="sm">', legend=NAME),
                Query(expr='max(<gpu.clock_max_hertz clock="sm">)', legend="highest"),
            ),
            unit="hertz",
            more="fleet",
            dashed="highest",
        ),
        Panel(
            title="Slowed down",
            description="Share of time in which clocks were held down, by reason, the most of the chosen GPUs. A power cap is no fault.",
            queries=(
                Query(
                    expr="max by (reason) (rate(<gpu.throttle_seconds_total>[$__rate_interval]))", legend="{{reason}}"
                ),
            ),
            unit="percentunit",
            more="fleet",
            maximum=1,
        ),
        Panel(
            title="Performance state",
            description="0 is the fastest, 15 the slowest.",
            queries=(Query(expr="<gpu.performance_state>", legend=NAME),),
            unit="short",
            more="fleet",
            decimals=0,
        ),
        Panel(
            form="bargauge",
            title="Clocks against their highest",
            description="Each clock as a share of its highest, mean of the chosen GPUs.",
            queries=(Query(expr="avg by (clock) (<gpu.clock_hertz> / <gpu.clock_max_hertz>)", legend="{{clock}}"),),
            unit="percentunit",
            more="fleet",
            maximum=1,
            steps=USED,
        ),
        Panel(
            title="Fans",
            description="Speed fans are meant to run at, the highest of a GPU's.",
            queries=(Query(expr=f"max {BY_GPU} (<fan.fan_speed_percent>)", legend=NAME),),
            unit="percent",
            more="fleet",
            maximum=100,
            needs="fan",
        ),
    ),
)

LINKS = Row(
    "Links",
    (
        Panel(
            title="PCIe",
            description="Bytes over PCIe; received is above the axis, sent below.",
            queries=(
                Query(expr="rate(<gpu.pcie_receive_bytes_total>[$__rate_interval])", legend=NAME),
                Query(expr="-rate(<gpu.pcie_transmit_bytes_total>[$__rate_interval])", legend=f"{NAME} sent"),
            ),
            height=10,
            unit="Bps",
            more="workloads",
            minimum=None,
            unlisted=" sent$",
        ),
        Panel(
            title="NVLink",
            description="Bytes over all NVLinks of a GPU; received is above the axis, sent below.",
            queries=(
                Query(
                    expr=f"sum {BY_GPU} (rate(<nvlink.nvlink_receive_bytes_total>[$__rate_interval]))",
                    legend=NAME,
                ),
                Query(
                    expr=f"-sum {BY_GPU} (rate(<nvlink.nvlink_transmit_bytes_total>[$__rate_interval]))",
                    legend=f"{NAME} sent",
                ),
            ),
            height=10,
            unit="Bps",
            more="workloads",
            minimum=None,
            unlisted=" sent$",
            needs="nvlink",
        ),
        Panel(
            form="table",
            title="Links as they are",
            description="PCIe generation and lanes, which may drop while a GPU idles, against what is possible; NVLinks that are up.",
            queries=(
                Query(expr=f'max {BY_GPU} (<gpu.pcie_link_generation kind="current">)', column="PCIe gen"),
                Query(expr=f'max {BY_GPU} (<gpu.pcie_link_generation kind="max">)', column="Max gen"),
                Query(expr=f'max {BY_GPU} (<gpu.pcie_link_width kind="current">)', column="Lanes"),
                Query(expr=f'max {BY_GPU} (<gpu.pcie_link_width kind="max">)', column="Max lanes"),
                Query(expr=f"sum {BY_GPU} (<nvlink.nvlink_up>)", column="NVLinks", needs="nvlink"),
            ),
            height=10,
            unit="none",
            more="fleet",
            labels=(("gpu_id", "GPU"),),
            columns=(
                Column(name="GPU", width=50),
                *(Column(name=name, width=88) for name in ("PCIe gen", "Max gen", "Lanes", "Max lanes", "NVLinks")),
            ),
        ),
    ),
)

FAULTS = Row(
    "Faults",
    (
        Panel(
            title="XID errors",
            description="XID errors by code in each interval; what a code means is in NVIDIA's list of XID errors.",
            queries=(
                Query(
                    expr=f"sum by (gpu_id, xid) ({xids('$__rate_interval')})",
                    legend="GPU {{gpu_id}} XID {{xid}}",
                    needs="fault",
                ),
                NOTHING,
            ),
            unit="short",
            more="fleet",
            bars=True,
            steps=BAD,
        ),
        Panel(
            title="Memory errors",
            description="ECC errors of the chosen GPUs since the driver was loaded; uncorrected ones end what was running.",
            queries=(
                Query(
                    expr='sum by (severity) (<gpu.ecc_errors_total scope="volatile">)',
                    legend="{{severity}}",
                ),
            ),
            unit="short",
            more="fleet",
            needs="ecc",
        ),
        Panel(
            title="Errors on links",
            description="PCIe and NVLink errors in each interval, all chosen GPUs together.",
            queries=(
                Query(
                    expr="sum by (kind) (increase(<gpu.pcie_errors_total>[$__rate_interval]))", legend="PCIe {{kind}}"
                ),
                Query(expr="sum(increase(<gpu.pcie_replays_total>[$__rate_interval]))", legend="PCIe replay"),
                Query(
                    expr="sum by (kind) (increase(<gpu.nvlink_errors_total>[$__rate_interval]))",
                    legend="NVLink {{kind}}",
                    needs="nvlink",
                ),
            ),
            unit="short",
            more="fleet",
        ),
        Panel(
            form="table",
            title="State of repair",
            description="Rows of memory that were replaced or wait for it, and what the driver advises: 0 is nothing to do.",
            queries=(
                Query(expr=f"max {BY_GPU} (<gpu.recovery_action>)", column="Advice"),
                Query(
                    expr=f"sum {BY_GPU} (<gpu.remapped_rows_total>)",
                    column="Rows replaced",
                    needs="remapping",
                ),
                Query(
                    expr=f'sum {BY_GPU} (<gpu.ecc_errors_total severity="uncorrected",scope="aggregate">)',
                    column="Uncorrected ever",
                    needs="ecc",
                ),
                Query(expr=f"max {BY_GPU} (<gpu.row_remap_pending>)", column="Pending", needs="remapping"),
                Query(expr=f"max {BY_GPU} (<gpu.row_remap_failure>)", column="Failed", needs="remapping"),
                Query(
                    expr=f'sum {BY_GPU} (<gpu.row_remap_banks availability="none">)',
                    column="Banks without spares",
                    needs="remapping",
                ),
            ),
            height=10,
            unit="none",
            more="fleet",
            width=16,
            labels=(("gpu_id", "GPU"),),
            columns=(
                Column(name="GPU", width=60),
                Column(name="Advice", steps=BAD),
                Column(name="Pending", steps=BAD),
                Column(name="Failed", steps=BAD),
                Column(name="Banks without spares", steps=BAD),
            ),
        ),
        Panel(
            title="NVLink fabric",
            description="1 where the fabric reports no trouble of a kind, the lowest of the chosen GPUs.",
            queries=(Query(expr="min by (check) (<gpu.fabric_health>)", legend="{{check}}"),),
            height=10,
            unit="short",
            more="fleet",
            steps=GOOD,
            maximum=1,
            decimals=0,
            needs="fabric",
        ),
    ),
)

MIG = Row(
    "MIG devices",
    (
        Panel(
            form="table",
            title="MIG devices",
            description="Each MIG device, how full its memory is and how much of it works.",
            queries=(
                Query(
                    expr="max by (gpu_id, gpu_instance_id, compute_instance_id, profile, mig_uuid) (<mig_info.info>)",
                    column="Info",
                ),
                Query(
                    expr="max by (gpu_id, gpu_instance_id, compute_instance_id, mig_uuid) (<mig.memory_used_bytes>)",
                    column="Memory used",
                ),
                Query(
                    expr="max by (gpu_id, gpu_instance_id, compute_instance_id, mig_uuid)"
                    " (<mig.memory_used_bytes> / <mig.memory_total_bytes>)",
                    column="Memory",
                ),
                Query(
                    expr="max by (gpu_id, gpu_instance_id, compute_instance_id, mig_uuid) (<mig.sm_active_ratio>)",
                    column="Multiprocessors",
                ),
            ),
            unit="none",
            more="workloads",
            width=24,
            labels=(
                ("gpu_id", "GPU"),
                ("gpu_instance_id", "Instance"),
                ("compute_instance_id", "Compute instance"),
                ("profile", "Profile"),
                ("mig_uuid", "UUID"),
            ),
            columns=(
                Column(name="GPU", width=60),
                Column(name="UUID", width=330),
                Column(name="Memory used", unit="bytes"),
                Column(name="Memory", unit="percentunit", bar=True, maximum=1, steps=FULL),
                Column(name="Multiprocessors", unit="percentunit", bar=True, maximum=1, steps=USED),
            ),
            needs="mig",
        ),
        Panel(
            title="Memory of MIG devices",
            description="Memory that each MIG device has allocated.",
            queries=(Query(expr="<mig.memory_used_bytes>", legend=PART),),
            unit="bytes",
            more="workloads",
            needs="mig",
        ),
        Panel(
            title="Multiprocessors of MIG devices",
            description="Share of time in which a warp was on one of a MIG device's multiprocessors, mean of all.",
            queries=(Query(expr="<mig.sm_active_ratio>", legend=PART),),
            unit="percentunit",
            more="workloads",
            maximum=1,
            needs="mig",
        ),
        Panel(
            title="Warps on MIG devices",
            description="Warps resident on a MIG device's multiprocessors, as a share of what they can hold.",
            queries=(Query(expr="<mig.sm_occupancy_ratio>", legend=PART),),
            unit="percentunit",
            more="workloads",
            maximum=1,
            needs="mig",
        ),
        Panel(
            title="Memory bandwidth of MIG devices",
            description="Data moved to and from a MIG device's memory as a share of its peak.",
            queries=(Query(expr="<mig.dram_active_ratio>", legend=PART),),
            unit="percentunit",
            more="workloads",
            maximum=1,
            needs="mig",
        ),
        Panel(
            title="Engines of MIG devices",
            description="Share of time in which any of a MIG device's engines was busy.",
            queries=(Query(expr="<mig.graphics_active_ratio>", legend=PART),),
            unit="percentunit",
            more="workloads",
            maximum=1,
            needs="mig",
        ),
        Panel(
            title="Tensor cores of MIG devices",
            description="Share of time in which a MIG device's tensor cores were busy.",
            queries=(Query(expr="<mig.tensor_active_ratio>", legend=PART),),
            unit="percentunit",
            more="workloads",
            maximum=1,
            needs="mig",
        ),
    ),
    collapsed=True,
)

WHO = Row(
    "Who uses them",
    (
        Panel(
            title="Busy, by kind of work",
            description="How many GPUs' worth of time each kind of work takes.",
            queries=(
                Query(
                    expr="sum by (category) (rate(<workload.busy_seconds_total>[$__rate_interval]))",
                    legend="{{category}}",
                ),
            ),
            unit="short",
            more="workloads",
            stacked=True,
            needs="undivided",
        ),
        Panel(
            title="Memory, by kind of work",
            description="Device memory each kind of work holds; idle is what no process accounts for.",
            queries=(Query(expr="sum by (category) (<workload.memory_used_bytes>)", legend="{{category}}"),),
            unit="bytes",
            more="workloads",
            stacked=True,
        ),
        Panel(
            title="Processes",
            description="Processes on the chosen GPUs, by kind of work.",
            queries=(Query(expr="sum by (category) (<workload.processes>)", legend="{{category}}"),),
            unit="short",
            more="workloads",
            stacked=True,
            needs="work",
        ),
    ),
)

FURTHER = Row(
    "Further readings",
    (
        Panel(
            title="Memory in parts",
            description="Memory of the chosen GPUs: allocated, held back by driver and firmware, and what can be allocated.",
            queries=(
                Query(expr="sum(<gpu.memory_used_bytes>)", legend="used"),
                Query(expr="sum(<gpu.memory_reserved_bytes>)", legend="reserved"),
                Query(expr="sum(<gpu.memory_free_bytes>)", legend="free"),
            ),
            unit="bytes",
            more="workloads",
            stacked=True,
        ),
        Panel(
            title="Window for the CPU (BAR1)",
            description="Share of the window that CPU and other devices see of a GPU's memory which is mapped.",
            queries=(Query(expr="<gpu.bar1_used_bytes> / <gpu.bar1_total_bytes>", legend=NAME),),
            unit="percentunit",
            more="workloads",
            maximum=1,
        ),
        Panel(
            title="Power at the moment",
            description="Power at the moment of reading, where Power above is the mean of a second on newer GPUs.",
            queries=(Query(expr="<gpu.power_instant_watts>", legend=NAME),),
            unit="watt",
            more="fleet",
            needs="instant",
        ),
        Panel(
            title="Protected memory",
            description="Memory in use inside the confidential-computing boundary.",
            queries=(Query(expr="<gpu.protected_memory_used_bytes>", legend=NAME),),
            unit="bytes",
            more="workloads",
            needs="confidential",
        ),
        Panel(
            title="Retired pages",
            description="Pages of memory taken out of use, and whether some wait for a reset.",
            queries=(
                Query(expr="sum by (cause) (<gpu.retired_pages>)", legend="{{cause}}"),
                Query(expr="sum(<gpu.retired_pages_pending>)", legend="GPUs that wait for a reset"),
            ),
            unit="short",
            more="fleet",
            needs="retirement",
        ),
        Panel(
            title="State of the fabric",
            description="Registration with the NVLink fabric: 1 not started, 2 in progress, 3 completed.",
            queries=(Query(expr="<gpu.fabric_state>", legend=NAME),),
            unit="short",
            more="fleet",
            maximum=3,
            decimals=0,
            needs="fabric",
        ),
    ),
    collapsed=True,
)

PODS = Row(
    "Containers that the kubelet has given a GPU",
    (
        Panel(
            form="table",
            title="Containers that have a GPU",
            description="By the kubelet's word, also while they do nothing.",
            queries=(Query(expr="<gpu_pod.pod_info>", needs="kubelet"),),
            width=24,
            unit="none",
            more="workloads",
            labels=(
                ("gpu_id", "GPU"),
                ("namespace", "Namespace"),
                ("pod", "Pod"),
                ("container", "Container"),
                ("resource", "Resource"),
                ("device", "Device"),
            ),
            columns=(Column(name="GPU", width=60),),
            needs="kubelet",
        ),
    ),
    collapsed=True,
)

HOST = Row(
    "Host, and what is not known",
    (
        Panel(
            title="Host",
            description="How busy the machine's cores are, and how much of its memory is not available.",
            queries=(
                Query(
                    expr="rate(<host.cpu_seconds_total>[$__rate_interval]) / on (cluster, job, instance) <host.cpus>",
                    legend="CPU",
                ),
                Query(expr="1 - <host.memory_available_bytes> / <host.memory_total_bytes>", legend="memory"),
            ),
            unit="percentunit",
            more="fleet",
            steps=PLAIN,
            maximum=1,
        ),
        Panel(
            form="table",
            title="Readings that a GPU does not have, or only as an estimate",
            description="Why a panel above may be empty: readings these GPUs lack (0), and those that stand in for one (1).",
            queries=(Query(expr="min by (gpu_name, reading, reason) (<support.reading_supported>)", column="Has it"),),
            unit="none",
            more="gpumon",
            width=16,
            labels=(("gpu_name", "Name"), ("reading", "Reading"), ("reason", "Reason")),
            columns=(Column(name="Has it", width=80), Column(name="Name", width=200)),
        ),
    ),
)

DEVICE = Dashboard(
    key="gpu",
    title="gpumon / Node and GPU",
    description="Everything about one node's GPUs: use, heat, links, faults, MIG devices, and who uses them.",
    variables=(CLUSTER, NODE, GPU),
    rows=(OVERVIEW, USE, HEAT_AND_POWER, LINKS, FAULTS, WHO, HOST, MIG, FURTHER, PODS),
    annotations=EVENTS,
)
