"""Readings that gpumon works out itself; each function serves the catalogue's `Computed` of the same name.

A function takes the device and the moment (monotonic seconds) and gives the value, or None for "not this time".
It raises RefusedError when the device cannot have it, so that the next source in the catalogue's row is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

from gpumon.gpu.nvml import NOT_SUPPORTED, RefusedError

if TYPE_CHECKING:
    from gpumon.gpu.device import Device

# A sample of the driver's buffer covers the time since the one before, at most a second (nvmlUtilization_t in nvml.h);
# a longer gap is time without samples, and only this much of it is known.
LONGEST_SAMPLE_SECONDS = 1.0


def busy_from_samples(device: Device, _now: float) -> float | None:
    """Add utilisation times duration of each new sample of the driver's buffer; microsecond time stamps."""
    buffer = device.utilization_samples
    before = buffer.last_seen
    samples = buffer.read(device.nvml, device.handle)
    if not before:
        samples = []  # what the buffer held when the device was opened is of the time before
    for time, percent in samples:
        if percent <= 100:  # more is a known driver fault (nvtop #110)
            seconds = min((time - before) / 1e6, LONGEST_SAMPLE_SECONDS)
            device.ledger.busy_seconds += seconds * percent / 100
        before = time
    return device.ledger.busy_seconds


def busy_from_polling(device: Device, now: float) -> float | None:
    """Integrate the utilisation read at each tick: right on average only, since it is one sample of many."""
    percent = device.gpu_value("utilization_gpu")
    if percent is None:
        _raise_if_unsupported(device, "utilization_gpu")
        return None
    return device.ledger.busy_polled.advance(percent / 100, now, device.longest_gap)


def energy_from_power(device: Device, now: float) -> float | None:
    """Integrate power over time, in joules."""
    watts = device.gpu_value("power")
    if watts is None:
        _raise_if_unsupported(device, "power")
        return None
    return device.ledger.energy.advance(watts, now, device.longest_gap)


def _raise_if_unsupported(device: Device, column: str) -> None:
    if not device.supports(column):
        raise RefusedError(column, NOT_SUPPORTED)


def system_memory_used(_device: Device, _now: float) -> float | None:
    """Give the system's memory in use, in bytes."""
    memory = psutil.virtual_memory()
    return memory.total - memory.available


def system_memory_total(_device: Device, _now: float) -> float | None:
    """Give the system's memory, in bytes."""
    return psutil.virtual_memory().total


def system_memory_available(_device: Device, _now: float) -> float | None:
    """Give the system's memory that can be had without swapping, in bytes."""
    return psutil.virtual_memory().available


def xid_last_timestamp(device: Device, _now: float) -> float | None:
    """Give Unix seconds of the device's last XID; None when there was none."""
    return device.last_xid_time()


COMPUTED: dict[str, Callable[[Device, float], float | None]] = {
    function.__name__: function
    for function in (
        busy_from_samples,
        busy_from_polling,
        energy_from_power,
        system_memory_used,
        system_memory_total,
        system_memory_available,
        xid_last_timestamp,
    )
}
