"""What nvmlDeviceGetFieldValues answers: one row per field.

Value types are what the fields' ranges ask for; where a real driver uses another one is unverified.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pynvml

from gpumon.gpu.simulate.binary import Argument, Refusal
from gpumon.gpu.simulate.course import STEPS_PER_SECOND
from gpumon.gpu.simulate.device import MOVING, Device

UINT, ULONGLONG, INT = (
    pynvml.NVML_VALUE_TYPE_UNSIGNED_INT,
    pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG,
    pynvml.NVML_VALUE_TYPE_SIGNED_INT,
)
BITS = {UINT: 32, ULONGLONG: 64, INT: 32}
# nvmlFieldValue_t: fieldId, scopeId, timestamp (µs), latencyUsec, valueType, nvmlReturn, value as its type wants it.
_ENTRIES = {kind: struct.Struct(f"=IIqqII{value}") for kind, value in ((UINT, "I4x"), (ULONGLONG, "Q"), (INT, "i4x"))}
_ENTRY_SIZE = 40
# What a call takes; any small number will do.
_LATENCY_MICROSECONDS = 3
ALL_LINKS = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class FieldRow:
    """One field: its value type, what it needs of a device, and its value at a step for a scope.

    A counter also says what it counts: `counts` in whole parts of `unit[0]` / `unit[1]`, so that it can be set.
    """

    type: int
    needs: str | None
    value: Callable[[Device, int, int], int]
    counts: str | None = None
    unit: tuple[int, int] = (1, 1)


def _moving(kind: int, needs: str | None, column: str, unit: tuple[int, int]) -> FieldRow:
    """Declare a counter that a column moves."""

    def value(device: Device, step: int, _scope: int) -> int:
        return (device.counted(column, step) * unit[1] // unit[0]) % (1 << device.bits.get(column, BITS[kind]))

    return FieldRow(kind, needs, value, column, unit)


def _events(kind: int, needs: str | None, name: str) -> FieldRow:
    """Declare a counter that moves only when it is set."""

    def value(device: Device, _step: int, scope: int) -> int:
        return device.count(name, scope) % (1 << device.bits.get(name, BITS[kind]))

    return FieldRow(kind, needs, value, name)


def _reading(kind: int, needs: str | None, value: Callable[[Device, int], float]) -> FieldRow:
    return FieldRow(kind, needs, lambda device, step, _scope: round(value(device, step)))


def _link(column: str, needs: str, unit: int) -> FieldRow:
    """Declare a link's byte counter: the GPU's traffic in equal parts; one scope gives all links together."""

    def value(device: Device, step: int, scope: int) -> int:
        links = device.model.nvlinks
        if scope != ALL_LINKS and scope >= links:
            raise Refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        part = device.counted(column, step) // links
        wanted = range(links) if scope == ALL_LINKS else (scope,)
        own = part * len(wanted) + sum([device.count(column, link) for link in wanted])
        return (own // unit) % (1 << device.bits.get(column, 64))

    return FieldRow(ULONGLONG, needs, value, column, (unit, 1))


def set_field(device: Device, row: FieldRow, step: int, raw: int, scope: int) -> None:
    """Set a counter so that it reads `raw` now and goes on from there; ValueError for a field that is no counter."""
    if row.counts is None:
        raise ValueError("only a counter can be set")
    wanted = -(-raw * row.unit[0] // row.unit[1])
    if row.needs in ("nvlink4", "nvlink5"):
        device.put(row.counts, wanted - device.counted(row.counts, step) // device.model.nvlinks, scope=scope)
    elif row.counts in MOVING:
        device.put_counted({row.counts: wanted}, step)
    else:
        device.put(row.counts, wanted, scope=scope)


def milliwatts(device: Device, step: int) -> int:
    """Give the mean power of the last second, in mW."""
    return round(device.mean("power", step - STEPS_PER_SECOND, step))


def _margin(threshold: str) -> Callable[[Device, int], float]:
    """Declare a T.Limit threshold: how far the margin may fall, which counts from the slowdown temperature down."""
    return lambda device, _step: device.model.gpu_max - int(getattr(device.model, threshold))


# A column of rates summed over steps is six times the amount; a column of ones, a sixth of a second each.
_AMOUNT = (STEPS_PER_SECOND, 1)
_NANOSECONDS = (STEPS_PER_SECOND, 10**9)

_ROWS: Mapping[str, FieldRow] = {
    "ECC_CURRENT": _reading(UINT, "ecc", lambda _device, _step: 1),
    "ECC_PENDING": _reading(UINT, "ecc", lambda _device, _step: 1),
    "ECC_SBE_VOL_TOTAL": _events(ULONGLONG, "ecc", "ecc_corrected_volatile"),
    "ECC_DBE_VOL_TOTAL": _events(ULONGLONG, "ecc", "ecc_uncorrected_volatile"),
    "ECC_SBE_AGG_TOTAL": _events(ULONGLONG, "ecc", "ecc_corrected_aggregate"),
    "ECC_DBE_AGG_TOTAL": _events(ULONGLONG, "ecc", "ecc_uncorrected_aggregate"),
    "RETIRED_SBE": _events(ULONGLONG, "retire", "retired_single"),
    "RETIRED_DBE": _events(ULONGLONG, "retire", "retired_double"),
    "RETIRED_PENDING": _events(UINT, "retire", "retired_pending"),
    "REMAPPED_COR": _events(UINT, "remap", "remapped_corrected"),
    "REMAPPED_UNC": _events(UINT, "remap", "remapped_uncorrected"),
    "REMAPPED_PENDING": _events(UINT, "remap", "remap_pending"),
    "REMAPPED_FAILURE": _events(UINT, "remap", "remap_failure"),
    "MEMORY_TEMP": _reading(UINT, "memory_temperature", lambda device, step: device.temperature(step, "memory_heat")),
    "TOTAL_ENERGY_CONSUMPTION": _moving(ULONGLONG, "energy", "power", _AMOUNT),
    "ENERGY": _moving(ULONGLONG, "energy", "power", _AMOUNT),
    "POWER_AVERAGE": _reading(UINT, "power_average", milliwatts),
    "POWER_INSTANT": _reading(UINT, None, lambda device, step: device.at("power", step)),
    "POWER_MIN_LIMIT": _reading(UINT, "power_limits", lambda device, _step: device.model.power_min * 1000),
    "POWER_MAX_LIMIT": _reading(UINT, "power_limits", lambda device, _step: device.model.power_max * 1000),
    "POWER_DEFAULT_LIMIT": _reading(UINT, "power_limits", lambda device, _step: device.model.power_limit * 1000),
    "POWER_CURRENT_LIMIT": _reading(UINT, "power_limits", lambda device, _step: device.model.power_limit * 1000),
    "POWER_REQUESTED_LIMIT": _reading(UINT, "power_limits", lambda device, _step: device.model.power_limit * 1000),
    "TEMPERATURE_SHUTDOWN_TLIMIT": _reading(INT, "margin", _margin("shutdown")),
    "TEMPERATURE_SLOWDOWN_TLIMIT": _reading(INT, "margin", _margin("slowdown")),
    "TEMPERATURE_MEM_MAX_TLIMIT": _reading(INT, "memory_temperature", lambda _device, _step: 0),
    "TEMPERATURE_GPU_MAX_TLIMIT": _reading(INT, "margin", _margin("gpu_max")),
    "CLOCKS_EVENT_REASON_SW_POWER_CAP": _moving(ULONGLONG, None, "power_capped", _NANOSECONDS),
    "CLOCKS_EVENT_REASON_SYNC_BOOST": _events(ULONGLONG, None, "sync_boost"),
    "CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN": _moving(ULONGLONG, None, "thermal", _NANOSECONDS),
    "CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN": _moving(ULONGLONG, None, "hw_thermal", _NANOSECONDS),
    "CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN": _events(ULONGLONG, None, "power_brake"),
    # nvml.h says that these two wrap, and not where; `Device.bits` narrows them.
    "PCIE_COUNT_TX_BYTES": _moving(ULONGLONG, "pcie_bytes", "pcie_transmit", _AMOUNT),
    "PCIE_COUNT_RX_BYTES": _moving(ULONGLONG, "pcie_bytes", "pcie_receive", _AMOUNT),
    "PCIE_REPLAY_COUNTER": _events(UINT, None, "pcie_replays"),
    "PCIE_REPLAY_ROLLOVER_COUNTER": _events(UINT, None, "pcie_replay_rollovers"),
    "PCIE_COUNT_CORRECTABLE_ERRORS": _events(UINT, "pcie_errors", "pcie_correctable"),
    "PCIE_COUNT_NON_FATAL_ERROR": _events(UINT, "pcie_errors", "pcie_non_fatal"),
    "PCIE_COUNT_FATAL_ERROR": _events(UINT, "pcie_errors", "pcie_fatal"),
    "NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL": _events(ULONGLONG, "nvlink", "nvlink_crc_flit"),
    "NVLINK_CRC_DATA_ERROR_COUNT_TOTAL": _events(ULONGLONG, "nvlink", "nvlink_crc_data"),
    "NVLINK_REPLAY_ERROR_COUNT_TOTAL": _events(ULONGLONG, "nvlink", "nvlink_replay"),
    "NVLINK_RECOVERY_ERROR_COUNT_TOTAL": _events(ULONGLONG, "nvlink", "nvlink_recovery"),
    "NVLINK_ECC_DATA_ERROR_COUNT_TOTAL": _events(ULONGLONG, "nvlink", "nvlink_ecc_data"),
    "NVLINK_LINK_COUNT": _reading(UINT, "nvlink", lambda device, _step: device.model.nvlinks),
    "NVLINK_THROUGHPUT_DATA_TX": _link("nvlink_transmit", "nvlink4", STEPS_PER_SECOND * 1024),
    "NVLINK_THROUGHPUT_DATA_RX": _link("nvlink_receive", "nvlink4", STEPS_PER_SECOND * 1024),
    "NVLINK_COUNT_XMIT_BYTES": _link("nvlink_transmit", "nvlink5", STEPS_PER_SECOND),
    "NVLINK_COUNT_RCV_BYTES": _link("nvlink_receive", "nvlink5", STEPS_PER_SECOND),
    "GET_GPU_RECOVERY_ACTION": _events(UINT, "recovery", "recovery_action"),
}

FIELDS = {getattr(pynvml, f"NVML_FI_DEV_{name}"): row for name, row in _ROWS.items()}


def answer_fields(device: Device, step: int, count: int, held: Argument, refuse: Callable[[int], int | None]) -> None:
    """Answer nvmlDeviceGetFieldValues: each entry has a return code of its own, which `refuse` may set."""
    now = device.stamp(step)
    for place in range(0, count * _ENTRY_SIZE, _ENTRY_SIZE):
        field, scope = struct.unpack_from("II", held, place)
        row = FIELDS.get(field)
        kind, code, value = 0, refuse(field), 0
        if code is None:
            try:
                if row is None or (row.needs and row.needs not in device.features):
                    raise Refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
                kind, code, value = row.type, pynvml.NVML_SUCCESS, row.value(device, step, scope)
            except Refusal as refusal:
                code = refusal.code
        _ENTRIES[kind or UINT].pack_into(held, place, field, scope, now, _LATENCY_MICROSECONDS, kind, code, value)
