"""The source of everything NVML tells: opens the driver, reads every GPU, and mends what can be mended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from gpumon.catalog import GPU_HEALTH, GPU_XID, NVML_ERRORS, Entity
from gpumon.crew import Crew
from gpumon.gpu.counters import Ledger
from gpumon.gpu.device import Device, DeviceSetup
from gpumon.gpu.driver import Driver, DriverError, DriverFacts, DriverLostError
from gpumon.gpu.nvml import VERSION_MISMATCH, Nvml
from gpumon.gpu.slot import DeviceReading, Slot, health
from gpumon.gpu.xid import XidLog
from gpumon.gpuprocess import GpuUse
from gpumon.log import Logger, Onsets
from gpumon.settings import Gpu as GpuSettings
from gpumon.source import SourceReading
from gpumon.trace import OFF, Off, Recorder

if TYPE_CHECKING:
    from gpumon.gpu.smi import NvidiaSmi

# Opening the driver anew for devices that stay away disturbs the others for a moment, so ever more rarely.
REOPEN_SECONDS = (30.0, 60.0, 120.0, 300.0, 600.0)

# A reading missing for this many ticks leaves a gap in what is integrated from it.
GAP_TICKS = 3

# The key of jobs that concern the driver as a whole.
DRIVER = "driver"

RELEASED = "RELEASED"
NOT_LISTED = "NOT_LISTED"


class _State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    RELEASED = "released"


class GpuSource:
    """Every GPU of the node. Belongs to one event loop; driver calls happen on threads of its own."""

    name = "gpu"

    def __init__(
        self,
        settings: GpuSettings,
        nvml: Nvml | None,
        logger: Logger,
        *,
        interval: float,
        xids: XidLog,
        smi: NvidiaSmi | None = None,
        processes: bool = False,
        devices_path: Path = Path("/proc/driver/nvidia/gpus"),
        monotonic: Callable[[], float] = time.monotonic,
        recorder: Recorder | Off = OFF,
    ) -> None:
        self.fatal: str | None = None  # why only a new process can read GPUs again
        self.gpu_count = 0
        self.nvml_version = ""
        self.driver_name = "nvidia-smi" if nvml is None and smi is not None else "none"
        self._settings = settings
        self._nvml = nvml
        self._onsets = Onsets(logger)
        self._logger = logger
        self._xids = xids
        self._smi = smi
        self._monotonic = monotonic
        self._recorder = recorder
        self._driver = Driver(nvml, xids, devices_path) if nvml is not None else None
        self._crew = Crew(monotonic)
        self._state = _State.CLOSED
        self._closed_reason = ""
        self._facts: DriverFacts | None = None
        self._slots: list[Slot] = []
        self._ledgers: dict[str, Ledger] = {}
        self._known: dict[str, tuple[str, ...]] = {}  # labels of every GPU seen since start, by UUID
        self._open_at = 0.0
        self._look_at = 0.0
        self._reopen_at: float | None = None
        self._reopens = 0
        self._changing = asyncio.Lock()
        self._setup = DeviceSetup(
            slow_interval=settings.slow_interval_secs,
            longest_gap=GAP_TICKS * interval,
            ledger=self._ledger,
            last_xid_time=xids.last_time,
            opened=lambda device: self._driver.watch(device) if self._driver else None,
            processes=processes,
        )

    # The tick.

    async def read(self, now: float, timeout: float) -> SourceReading:
        """Read every GPU that answers within `timeout` seconds; those that do not are said to be down."""
        now = self._monotonic()  # what is due, and integrals: the clock on the wall may be set
        deadline = now + timeout
        async with self._changing:
            if self._state is _State.OPEN and self._must_reopen(now):
                await self._close(timeout)
            if self._state is _State.CLOSED:
                await self._open(now, timeout)
            if self._state is _State.CLOSED and self._smi is not None and self.driver_name == "nvidia-smi":
                return await self._read_smi(max(deadline - self._monotonic(), 0.0))
            entities = await self._read_devices(now, max(deadline - self._monotonic(), 0.0))
        return SourceReading(
            (*entities, *self._health(), *self._xid_entities(), *self._error_entities()), self._success()
        )

    async def _read_devices(self, now: float, timeout: float) -> list[Entity]:
        if self._state is not _State.OPEN:
            return []
        jobs: list[tuple[Hashable, Callable[[], DeviceReading | DriverFacts]]] = [
            (slot, self._recorder.around("device", {"gpu_id": str(slot.index)}, slot.job(now)))
            for slot in self._slots
            if slot.due(now)
        ]
        if self._driver is not None and now >= self._look_at and not self._driver_busy:
            self._look_at = now + self._settings.retry_interval_secs
            jobs.append((DRIVER, self._driver.look))
        results = await self._crew.run(jobs, timeout)
        facts = results.get(DRIVER)
        if isinstance(facts, DriverFacts) and facts != self._facts:
            self._logger.info("GPUs changed, opening the driver anew", gpus=facts.count)
            self._reopen_at = now
        entities: list[Entity] = []
        for slot in self._slots:
            result = results.get(slot)
            assert not isinstance(result, DriverFacts)
            entities += slot.take(result, now)
            self._note(slot, now)
        return entities

    def _note(self, slot: Slot, now: float) -> None:
        """Log a device's going and coming, and see what it means for the driver."""
        uuid = slot.labels[2]
        if uuid:
            self._known[uuid] = slot.labels
        key = f"gpu {slot.index}"
        if slot.down is None:
            self._onsets.mend(key, "GPU is back", gpu=slot.index, uuid=uuid)
            return
        if self._onsets.fail(key, "GPU is down", gpu=slot.index, uuid=uuid, reason=slot.down):
            self._ledger(uuid).times_lost += 1
        if slot.down_code == VERSION_MISMATCH or slot.driver_wide:
            self._reopen_at = now
        elif self._reopen_at is None:
            self._reopen_at = now + REOPEN_SECONDS[min(self._reopens, len(REOPEN_SECONDS) - 1)]

    # The driver.

    def _must_reopen(self, now: float) -> bool:
        if all(slot.down is None for slot in self._slots):
            self._reopens = 0
            if self._reopen_at is not None and self._reopen_at > now:
                self._reopen_at = None
        if self._reopen_at is None or now < self._reopen_at:
            return False
        # A driver with a call under way cannot be closed; once the call returns, it can.
        return not self._crew.busy

    @property
    def _driver_busy(self) -> bool:
        return self._crew.busy_since(DRIVER) is not None

    async def _open(self, now: float, timeout: float) -> None:
        if self._driver is None or now < self._open_at or self._driver_busy:
            self._adopt(now)
            return
        driver = self._driver
        results = await self._crew.run([(DRIVER, lambda: self._keep_facts(driver.open()))], timeout)
        error = results.get(DRIVER)
        if isinstance(error, DriverLostError):
            self.fatal = str(error)
        elif isinstance(error, DriverError):
            self._open_at = now + self._settings.retry_interval_secs
            self._closed_reason = error.reason
            self.gpu_count = 0
            self.driver_name = "nvidia-smi" if self._smi is not None else "none"
            self._onsets.fail("driver", "no NVIDIA driver", reason=error.reason, detail=str(error))
        elif isinstance(error, Exception):
            raise error
        self._adopt(now)

    def _keep_facts(self, facts: DriverFacts) -> None:
        # Kept here and not given as the job's result: opening may take longer than a tick.
        self._facts = facts

    def _adopt(self, now: float) -> None:
        """Make slots for what an opened driver lists."""
        if self._facts is None or self._driver_busy or self._driver is None:
            return
        driver = self._driver
        self._onsets.mend("driver", "NVIDIA driver is there", gpus=self._facts.count)
        self._state = _State.OPEN
        self.driver_name = "nvml"
        self.nvml_version = self._facts.nvml_version
        self.gpu_count = self._facts.count
        self._look_at = now + self._settings.retry_interval_secs
        self._reopen_at = None
        del self._slots[self.gpu_count :]
        for index in range(len(self._slots), self.gpu_count):
            self._slots.append(Slot(index, lambda i: Device(driver.nvml, i, self._setup), self._crew))

    async def _close(self, timeout: float) -> bool:
        """Close the driver if no call is under way; False when one is."""
        if self._crew.busy or self._driver is None:
            return False
        driver = self._driver
        devices = [device for slot in self._slots for device in slot.forget()]
        self._facts = None
        self._state = _State.CLOSED
        self._open_at = 0.0
        self._reopen_at = None
        self._reopens += 1
        await self._crew.run([(DRIVER, lambda: driver.close(devices))], timeout)
        return True

    async def release(self) -> str:
        """Give every driver handle back, for maintenance; say in one sentence what came of it."""
        async with self._changing:
            if self._state is _State.RELEASED:
                return "released already"
            if self._state is _State.OPEN and not await self._close(self._settings.retry_interval_secs):
                hung = [str(slot.index) for slot in self._slots if slot.busy]
                return f"not released: a driver call for GPU {', '.join(hung) or 'listing'} has not returned"
            self._state = _State.RELEASED
            self._closed_reason = RELEASED
            self._logger.info("driver released")
            return "released: gpumon holds no driver handle until it is told to resume"

    async def resume(self) -> str:
        """Take the driver up again after a release; say in one sentence what came of it."""
        async with self._changing:
            if self._state is not _State.RELEASED:
                return "not released"
            self._state = _State.CLOSED
            self._open_at = 0.0
            self._logger.info("driver resumed")
            return "resumed: GPUs are read again from the next tick on"

    async def stop(self, timeout: float) -> None:
        """Close the driver, unless a call does not return: then it is left to the end of the process."""
        async with self._changing:
            if self._state is _State.OPEN:
                await self._close(timeout)
        if self._smi is not None:
            await self._smi.close()
        self._crew.stop()

    async def _read_smi(self, timeout: float) -> SourceReading:
        from gpumon.gpu.smi import SmiError  # loaded already, where it is used at all

        assert self._smi is not None
        event = "nvidia-smi does not give all"
        try:
            reading = await self._smi.read(timeout)
        except SmiError as error:
            self.gpu_count = 0
            self._onsets.fail("nvidia-smi", event, reason=str(error))
            return SourceReading((), success=False)
        if reading.errors:
            self._onsets.fail("nvidia-smi", event, reason=reading.errors[0])
        else:
            self._onsets.mend("nvidia-smi", "nvidia-smi gives all again")
        self.gpu_count = reading.gpu_count
        self._known.update((gpu.labels[2], gpu.labels[:3]) for gpu in reading.entities if gpu.kind is GPU_HEALTH)
        return SourceReading((*reading.entities, *self._xid_entities()), reading.success)

    # What is said of it.

    @property
    def uses(self) -> tuple[GpuUse, ...]:
        """Give who uses each GPU that answered at the last tick; empty unless asked for at construction."""
        if self._state is not _State.OPEN:
            return ()
        return tuple(slot.use for slot in self._slots if slot.use is not None)

    def hung_seconds(self) -> float:
        """Give how long the longest driver call under way has not returned, in seconds; 0 when none hangs."""
        return self._crew.longest()

    def _success(self) -> bool:
        if self._state is _State.RELEASED:
            return False
        return all(slot.down is None for slot in self._slots) and self.fatal is None

    def _ledger(self, uuid: str) -> Ledger:
        return self._ledgers.setdefault(uuid, Ledger())

    def _health(self) -> list[Entity]:
        entities: list[Entity] = []
        shown: set[str] = set()
        for slot in self._slots:
            shown.add(slot.labels[2])
            lost = self._ledger(slot.labels[2]).times_lost
            if self._state is _State.OPEN:
                entities += slot.health(lost)
            else:
                entities += health(slot.labels, self._closed_reason, lost)
        for uuid, labels in self._known.items():
            if uuid not in shown:
                entities += health(labels, NOT_LISTED, self._ledger(uuid).times_lost)
        return entities

    def _xid_entities(self) -> list[Entity]:
        entities = []
        for uuid, labels in self._known.items():
            counts, times = self._xids.counts(uuid), self._xids.last_times(uuid)
            entities += [Entity(GPU_XID, (*labels, str(code)), (counts[code], times[code])) for code in sorted(counts)]
        return entities

    def _error_entities(self) -> list[Entity]:
        errors = self._nvml.errors if self._nvml is not None else {}
        return [Entity(NVML_ERRORS, key, (count,)) for key, count in sorted(errors.items())]
