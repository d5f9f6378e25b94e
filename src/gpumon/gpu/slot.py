"""A place for one GPU: the device while it answers, and what is said of it while it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from gpumon.catalog import GPU_DOWN, GPU_HEALTH, Entity
from gpumon.crew import Crew
from gpumon.gpu.device import Device, DeviceGoneError
from gpumon.gpu.nvml import DRIVER_WIDE, error_name
from gpumon.gpuprocess import GpuUse

# Seconds until a device that went down is tried again; the last one repeats.
RETRY_SECONDS = (2.0, 4.0, 8.0, 16.0, 30.0)

HUNG = "HUNG"


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """What one device gave at one tick, and how long that took."""

    entities: tuple[Entity, ...]
    labels: tuple[str, str, str]
    seconds: float
    use: GpuUse | None = None


class Slot:
    """One GPU of the node, by NVML index. All methods but the job run on the loop; the job's key is the slot."""

    def __init__(self, index: int, make_device: Callable[[int], Device], crew: Crew) -> None:
        self.index = index
        self.labels = (str(index), "", "")
        self.down: str | None = None  # why, in NVML's word
        self.down_code: int | None = None
        self.device: Device | None = None
        self.use: GpuUse | None = None  # who used it at this tick
        self._gone: Device | None = None  # thrown away, but not freed yet
        self._make_device = make_device
        self._crew = crew
        self._attempts = 0
        self._retry_at = 0.0
        self._asked = False
        self._seconds: float | None = None

    @property
    def busy(self) -> bool:
        """Say whether a driver call for the device is under way."""
        return self._crew.busy_since(self) is not None

    def due(self, now: float) -> bool:
        """Say whether the device is to be asked at this tick."""
        self._asked = not self.busy and (self.down in (None, HUNG) or now >= self._retry_at)
        return self._asked

    def job(self, now: float) -> Callable[[], DeviceReading]:
        """Give the reading to be made on a thread of the crew."""
        if self.device is None:
            self.device = self._make_device(self.index)
        device, gone = self.device, self._gone
        self._gone = None

        def read() -> DeviceReading:
            started = time.perf_counter()
            if gone is not None:
                gone.free()
            entities = device.read(now)
            return DeviceReading(entities, device.labels, time.perf_counter() - started, device.use)

        return read

    def take(self, result: DeviceReading | Exception | None, now: float) -> tuple[Entity, ...]:
        """Take what came of this tick's job (None: nothing in time) and give the entities to publish."""
        self.use = None
        if result is None:
            if self._asked or self.busy:
                self.down, self.down_code = HUNG, None
            return ()  # else it is down, and was not asked
        if isinstance(result, Exception):
            self._fail(result, now)
            return ()
        self.labels = result.labels
        self.down = self.down_code = None
        self._attempts = 0
        self._seconds = result.seconds
        self.use = result.use
        return result.entities

    def _fail(self, error: Exception, now: float) -> None:
        if isinstance(error, DeviceGoneError):
            self.down, self.down_code = error_name(error.code), error.code
        else:
            self.down, self.down_code = f"{type(error).__name__}: {error}", None
        if self.device is not None and self.device.uuid:
            self.labels = self.device.labels
        self._gone, self.device = self.device, None
        self._seconds = None
        self._retry_at = now + RETRY_SECONDS[min(self._attempts, len(RETRY_SECONDS) - 1)]
        self._attempts += 1

    def forget(self) -> list[Device]:
        """Give up the device, so that another is made at the next tick; for when the driver is opened anew."""
        devices = [device for device in (self.device, self._gone) if device is not None]
        self.device = self._gone = None
        self._retry_at = 0.0
        return devices

    @property
    def driver_wide(self) -> bool:
        """Say whether the device is down for a reason that concerns the whole driver."""
        return self.down_code in DRIVER_WIDE

    def health(self, times_lost: int) -> tuple[Entity, ...]:
        """Give what is said of the device itself."""
        return health(self.labels, self.down, times_lost, self._seconds)


def health(
    labels: tuple[str, ...], down: str | None, times_lost: int, seconds: float | None = None
) -> tuple[Entity, ...]:
    """Give the health entities of a GPU that is up (`down` is None) or down for that reason."""
    values = (0 if down else 1, 1 if down == HUNG else 0, times_lost, seconds)
    up = Entity(GPU_HEALTH, labels, values)
    return (up,) if down is None else (up, Entity(GPU_DOWN, (*labels, down), (1,)))
