"""What nvidia-smi's query fields mean in the catalogue's terms. To take up another field, add a row here.

Names are those of `nvidia-smi --help-query-gpu` of drivers 450 to 610. Not everything could be checked on real output:
the words of fabric.health.* and of recovery actions other than None and Reset are from NVIDIA's documents and sources.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gpumon.catalog import FAN, GPU, EntityKind
from gpumon.catalog.gpu import ECC_SCOPES, ECC_SEVERITIES

# Units as nvidia-smi writes them, and what one is in the catalogue's units.
UNITS = {"": 1.0, "%": 1.0, "W": 1.0, "MiB": 1024.0**2, "MHz": 1e6, "us": 1e-6}


@dataclass(frozen=True, slots=True)
class SmiField:
    """One column of an entity and the fields that hold it: the first that has a value on a GPU is used.

    A field is a number in `unit`, or one of `words`.
    """

    column: str
    fields: tuple[str, ...]
    unit: str = ""
    words: Mapping[str, float] | None = None
    kind: EntityKind = GPU


ACTIVE = {"Active": 1.0, "Not Active": 0.0}
YES = {"Yes": 1.0, "No": 0.0}
HEALTHY = {"False": 1.0, "True": 0.0}  # the fields say whether there is trouble
BANDWIDTH = {"Full": 1.0, "Degraded": 0.0, **HEALTHY}
PERFORMANCE_STATES = {f"P{i}": float(i) for i in range(16)}
FABRIC_STATES = {"Not Started": 1.0, "In Progress": 2.0, "Completed": 3.0}
RECOVERY_ACTIONS = {"None": 0.0, "Reset": 1.0, "Reboot": 2.0, "Drain P2P": 3.0, "Drain and Reset": 4.0}

THROTTLE_NAMES = {
    "gpu_idle": "gpu_idle",
    "applications_clocks": "applications_clocks_setting",
    "sw_power_cap": "sw_power_cap",
    "hw_slowdown": "hw_slowdown",
    "sync_boost": "sync_boost",
    "sw_thermal": "sw_thermal_slowdown",
    "hw_thermal": "hw_thermal_slowdown",
    "hw_power_brake": "hw_power_brake_slowdown",
}
THROTTLE_COUNTERS = ("sw_power_cap", "sync_boost", "sw_thermal", "hw_thermal", "hw_power_brake")

SMI_FIELDS: tuple[SmiField, ...] = (
    SmiField("utilization_gpu", ("utilization.gpu",), "%"),
    SmiField("memory_utilization_percent", ("utilization.memory",), "%"),
    *(
        SmiField(f"{engine}_utilization_percent", (f"utilization.{engine}",), "%")
        for engine in ("encoder", "decoder", "jpeg", "ofa")
    ),
    SmiField("memory_used", ("memory.used",), "MiB"),
    SmiField("memory_total", ("memory.total",), "MiB"),
    SmiField("memory_free_bytes", ("memory.free",), "MiB"),
    SmiField("memory_reserved_bytes", ("memory.reserved",), "MiB"),
    SmiField("protected_memory_used_bytes", ("protected_memory.used",), "MiB"),
    SmiField("temperature", ("temperature.gpu",)),
    SmiField("memory_temperature_celsius", ("temperature.memory",)),
    SmiField("temperature_margin_celsius", ("temperature.gpu.tlimit",)),
    SmiField("power", ("power.draw.average", "power.draw"), "W"),
    SmiField("power_instant_watts", ("power.draw.instant",), "W"),
    SmiField("power_limit_enforced_watts", ("enforced.power.limit",), "W"),
    SmiField("power_limit_requested_watts", ("power.limit",), "W"),
    SmiField("power_limit_default_watts", ("power.default_limit",), "W"),
    SmiField("power_limit_min_watts", ("power.min_limit",), "W"),
    SmiField("power_limit_max_watts", ("power.max_limit",), "W"),
    *(
        SmiField(f"clock_{clock}_hertz", (f"clocks.current.{clock}",), "MHz")
        for clock in ("graphics", "sm", "memory", "video")
    ),
    *(SmiField(f"clock_max_{clock}_hertz", (f"clocks.max.{clock}",), "MHz") for clock in ("graphics", "sm", "memory")),
    SmiField("performance_state", ("pstate",), words=PERFORMANCE_STATES),
    *(
        # Named throttle reasons before driver 535.
        SmiField(
            f"throttle_active_{reason}",
            (f"clocks_event_reasons.{name}", f"clocks_throttle_reasons.{name}"),
            words=ACTIVE,
        )
        for reason, name in THROTTLE_NAMES.items()
    ),
    *(
        SmiField(f"throttle_{reason}_seconds_total", (f"clocks_event_reasons_counters.{THROTTLE_NAMES[reason]}",), "us")
        for reason in THROTTLE_COUNTERS
    ),
    SmiField("pcie_link_generation_current", ("pcie.link.gen.gpucurrent", "pcie.link.gen.current")),
    SmiField("pcie_link_generation_max", ("pcie.link.gen.max",)),
    SmiField("pcie_link_width_current", ("pcie.link.width.current",)),
    SmiField("pcie_link_width_max", ("pcie.link.width.max",)),
    SmiField("fabric_state", ("fabric.state",), words=FABRIC_STATES),
    SmiField("fabric_health_degraded_bandwidth", ("fabric.health.bandwidth",), words=BANDWIDTH),
    SmiField("fabric_health_route_recovery", ("fabric.health.route_recovery_in_progress",), words=HEALTHY),
    SmiField("fabric_health_route_unhealthy", ("fabric.health.route_unhealthy",), words=HEALTHY),
    SmiField("fabric_health_access_timeout_recovery", ("fabric.health.access_timeout_recovery",), words=HEALTHY),
    *(
        SmiField(f"ecc_errors_{severity}_{scope}_total", (f"ecc.errors.{severity}.{scope}.total",))
        for severity in ECC_SEVERITIES
        for scope in ECC_SCOPES
    ),
    SmiField("retired_pages_single_bit", ("retired_pages.single_bit_ecc.count", "retired_pages.sbe")),
    SmiField("retired_pages_double_bit", ("retired_pages.double_bit.count", "retired_pages.dbe")),
    SmiField("retired_pages_pending", ("retired_pages.pending",), words=YES),
    SmiField("remapped_rows_corrected_total", ("remapped_rows.correctable",)),
    SmiField("remapped_rows_uncorrected_total", ("remapped_rows.uncorrectable",)),
    SmiField("row_remap_pending", ("remapped_rows.pending",), words=YES),
    SmiField("row_remap_failure", ("remapped_rows.failure",), words=YES),
    *(
        SmiField(f"row_remap_banks_{level}", (f"remapped_rows.histogram.{level}",))
        for level in ("max", "high", "partial", "low", "none")
    ),
    SmiField("recovery_action", ("gpu_recovery_action",), words=RECOVERY_ACTIONS),
    SmiField("fan_speed_percent", ("fan.speed",), "%", kind=FAN),
)

# The labels of GPU_INFO that nvidia-smi gives; those of the second table are "Enabled" or "Disabled".
INFO_FIELDS = {
    "driver_version": "driver_version",
    "pci_bus_id": "pci.bus_id",
    "serial": "serial",
    "vbios_version": "vbios_version",
    "architecture": "compute_cap",
}
INFO_MODES = {
    "mig_mode": "mig.mode.current",
    "ecc_mode": "ecc.mode.current",
    "persistence_mode": "persistence_mode",
}

# Architecture by CUDA compute capability: of the whole where it tells, else of its major number.
ARCHITECTURES = {
    "3": "Kepler",
    "5": "Maxwell",
    "6": "Pascal",
    "7": "Volta",
    "7.5": "Turing",
    "8": "Ampere",
    "8.9": "Ada",
    "9": "Hopper",
    "10": "Blackwell",
    "11": "Blackwell",
    "12": "Blackwell",
}

IDENTITY = ("index", "uuid", "pci.bus_id")
# Asked for last: it is the one cell that may hold the separator.
NAME = "name"

WANTED = frozenset(
    (*IDENTITY, NAME, *INFO_FIELDS.values(), *INFO_MODES.values(), *(name for row in SMI_FIELDS for name in row.fields))
)
# Drivers that do not know them in --query-gpu may have them in a query of their own.
REMAPPED_ROWS = frozenset(name for name in WANTED if name.startswith("remapped_rows."))

# The words of a cell that holds nothing, besides whatever stands in brackets.
ABSENT_WORDS = frozenset(("N/A", "Not Supported", "ERR!", "Unknown Error", "GPU is lost", "Insufficient Permissions"))
NOT_UNDERSTOOD = "answer not understood"
NOT_KNOWN = "not known to this version of nvidia-smi"
NOT_GIVEN = "not given by nvidia-smi"
# With these a GPU says that it has no such thing; every other reason is a trouble.
PLAINLY_NONE = frozenset(("N/A", "Not Supported", "Requested functionality has been deprecated", NOT_KNOWN))

_HELP_LINE = re.compile(r'"[\w.]+"(?: or "[\w.]+")*')
_NUMBER = re.compile(r"(-?[0-9]{1,18}(?:\.[0-9]{1,9})?)(?: (\S+))?")
_BRACKETED = re.compile(r"\[([^\[\]]{1,80})\]")


def known_fields(help_text: str, wanted: Collection[str]) -> list[str]:
    """Give the wanted fields that a help text of nvidia-smi lists, in its order; of a field's names the first."""
    known = []
    for line in help_text.split("\n"):
        if _HELP_LINE.fullmatch(line.strip()):
            known += [name for name in line.replace('"', " ").split() if name in wanted][:1]
    return list(dict.fromkeys(known))


def absence(cell: str) -> str | None:
    """Give the reason that stands in a cell in place of a value; None when something else stands there."""
    cell = cell.strip()
    bracketed = _BRACKETED.fullmatch(cell)
    if bracketed is not None:
        return bracketed[1].strip()
    if not cell:
        return "N/A"
    return cell if cell in ABSENT_WORDS else None


def parse_cell(field: SmiField, cell: str) -> float | str:
    """Give the value of a cell in the catalogue's units, or the reason why it holds none."""
    cell = cell.strip()
    if field.words is not None:
        if cell in field.words:
            return field.words[cell]
    elif (number := _NUMBER.fullmatch(cell)) and number[2] in (None, field.unit or None):
        value = float(number[1]) * UNITS[field.unit]
        limits = field.kind.columns[field.kind.index[field.column]].reading.limits
        if limits is None or limits[0] <= value <= limits[1]:
            return value
        return "out of range"
    return absence(cell) or NOT_UNDERSTOOD


def field_value(field: SmiField, cells: Mapping[str, str]) -> float | str:
    """Give a column's value from a GPU's cells, by field name, or the reason why there is none."""
    reason = NOT_KNOWN
    for name in field.fields:
        if name in cells:
            value = parse_cell(field, cells[name])
            if isinstance(value, float):
                return value
            reason = value if reason == NOT_KNOWN else reason
    return reason
