"""Every reading of a GPU, of its MIG devices, links and fans. To add one, add a row here.

Function, constant and field names are NVML's own (nvml.h, API version 13); units are converted by `scale` where a value is read.
A call whose name does not begin with "nvml" is put together from several in `gpumon.gpu.nvml`.
"""

from __future__ import annotations

from dataclasses import replace

from gpumon.catalog.model import (
    Cadence,
    Call,
    Computed,
    EntityKind,
    Field,
    Gpm,
    Label,
    Otel,
    Reading,
)

SLOW = Cadence.SLOW
MHZ, MILLI, NANO, KIB = 1e6, 1e-3, 1e-9, 1024.0
PERCENT = (0.0, 100.0)
# A sensor that answers outside this range is broken or absent (DCGM drops what is over 200 as well).
CELSIUS = (-100.0, 200.0)
RATIO = (0.0, 1.0)

GPU_LABELS = (
    Label("gpu_id", "NVML index of the device.", integer=True),
    Label("gpu_name", "Product name.", (Call("nvmlDeviceGetName"),), "hw.name"),
    Label("gpu_uuid", "Permanent identifier of the device; to join on.", (Call("nvmlDeviceGetUUID"),), "hw.id"),
)

# nvmlClocksEventReasons: the bit of each reason in the mask, and the field that counts its time, where there is one.
THROTTLE_BITS = {
    "gpu_idle": 0,
    "applications_clocks": 1,
    "sw_power_cap": 2,
    "hw_slowdown": 3,
    "sync_boost": 4,
    "sw_thermal": 5,
    "hw_thermal": 6,
    "hw_power_brake": 7,
    "display_clocks": 8,
}
THROTTLE_FIELDS = {
    "sw_power_cap": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP",
    "sync_boost": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST",
    "sw_thermal": "NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN",
    "hw_thermal": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN",
    "hw_power_brake": "NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN",
}
CLOCKS = {
    "graphics": "NVML_CLOCK_GRAPHICS",
    "sm": "NVML_CLOCK_SM",
    "memory": "NVML_CLOCK_MEM",
    "video": "NVML_CLOCK_VIDEO",
}
THRESHOLDS = {
    "shutdown": "NVML_TEMPERATURE_THRESHOLD_SHUTDOWN",
    "slowdown": "NVML_TEMPERATURE_THRESHOLD_SLOWDOWN",
    "memory_max": "NVML_TEMPERATURE_THRESHOLD_MEM_MAX",
    "gpu_max": "NVML_TEMPERATURE_THRESHOLD_GPU_MAX",
}
TLIMITS = {
    "shutdown": "NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT",
    "slowdown": "NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT",
    "memory_max": "NVML_FI_DEV_TEMPERATURE_MEM_MAX_TLIMIT",
    "gpu_max": "NVML_FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT",
}
# Where each check stands in healthMask of nvmlGpuFabricInfo; two bits, 1 for trouble and 2 for none.
FABRIC_CHECKS = {
    "degraded_bandwidth": 0,
    "route_recovery": 2,
    "route_unhealthy": 4,
    "access_timeout_recovery": 6,
}
FABRIC_HEALTHY = {1: 0.0, 2: 1.0}

USE = (
    Reading(
        name="utilization_percent",
        help="Share of the driver's last sample period (1/6 to 1 s) in which a kernel ran, not how much of the GPU it used.",
        sources=(Call("nvmlDeviceGetUtilizationRates", pick="gpu"),),
        limits=PERCENT,
        otel=Otel("hw.gpu.utilization", "1", 0.01, (("hw.gpu.task", "general"),)),
        column="utilization_gpu",
    ),
    Reading(
        name="busy_seconds_total",
        help="Utilisation integrated over time since gpumon started, so that its rate over any interval is the exact mean: "
        'method "samples" from the driver\'s own sample buffer, "polled" from one reading per tick.',
        labels=("method",),
        values={
            ("samples",): (Computed("busy_from_samples", "nvmlDeviceGetSamples(NVML_GPU_UTILIZATION_SAMPLES)"),),
            ("polled",): (Computed("busy_from_polling", "gpumon_gpu_utilization_percent", estimated=True),),
        },
    ),
    Reading(
        name="memory_utilization_percent",
        help="Share of the driver's last sample period in which device memory was read or written.",
        sources=(Call("nvmlDeviceGetUtilizationRates", pick="memory"),),
        limits=PERCENT,
    ),
    *(
        Reading(
            name=f"{engine}_utilization_percent",
            help=f"Use of the {what} in the driver's last sample period.",
            sources=(Call(function, pick=0),),
            limits=PERCENT,
            otel=Otel("hw.gpu.utilization", "1", 0.01, (("hw.gpu.task", engine),)),
        )
        for engine, what, function in (
            ("encoder", "video encoder", "nvmlDeviceGetEncoderUtilization"),
            ("decoder", "video decoder", "nvmlDeviceGetDecoderUtilization"),
            ("jpeg", "JPEG decoder", "nvmlDeviceGetJpgUtilization"),
            ("ofa", "optical flow accelerator", "nvmlDeviceGetOfaUtilization"),
        )
    ),
)

MEMORY_V2 = ("nvmlMemory_v2",)

MEMORY = (
    Reading(
        name="memory_used_bytes",
        help="Device memory allocated; drivers before 510 count what they reserve as well. "
        "On a unified-memory device, the system's memory in use.",
        sources=(
            Call("nvmlDeviceGetMemoryInfo", MEMORY_V2, pick="used"),
            Call("nvmlDeviceGetMemoryInfo", pick="used"),
            Computed("system_memory_used", "unified memory, from /proc/meminfo"),
        ),
        otel=Otel("hw.gpu.memory.usage", additive=True),
        column="memory_used",
    ),
    Reading(
        name="memory_total_bytes",
        help="Device memory; on a unified-memory device, the system's memory.",
        sources=(
            Call("nvmlDeviceGetMemoryInfo", MEMORY_V2, pick="total"),
            Call("nvmlDeviceGetMemoryInfo", pick="total"),
            Computed("system_memory_total", "unified memory, from /proc/meminfo"),
        ),
        otel=Otel("hw.gpu.memory.limit", additive=True),
        column="memory_total",
    ),
    Reading(
        name="memory_free_bytes",
        help="Device memory that can be allocated; on a unified-memory device, the system's available memory.",
        sources=(
            Call("nvmlDeviceGetMemoryInfo", MEMORY_V2, pick="free"),
            Call("nvmlDeviceGetMemoryInfo", pick="free"),
            Computed("system_memory_available", "unified memory, from /proc/meminfo"),
        ),
    ),
    Reading(
        name="memory_reserved_bytes",
        help="Device memory held back by driver and firmware.",
        sources=(Call("nvmlDeviceGetMemoryInfo", MEMORY_V2, pick="reserved"),),
    ),
    Reading(
        name="bar1_used_bytes",
        help="Window of device memory mapped for the CPU and other devices, in use.",
        sources=(Call("nvmlDeviceGetBAR1MemoryInfo", pick="bar1Used"),),
    ),
    Reading(
        name="bar1_total_bytes",
        help="Window of device memory that can be mapped for the CPU and other devices.",
        sources=(Call("nvmlDeviceGetBAR1MemoryInfo", pick="bar1Total"),),
        cadence=SLOW,
    ),
    Reading(
        name="protected_memory_used_bytes",
        help="Device memory in use inside the confidential-computing boundary.",
        sources=(Call("nvmlDeviceGetConfComputeProtectedMemoryUsage", pick="used"),),
        cadence=SLOW,
    ),
)

HEAT_AND_POWER = (
    Reading(
        name="temperature_celsius",
        help="Temperature of the GPU die.",
        sources=(
            Call("nvmlDeviceGetTemperatureV", ("NVML_TEMPERATURE_GPU",)),
            Call("nvmlDeviceGetTemperature", ("NVML_TEMPERATURE_GPU",)),
        ),
        limits=CELSIUS,
        otel=Otel("hw.temperature", attributes=(("hw.type", "gpu"), ("hw.sensor_location", "gpu"))),
        column="temperature",
    ),
    Reading(
        name="memory_temperature_celsius",
        help="Temperature of the device memory.",
        # Drivers of branch 545 name another type than the unsigned int they store (comment in DCGM's source).
        sources=(Field("NVML_FI_DEV_MEMORY_TEMP", value_type="NVML_VALUE_TYPE_UNSIGNED_INT"),),
        limits=CELSIUS,
        otel=Otel("hw.temperature", attributes=(("hw.type", "gpu"), ("hw.sensor_location", "memory"))),
    ),
    Reading(
        name="temperature_margin_celsius",
        help="Degrees left to the nearest slowdown threshold (T.Limit).",
        sources=(Call("nvmlDeviceGetMarginTemperature"),),
        limits=CELSIUS,
    ),
    Reading(
        name="temperature_threshold_celsius",
        help="Temperature at which the device slows down or shuts down.",
        labels=("threshold",),
        values={
            (name,): (Call("nvmlDeviceGetTemperatureThreshold", (constant,)),) for name, constant in THRESHOLDS.items()
        },
        cadence=SLOW,
        limits=CELSIUS,
    ),
    Reading(
        name="temperature_margin_threshold_celsius",
        help="Margin (T.Limit) at which the device slows down or shuts down; "
        "compare with gpumon_gpu_temperature_margin_celsius.",
        labels=("threshold",),
        values={(name,): (Field(constant),) for name, constant in TLIMITS.items()},
        cadence=SLOW,
        limits=CELSIUS,
    ),
    Reading(
        name="power_watts",
        help="Power drawn: mean of the last second on Ampere (but GA100) and newer, else instantaneous.",
        sources=(
            Field("NVML_FI_DEV_POWER_AVERAGE", scale=MILLI),
            Call("nvmlDeviceGetPowerUsage", scale=MILLI),
        ),
        otel=Otel("hw.power", attributes=(("hw.type", "gpu"),)),
        column="power",
    ),
    Reading(
        name="power_instant_watts",
        help="Power drawn at the moment of reading.",
        sources=(Field("NVML_FI_DEV_POWER_INSTANT", scale=MILLI),),
    ),
    Reading(
        name="power_limit_watts",
        help="Power limits: enforced is the lowest in force, requested what an operator set, min and max what may be set.",
        labels=("limit",),
        values={
            ("enforced",): (
                Call("nvmlDeviceGetEnforcedPowerLimit", scale=MILLI),
                Field("NVML_FI_DEV_POWER_CURRENT_LIMIT", scale=MILLI),
            ),
            ("requested",): (
                Field("NVML_FI_DEV_POWER_REQUESTED_LIMIT", scale=MILLI),
                Call("nvmlDeviceGetPowerManagementLimit", scale=MILLI),
            ),
            ("default",): (Call("nvmlDeviceGetPowerManagementDefaultLimit", scale=MILLI),),
            ("min",): (Call("nvmlDeviceGetPowerManagementLimitConstraints", pick=0, scale=MILLI),),
            ("max",): (Call("nvmlDeviceGetPowerManagementLimitConstraints", pick=1, scale=MILLI),),
        },
        cadence=SLOW,
    ),
    Reading(
        name="energy_joules_total",
        help='Energy used: method "driver" since the driver was loaded, "integrated" from power since gpumon started, '
        "for a device that has no counter.",
        labels=("method",),
        values={
            ("driver",): (
                Field("NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION", scale=MILLI),
                Call("nvmlDeviceGetTotalEnergyConsumption", scale=MILLI),
            ),
            ("integrated",): (Computed("energy_from_power", "gpumon_gpu_power_watts", estimated=True),),
        },
        otel=Otel("hw.energy", attributes=(("hw.type", "gpu"),)),
    ),
)

CLOCKS_AND_THROTTLING = (
    Reading(
        name="clock_hertz",
        help="Clock frequency.",
        labels=("clock",),
        values={
            (name,): (Call("nvmlDeviceGetClockInfo", (constant,), scale=MHZ),) for name, constant in CLOCKS.items()
        },
    ),
    Reading(
        name="clock_max_hertz",
        help="Highest clock frequency.",
        labels=("clock",),
        values={
            (name,): (Call("nvmlDeviceGetMaxClockInfo", (constant,), scale=MHZ),) for name, constant in CLOCKS.items()
        },
        cadence=SLOW,
    ),
    Reading(
        name="performance_state",
        help="P-state: 0 is the fastest, 15 the slowest.",
        sources=(Call("nvmlDeviceGetPerformanceState"),),
        limits=(0, 15),
    ),
    Reading(
        name="throttle_active",
        help="1 while the clocks are held down for this reason; gpu_idle and applications_clocks are no fault.",
        labels=("reason",),
        values={
            (reason,): (
                Call("nvmlDeviceGetCurrentClocksEventReasons", bits=(bit, 1)),
                Call("nvmlDeviceGetCurrentClocksThrottleReasons", bits=(bit, 1)),
            )
            for reason, bit in THROTTLE_BITS.items()
        },
    ),
    Reading(
        name="throttle_seconds_total",
        help="Time the clocks were held down for this reason, counted by the driver.",
        labels=("reason",),
        values={(reason,): (Field(constant, scale=NANO),) for reason, constant in THROTTLE_FIELDS.items()},
    ),
)

LINKS = (
    Reading(
        name="pcie_transmit_bytes_total",
        help="Bytes sent over PCIe, counted by the device.",
        sources=(Field("NVML_FI_DEV_PCIE_COUNT_TX_BYTES"),),
        otel=Otel("hw.gpu.io", attributes=(("network.io.direction", "transmit"),)),
    ),
    Reading(
        name="pcie_receive_bytes_total",
        help="Bytes received over PCIe, counted by the device.",
        sources=(Field("NVML_FI_DEV_PCIE_COUNT_RX_BYTES"),),
        otel=Otel("hw.gpu.io", attributes=(("network.io.direction", "receive"),)),
    ),
    Reading(
        name="pcie_replays_total",
        help="PCIe packets sent again after an error.",
        sources=(Field("NVML_FI_DEV_PCIE_REPLAY_COUNTER"), Call("nvmlDeviceGetPcieReplayCounter")),
        cadence=SLOW,
    ),
    Reading(
        name="pcie_errors_total",
        help="PCIe errors counted by the device.",
        labels=("kind",),
        values={
            ("correctable",): (Field("NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS"),),
            ("non_fatal",): (Field("NVML_FI_DEV_PCIE_COUNT_NON_FATAL_ERROR"),),
            ("fatal",): (Field("NVML_FI_DEV_PCIE_COUNT_FATAL_ERROR"),),
        },
        cadence=SLOW,
    ),
    Reading(
        name="pcie_link_generation",
        help="PCIe generation: current may drop while the device idles, max is what device and slot allow.",
        labels=("kind",),
        values={
            ("current",): (Call("nvmlDeviceGetCurrPcieLinkGeneration"),),
            ("max",): (Call("nvmlDeviceGetMaxPcieLinkGeneration"),),
        },
        cadence=SLOW,
    ),
    Reading(
        name="pcie_link_width",
        help="PCIe lanes in use and possible.",
        labels=("kind",),
        values={
            ("current",): (Call("nvmlDeviceGetCurrPcieLinkWidth"),),
            ("max",): (Call("nvmlDeviceGetMaxPcieLinkWidth"),),
        },
        cadence=SLOW,
    ),
    Reading(
        name="nvlink_errors_total",
        help="NVLink errors of all links: damaged flits or data (crc), packets sent again (replay), links re-trained (recovery).",
        labels=("kind",),
        values={
            ("crc_flit",): (Field("NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL"),),
            ("crc_data",): (Field("NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL"),),
            ("replay",): (Field("NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL"),),
            ("recovery",): (Field("NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL"),),
            ("ecc_data",): (Field("NVML_FI_DEV_NVLINK_ECC_DATA_ERROR_COUNT_TOTAL"),),
        },
        cadence=SLOW,
        otel=Otel("hw.errors", "{error}", attributes=(("hw.type", "gpu"),), labels=(("kind", "error.type"),)),
    ),
    Reading(
        name="fabric_state",
        help="Registration with the NVLink fabric: 1 not started, 2 in progress, 3 completed.",
        sources=(Call("fabric_info", pick="state"),),
        cadence=SLOW,
        limits=(1, 3),
    ),
    Reading(
        name="fabric_health",
        help="1 where the fabric reports no trouble of this kind, 0 where it does.",
        labels=("check",),
        values={
            (check,): (Call("fabric_info", pick="healthMask", bits=(shift, 0x3), map=FABRIC_HEALTHY),)
            for check, shift in FABRIC_CHECKS.items()
        },
        cadence=SLOW,
    ),
)

ECC_SEVERITIES = {
    "corrected": "NVML_MEMORY_ERROR_TYPE_CORRECTED",
    "uncorrected": "NVML_MEMORY_ERROR_TYPE_UNCORRECTED",
}
ECC_SCOPES = {"volatile": "NVML_VOLATILE_ECC", "aggregate": "NVML_AGGREGATE_ECC"}

FAULTS = (
    Reading(
        name="ecc_errors_total",
        help="Memory errors: volatile since the driver was loaded, aggregate over the life of the device.",
        labels=("severity", "scope"),
        values={
            (severity, scope): (Call("nvmlDeviceGetTotalEccErrors", (error, counter)),)
            for severity, error in ECC_SEVERITIES.items()
            for scope, counter in ECC_SCOPES.items()
        },
        cadence=SLOW,
        otel=Otel("hw.errors", "{error}", attributes=(("hw.type", "gpu"),), labels=(("severity", "error.type"),)),
    ),
    Reading(
        name="retired_pages",
        help="Pages of device memory taken out of use (before Ampere).",
        labels=("cause",),
        values={
            ("single_bit",): (Field("NVML_FI_DEV_RETIRED_SBE"),),
            ("double_bit",): (Field("NVML_FI_DEV_RETIRED_DBE"),),
        },
        cadence=SLOW,
    ),
    Reading(
        name="retired_pages_pending",
        help="1 when pages wait for a reset to be taken out of use (before Ampere).",
        sources=(Field("NVML_FI_DEV_RETIRED_PENDING"),),
        cadence=SLOW,
    ),
    Reading(
        name="remapped_rows_total",
        help="Rows of device memory replaced by spare ones (Ampere and newer).",
        labels=("severity",),
        values={
            ("corrected",): (Call("nvmlDeviceGetRemappedRows", pick=0), Field("NVML_FI_DEV_REMAPPED_COR")),
            ("uncorrected",): (Call("nvmlDeviceGetRemappedRows", pick=1), Field("NVML_FI_DEV_REMAPPED_UNC")),
        },
        cadence=SLOW,
    ),
    Reading(
        name="row_remap_pending",
        help="1 when rows wait for a reset to be replaced.",
        sources=(Call("nvmlDeviceGetRemappedRows", pick=2), Field("NVML_FI_DEV_REMAPPED_PENDING")),
        cadence=SLOW,
    ),
    Reading(
        name="row_remap_failure",
        help="1 when a row could not be replaced: the device should be.",
        sources=(Call("nvmlDeviceGetRemappedRows", pick=3), Field("NVML_FI_DEV_REMAPPED_FAILURE")),
        cadence=SLOW,
    ),
    Reading(
        name="row_remap_banks",
        help="Memory banks by how many spare rows they have left.",
        labels=("availability",),
        values={
            (level,): (Call("nvmlDeviceGetRowRemapperHistogram", pick=level),)
            for level in ("max", "high", "partial", "low", "none")
        },
        cadence=SLOW,
    ),
    Reading(
        name="xid_last_timestamp_seconds",
        help="Unix time of the last XID seen since gpumon started.",
        sources=(Computed("xid_last_timestamp", "NVML events and /dev/kmsg"),),
    ),
    Reading(
        name="recovery_action",
        help="What the driver advises: 0 nothing, 1 reset the GPU, 2 reboot the node, 3 drain peers, 4 drain and reset, "
        "5 recover the IMEX domain, 6 reset the bus, 7 reboot the system.",
        sources=(Field("NVML_FI_DEV_GET_GPU_RECOVERY_ACTION"),),
        cadence=SLOW,
    ),
)


def _active(name: str, what: str, metric: str) -> Reading:
    return Reading(
        name=f"{name}_active_ratio",
        help=f"Share of the time since the last tick in which {what}.",
        sources=(Gpm(metric),),
        limits=RATIO,
    )


PROFILING = (
    _active("graphics", "any graphics or compute engine was busy", "NVML_GPM_METRIC_GRAPHICS_UTIL"),
    _active("sm", "a warp was on a streaming multiprocessor, averaged over all of them", "NVML_GPM_METRIC_SM_UTIL"),
    Reading(
        name="sm_occupancy_ratio",
        help="Warps resident on the streaming multiprocessors, as a share of what they can hold.",
        sources=(Gpm("NVML_GPM_METRIC_SM_OCCUPANCY"),),
        limits=RATIO,
    ),
    _active("tensor", "the tensor cores were busy", "NVML_GPM_METRIC_ANY_TENSOR_UTIL"),
    _active("dram", "device memory moved data, as a share of its peak bandwidth", "NVML_GPM_METRIC_DRAM_BW_UTIL"),
    _active("fp64", "the double-precision pipes were busy", "NVML_GPM_METRIC_FP64_UTIL"),
    _active("fp32", "the single-precision pipes were busy", "NVML_GPM_METRIC_FP32_UTIL"),
    _active("fp16", "the half-precision pipes were busy", "NVML_GPM_METRIC_FP16_UTIL"),
    _active("integer", "the integer pipes were busy", "NVML_GPM_METRIC_INTEGER_UTIL"),
)

GPU = EntityKind(
    "gpu",
    "One GPU.",
    prefix="gpu",
    labels=GPU_LABELS,
    readings=USE + MEMORY + HEAT_AND_POWER + CLOCKS_AND_THROTTLING + LINKS + FAULTS + PROFILING,
    table="gpu_metrics",
)

GPU_INFO = EntityKind(
    "gpu_info",
    "What a GPU is.",
    prefix="gpu",
    labels=(
        *GPU_LABELS,
        Label("driver_version", "Driver's version.", (Call("nvmlSystemGetDriverVersion"),), "hw.driver_version"),
        Label("cuda_version", "Newest CUDA version the driver supports.", (Call("cuda_version"),)),
        Label("pci_bus_id", "PCI address.", (Call("nvmlDeviceGetPciInfo", pick="busId"),)),
        Label("serial", "Serial number on the board.", (Call("nvmlDeviceGetSerial"),), "hw.serial_number"),
        Label("vbios_version", "VBIOS version.", (Call("nvmlDeviceGetVbiosVersion"),), "hw.firmware_version"),
        Label("architecture", "Name of the architecture.", (Call("architecture"),)),
        Label("minor_number", "Number N of /dev/nvidiaN.", (Call("nvmlDeviceGetMinorNumber"),)),
        Label("numa_node", "NUMA node the GPU is attached to.", (Call("nvmlDeviceGetNumaNodeId"),)),
        Label("memory_kind", '"dedicated", or "unified" where GPU and system share memory.', (Call("memory_kind"),)),
        Label("mig_mode", '"enabled" or "disabled" on a GPU that can be partitioned.', (Call("mig_mode"),)),
        Label("ecc_mode", '"enabled" or "disabled" on a GPU with ECC memory.', (Call("ecc_mode"),)),
        Label(
            "persistence_mode", '"enabled" when the driver stays loaded without clients.', (Call("persistence_mode"),)
        ),
    ),
    readings=(Reading(name="info", help="Always 1; what the GPU is, in labels."),),
)

GPU_XID = EntityKind(
    "gpu_xid",
    "XID errors of a GPU, one entity per code seen.",
    prefix="gpu",
    labels=(*GPU_LABELS, Label("xid", "NVIDIA's error code.")),
    readings=(
        Reading(
            name="xid_errors_total",
            help="XID errors since gpumon started, from NVML's events and the kernel log, each counted once.",
            otel=Otel("hw.errors", "{error}", attributes=(("hw.type", "gpu"), ("error.type", "xid"))),
        ),
        Reading(name="xid_error_timestamp_seconds", help="Unix time of the last XID error of this code."),
    ),
)

NVLINK = EntityKind(
    "nvlink",
    "One NVLink of a GPU.",
    prefix="gpu",
    parameter="link",
    labels=(*GPU_LABELS, Label("link", "Number of the link on the GPU.")),
    readings=(
        Reading(
            name="nvlink_up",
            help="1 while the link is active.",
            sources=(Call("nvmlDeviceGetNvLinkState", ("link",)),),
            cadence=SLOW,
        ),
        Reading(
            name="nvlink_transmit_bytes_total",
            help="Bytes of data sent over the link, without protocol overhead where the device can tell.",
            sources=(
                Field("NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX", "link", KIB),
                Field("NVML_FI_DEV_NVLINK_COUNT_XMIT_BYTES", "link"),
            ),
        ),
        Reading(
            name="nvlink_receive_bytes_total",
            help="Bytes of data received over the link, without protocol overhead where the device can tell.",
            sources=(
                Field("NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX", "link", KIB),
                Field("NVML_FI_DEV_NVLINK_COUNT_RCV_BYTES", "link"),
            ),
        ),
    ),
)

FAN = EntityKind(
    "fan",
    "One fan of a GPU.",
    prefix="gpu",
    parameter="fan",
    labels=(*GPU_LABELS, Label("fan", "Number of the fan on the GPU.")),
    readings=(
        Reading(
            name="fan_speed_percent",
            help="Speed the fan is meant to run at, as a share of its maximum; may exceed 100.",
            sources=(Call("nvmlDeviceGetFanSpeed_v2", ("fan",)),),
            limits=(0, 255),
            otel=Otel("hw.fan.speed_ratio", "1", 0.01),
        ),
    ),
)

MIG_LABELS = (
    # In OpenTelemetry's terms the MIG device is the hardware here, and the GPU its parent.
    *(replace(label, otel="hw.parent") if label.name == "gpu_uuid" else label for label in GPU_LABELS),
    Label("gpu_instance_id", "GPU instance on the device.", (Call("nvmlDeviceGetGpuInstanceId"),), integer=True),
    Label(
        "compute_instance_id",
        "Compute instance in the GPU instance.",
        (Call("nvmlDeviceGetComputeInstanceId"),),
        integer=True,
    ),
    Label("mig_uuid", "Identifier of the MIG device.", (Call("nvmlDeviceGetUUID"),), "hw.id"),
)

MIG = EntityKind(
    "mig",
    "One MIG device: a compute instance of a GPU instance. The GPU's own readings are not repeated here.",
    prefix="mig",
    labels=MIG_LABELS,
    readings=(
        Reading(
            name="memory_used_bytes",
            help="Memory of the MIG device in use.",
            sources=(
                Call("nvmlDeviceGetMemoryInfo", MEMORY_V2, pick="used"),
                Call("nvmlDeviceGetMemoryInfo", pick="used"),
            ),
            otel=Otel("hw.gpu.memory.usage", additive=True),
        ),
        Reading(
            name="memory_total_bytes",
            help="Memory of the MIG device.",
            sources=(
                Call("nvmlDeviceGetMemoryInfo", MEMORY_V2, pick="total"),
                Call("nvmlDeviceGetMemoryInfo", pick="total"),
            ),
            otel=Otel("hw.gpu.memory.limit", additive=True),
        ),
        *PROFILING,
    ),
    table="mig_metrics",
)

MIG_INFO = EntityKind(
    "mig_info",
    "What a MIG device is.",
    prefix="mig",
    labels=(
        *MIG_LABELS,
        Label("profile", "Profile, as in 1g.10gb.", (Call("mig_profile"),)),
        Label(
            "multiprocessors",
            "Streaming multiprocessors.",
            (Call("nvmlDeviceGetAttributes_v2", pick="multiprocessorCount"),),
        ),
    ),
    readings=(Reading(name="info", help="Always 1; what the MIG device is, in labels."),),
)

GPU_KINDS = (GPU, GPU_INFO, GPU_XID, NVLINK, FAN, MIG, MIG_INFO)
