"""The names of dcgm-exporter: a second table over the same readings, given only when telemetry.dcgm_compat asks for it.

Names, types and help of "legacy" are those of dcgm-exporter 4.5.3-4.8.2, from its default-counters.csv, its labels those
of its internal/pkg/rendermetrics. Those of "4.9" are DCGM 4.7's own names of the same fields; their help is gpumon's.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpumon.catalog.gpu import GPU, GPU_XID, NVLINK
from gpumon.catalog.model import EntityKind, Label, Reading

FORMS = ("legacy", "4.9")

# What a value in base units is multiplied with.
TO_MEGA, TO_MILLI, TO_NANO, TO_MIB = 1e-6, 1e3, 1e9, 1 / 2**20
PERCENT_TO_RATIO = 0.01


@dataclass(frozen=True, slots=True)
class Named:
    """What a family is called in one form, and what its reading is multiplied with to be in the unit it has there."""

    name: str
    help: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family of dcgm-exporter: what it is called before and from 4.9 on, and which reading it is.

    `columns` are of `kind`; of several, as of several links of a GPU, it is the sum. `mig` is the column of a MIG device
    that it is there. `rate` makes a counter's growth per second of it. `counts` says that it is a counter;
    `declared` is the type that dcgm-exporter declares where that is not what it is.
    `default` says that dcgm-exporter gives it without being asked.
    """

    legacy: Named | None
    renamed: Named | None
    columns: tuple[str, ...]
    kind: EntityKind = GPU
    mig: str | None = None
    rate: bool = False
    counts: bool = False
    declared: str | None = None
    default: bool = True

    def named(self, form: str) -> Named | None:
        """Give what it is called in a form; None where it has no name there."""
        return self.legacy if form == "legacy" else self.renamed


def _ratio(legacy: str, renamed: str, column: str, help_text: str, *, default: bool = False) -> Family:
    return Family(
        legacy=Named(f"DCGM_FI_PROF_{legacy}", help_text),
        renamed=Named(f"DCGM_FI_PROF_{renamed}", help_text),
        columns=(column,),
        mig=column,
        default=default,
    )


def _percent(legacy: str, renamed: str, column: str, what: str) -> Family:
    return Family(
        legacy=Named(f"DCGM_FI_DEV_{legacy}", f"{what} utilization (in %)."),
        renamed=Named(f"DCGM_FI_DEV_{renamed}", f"{what} utilization, from 0 to 1.", PERCENT_TO_RATIO),
        columns=(column,),
    )


def _memory(legacy: str, renamed: str, column: str, what: str, *, mig: str | None = None) -> Family:
    return Family(
        legacy=Named(f"DCGM_FI_DEV_FB_{legacy}", f"Framebuffer memory {what} (in MiB).", TO_MIB),
        renamed=Named(f"DCGM_FI_DEV_FB_{renamed}_BYTES", f"Framebuffer memory {what}, in bytes."),
        columns=(column,),
        mig=mig,
    )


def _counter(legacy: str, renamed: str, column: str, help_text: str, *, default: bool = False) -> Family:
    return Family(
        legacy=Named(f"DCGM_FI_DEV_{legacy}", help_text),
        renamed=Named(f"DCGM_FI_DEV_{renamed}", help_text),
        columns=(column,),
        counts=True,
        default=default,
    )


def _pcie(direction: str, what: str, column: str) -> Family:
    help_text = (
        f"The rate of data {what} over the PCIe bus - including both protocol headers and data payloads - "
        "in bytes per second."
    )
    name = Named(f"DCGM_FI_PROF_PCIE_{direction}_BYTES", help_text)
    return Family(legacy=name, renamed=name, columns=(column,), rate=True)


FAMILIES = (
    Family(
        legacy=Named("DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz).", TO_MEGA),
        renamed=Named("DCGM_FI_DEV_SM_CLOCK_HERTZ", "SM clock frequency, in hertz."),
        columns=("clock_sm_hertz",),
    ),
    Family(
        legacy=Named("DCGM_FI_DEV_MEM_CLOCK", "Memory clock frequency (in MHz).", TO_MEGA),
        renamed=Named("DCGM_FI_DEV_MEMORY_CLOCK_HERTZ", "Memory clock frequency, in hertz."),
        columns=("clock_memory_hertz",),
    ),
    Family(
        legacy=Named("DCGM_FI_DEV_MEMORY_TEMP", "Memory temperature (in C)."),
        renamed=Named("DCGM_FI_DEV_MEMORY_TEMP_CELSIUS", "Memory temperature, in degrees Celsius."),
        columns=("memory_temperature_celsius",),
    ),
    Family(
        legacy=Named("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C)."),
        renamed=Named("DCGM_FI_DEV_GPU_TEMP_CELSIUS", "GPU temperature, in degrees Celsius."),
        columns=("temperature",),
    ),
    Family(
        legacy=Named("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W)."),
        renamed=Named("DCGM_FI_DEV_BOARD_POWER_WATTS", "Power draw, in watts."),
        columns=("power",),
    ),
    Family(
        legacy=Named("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Total energy consumption since boot (in mJ).", TO_MILLI),
        renamed=Named("DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL", "Energy used since the driver was loaded, in joules."),
        columns=("energy_driver_joules_total",),
        counts=True,
    ),
    _counter(
        "PCIE_REPLAY_COUNTER",
        "PCIE_REPLAY_TOTAL",
        "pcie_replays_total",
        "Total number of PCIe retries.",
        default=True,
    ),
    _percent("GPU_UTIL", "GPU_UTIL_RATIO", "utilization_gpu", "GPU"),
    _percent("MEM_COPY_UTIL", "MEMORY_UTIL_RATIO", "memory_utilization_percent", "Memory"),
    _percent("ENC_UTIL", "ENC_UTIL_RATIO", "encoder_utilization_percent", "Encoder"),
    _percent("DEC_UTIL", "DEC_UTIL_RATIO", "decoder_utilization_percent", "Decoder"),
    _memory("FREE", "FREE", "memory_free_bytes", "free"),
    _memory("USED", "USED", "memory_used", "used", mig="memory_used_bytes"),
    _memory("RESERVED", "RESERVED", "memory_reserved_bytes", "reserved"),
    Family(
        legacy=None,
        renamed=Named("DCGM_FI_DEV_FB_CAPACITY_BYTES", "Framebuffer memory of the device, in bytes."),
        columns=("memory_total",),
        mig="memory_total_bytes",
    ),
    Family(
        legacy=Named(
            "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL",
            "Total number of NVLink bandwidth counters for all lanes.",
            # DCGM divides KiB/s by 1000 and calls it MB/s.
            1 / 1024 / 1000,
        ),
        renamed=Named(
            "DCGM_FI_DEV_NVLINK_THROUGHPUT_BYTES_PER_SECOND",
            "Data sent and received over all NVLinks, in bytes per second.",
        ),
        kind=NVLINK,
        columns=("nvlink_transmit_bytes_total", "nvlink_receive_bytes_total"),
        rate=True,
        declared="counter",
    ),
    _counter(
        "UNCORRECTABLE_REMAPPED_ROWS",
        "ROW_REMAP_UNCORRECTABLE_TOTAL",
        "remapped_rows_uncorrected_total",
        "Number of remapped rows for uncorrectable errors",
        default=True,
    ),
    _counter(
        "CORRECTABLE_REMAPPED_ROWS",
        "ROW_REMAP_CORRECTABLE_TOTAL",
        "remapped_rows_corrected_total",
        "Number of remapped rows for correctable errors",
        default=True,
    ),
    Family(
        legacy=Named("DCGM_FI_DEV_ROW_REMAP_FAILURE", "Whether remapping of rows has failed"),
        renamed=Named("DCGM_FI_DEV_ROW_REMAP_FAILED", "1 when a row could not be remapped."),
        columns=("row_remap_failure",),
    ),
    _ratio(
        "GR_ENGINE_ACTIVE",
        "GR_ENGINE_UTIL_RATIO",
        "graphics_active_ratio",
        "Ratio of time the graphics engine is active.",
        default=True,
    ),
    _ratio(
        "PIPE_TENSOR_ACTIVE",
        "TENSOR_UTIL_RATIO",
        "tensor_active_ratio",
        "Ratio of cycles the tensor (HMMA) pipe is active.",
        default=True,
    ),
    _ratio(
        "DRAM_ACTIVE",
        "DRAM_UTIL_RATIO",
        "dram_active_ratio",
        "Ratio of cycles the device memory interface is active sending or receiving data.",
        default=True,
    ),
    _pcie("TX", "transmitted", "pcie_transmit_bytes_total"),
    _pcie("RX", "received", "pcie_receive_bytes_total"),
    # From here on what dcgm-exporter has to be asked for.
    _ratio("SM_ACTIVE", "SM_UTIL_RATIO", "sm_active_ratio", "The ratio of cycles an SM has at least 1 warp assigned."),
    _ratio(
        "SM_OCCUPANCY", "SM_OCCUPANCY_RATIO", "sm_occupancy_ratio", "The ratio of number of warps resident on an SM."
    ),
    *(
        _ratio(
            f"PIPE_{pipe}_ACTIVE",
            f"{pipe}_UTIL_RATIO",
            f"{pipe.lower()}_active_ratio",
            f"Ratio of cycles the {pipe.lower()} pipes are active.",
        )
        for pipe in ("FP64", "FP32", "FP16")
    ),
    Family(
        legacy=Named("DCGM_FI_DEV_POWER_VIOLATION", "Throttling duration due to power constraints (in ns).", TO_NANO),
        renamed=Named(
            "DCGM_FI_DEV_GPU_POWER_THROTTLE_SECONDS_TOTAL", "Time the clocks were held down for power, in seconds."
        ),
        columns=("throttle_sw_power_cap_seconds_total",),
        counts=True,
        default=False,
    ),
    Family(
        legacy=Named(
            "DCGM_FI_DEV_SYNC_BOOST_VIOLATION", "Throttling duration due to sync-boost constraints (in ns).", TO_NANO
        ),
        renamed=None,
        columns=("throttle_sync_boost_seconds_total",),
        counts=True,
        default=False,
    ),
    *(
        _counter(
            name,
            name,
            f"ecc_errors_{severity}_{scope}_total",
            f"Total number of {bits}-bit {word} ECC errors.",
        )
        for name, severity, scope, bits, word in (
            ("ECC_SBE_VOL_TOTAL", "corrected", "volatile", "single", "volatile"),
            ("ECC_DBE_VOL_TOTAL", "uncorrected", "volatile", "double", "volatile"),
            ("ECC_SBE_AGG_TOTAL", "corrected", "aggregate", "single", "persistent"),
            ("ECC_DBE_AGG_TOTAL", "uncorrected", "aggregate", "double", "persistent"),
        )
    ),
    _counter(
        "RETIRED_SBE",
        "PAGE_RETIRED_SBE_TOTAL",
        "retired_pages_single_bit",
        "Total number of retired pages due to single-bit errors.",
    ),
    _counter(
        "RETIRED_DBE",
        "PAGE_RETIRED_DBE_TOTAL",
        "retired_pages_double_bit",
        "Total number of retired pages due to double-bit errors.",
    ),
    Family(
        legacy=Named("DCGM_FI_DEV_RETIRED_PENDING", "Total number of pages pending retirement."),
        renamed=Named("DCGM_FI_DEV_PAGE_RETIRED_PENDING", "1 when pages wait for a reset to be retired."),
        columns=("retired_pages_pending",),
        declared="counter",
        default=False,
    ),
    *(
        _counter(
            f"NVLINK_{kind}_ERROR_COUNT_TOTAL",
            f"NVLINK_{kind}_ERROR_TOTAL",
            f"nvlink_errors_{kind.lower()}_total",
            f"Total number of NVLink {what}.",
        )
        for kind, what in (
            ("CRC_FLIT", "flow-control CRC errors"),
            ("CRC_DATA", "data CRC errors"),
            ("REPLAY", "retries"),
            ("RECOVERY", "recovery errors"),
        )
    ),
)

# The last XID of a GPU as a gauge; its code is a label as well.
XID = Family(
    legacy=Named("DCGM_FI_DEV_XID_ERRORS", "Value of the last XID error encountered."),
    renamed=Named("DCGM_FI_DEV_XID_ERROR", "Code of the last XID error."),
    kind=GPU_XID,
    columns=("xid_error_timestamp_seconds",),
)


@dataclass(frozen=True, slots=True)
class Missing:
    """A row of dcgm-exporter's lists that gpumon does not give: its name in each form, and why not."""

    names: tuple[str, ...]
    why: str


_WINDOW = "counts what was seen in the last five minutes"

NOT_GIVEN = (
    Missing(
        ("DCGM_FI_DEV_VGPU_LICENSE_STATUS",),
        "the licence of a virtual GPU's guest; gpumon does not read it.",
    ),
    Missing(
        ("DCGM_FI_DEV_THERMAL_VIOLATION", "DCGM_FI_DEV_GPU_THERMAL_THROTTLE_SECONDS_TOTAL"),
        "a counter of older drivers' policies; `gpumon_gpu_throttle_seconds_total` has `sw_thermal` and `hw_thermal`.",
    ),
    Missing(
        (
            "DCGM_FI_DEV_BOARD_LIMIT_VIOLATION",
            "DCGM_FI_DEV_LOW_UTIL_VIOLATION",
            "DCGM_FI_DEV_RELIABILITY_VIOLATION",
        ),
        "counters of older drivers' policies; the reasons that are counted today are in "
        "`gpumon_gpu_throttle_seconds_total`.",
    ),
    Missing(
        ("DCGM_EXP_CLOCK_EVENTS_COUNT", "DCGM_EXP_CLOCK_EVENTS_TOTAL"),
        f"the first {_WINDOW}; `gpumon_gpu_throttle_active` and `gpumon_gpu_throttle_seconds_total` tell it exactly.",
    ),
    Missing(
        ("DCGM_EXP_XID_ERRORS_COUNT", "DCGM_EXP_XID_ERRORS_TOTAL"),
        f"the first {_WINDOW}; use `increase(gpumon_gpu_xid_errors_total[5m])`, which has the code as label `xid`, too.",
    ),
    Missing(
        ("DCGM_EXP_GPU_HEALTH_STATUS",), "what DCGM's own health rules say; gpumon's alert rules take their place."
    ),
    Missing(("DCGM_EXP_P2P_STATUS",), "not read; `gpumon_gpu_nvlink_up` tells of each link."),
    Missing(
        ("DCGM_FI_DEV_NVLINK_BANDWIDTH_L0",),
        "one lane of many; `gpumon_gpu_nvlink_transmit_bytes_total` and `gpumon_gpu_nvlink_receive_bytes_total` have all.",
    ),
    Missing(
        ("DCGM_FI_DEV_SERIAL", "DCGM_FI_DEV_VBIOS_VERSION"),
        "labels that dcgm-exporter has to be asked for; `gpumon_gpu_info` has them as `serial` and `vbios_version`.",
    ),
    Missing(("DCGM_FI_NVML_VERSION",), "a label likewise; `gpumon_build_info` has it as `nvml_version`."),
    Missing(
        (
            "DCGM_FI_DEV_BRAND",
            "DCGM_FI_DEV_OEM_INFOROM_VER",
            "DCGM_FI_DEV_ECC_INFOROM_VER",
            "DCGM_FI_DEV_POWER_INFOROM_VER",
            "DCGM_FI_DEV_INFOROM_IMAGE_VER",
        ),
        "labels likewise; gpumon does not read them.",
    ),
)

# By form: the labels that have other names in the other.
HOST_LABELS = {"legacy": "Hostname", "4.9": "hostname"}
DRIVER_LABELS = {"legacy": "DCGM_FI_DRIVER_VERSION", "4.9": "DCGM_FI_SYSTEM_DRIVER_VERSION"}


def device_labels(form: str) -> tuple[Label, ...]:
    """Give the labels that every series has."""
    return (
        Label("gpu", "NVML index of the device."),
        Label("UUID", "Permanent identifier of the device; of a MIG device's GPU."),
        Label("pci_bus_id", "PCI address."),
        Label("device", '"nvidia" and the index; not the name of a device file.'),
        Label("modelName", "Product name."),
        Label(HOST_LABELS[form], "kubernetes.node_name, else the host's name."),
        Label(DRIVER_LABELS[form], "Driver's version."),
    )


MIG_LABELS = (
    Label("GPU_I_PROFILE", "Profile of a MIG device, as in 1g.10gb; only on its series."),
    Label("GPU_I_ID", "GPU instance of a MIG device; only on its series."),
)
POD_LABELS = (
    Label("container", "Container that has the device; only where it alone has it."),
    Label("namespace", "Its pod's namespace, likewise."),
    Label("pod", "Its pod, likewise."),
)
XID_LABELS = (Label("err_code", "The code once more; only on the family of XID errors."),)


@dataclass(frozen=True, slots=True)
class Table:
    """The kinds of one form: of series that share a set of labels, with and without the labels of a pod.

    Readings stand in the order of `families`, those of `mig` in the order of `mig_families`.
    """

    families: tuple[Family, ...]
    mig_families: tuple[Family, ...]
    gpu: tuple[EntityKind, EntityKind]
    mig: tuple[EntityKind, EntityKind]
    xid: tuple[EntityKind, EntityKind]

    @property
    def kinds(self) -> tuple[EntityKind, ...]:
        """Give all kinds, in the order in which they are exposed."""
        return (*self.gpu, *self.mig, *self.xid)


def table(form: str) -> Table:
    """Give the table of "legacy" or "4.9"."""
    families = tuple(family for family in FAMILIES if family.named(form) is not None)
    mig = tuple(family for family in families if family.mig is not None)
    labels = device_labels(form)
    return Table(
        families,
        mig,
        _kinds("dcgm_gpu", labels, families, form),
        _kinds("dcgm_mig", (*labels, *MIG_LABELS), mig, form),
        _kinds("dcgm_xid", (*labels, *XID_LABELS), (XID,), form),
    )


def _kinds(
    name: str, labels: tuple[Label, ...], families: tuple[Family, ...], form: str
) -> tuple[EntityKind, EntityKind]:
    readings = tuple(
        Reading(name=named.name, help=named.help, counts=family.counts)
        for family in families
        if (named := family.named(form)) is not None
    )
    return (
        EntityKind(name, "A device without a pod.", prefix=None, labels=labels, readings=readings),
        EntityKind(
            f"{name}_pod", "A device that a pod has.", prefix=None, labels=(*labels, *POD_LABELS), readings=readings
        ),
    )
