"""A simulated libnvidia-ml.so.1, and what can be made to happen to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pynvml

from gpumon.gpu.simulate.driver import Driver
from gpumon.gpu.simulate.faults import Fault
from gpumon.gpu.simulate.fields import FIELDS, set_field
from gpumon.gpu.simulate.models import MODELS
from gpumon.gpu.simulate.processes import NO_INSTANCE, SimulatedAccount, SimulatedProcess
from gpumon.gpu.simulate.profiles import Profile


class SimulatedLibrary(Driver):
    """The object that nvidia-ml-py calls where it would call the real library: set it as `pynvml.nvmlLib`.

    Given the same profile, seed and clock (Unix seconds) it answers the same, however often it is asked.
    A device is named by the index it had when NVML was last initialised.
    `real_pids` go to the load patterns' processes in turn; the others have pids that no real process can have.
    """

    def __init__(
        self,
        profile: Profile,
        *,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
        real_pids: Sequence[int] = (),
    ) -> None:
        super().__init__(profile, seed, clock, real_pids)

    def symbols(self) -> tuple[str, ...]:
        """Give the names of all functions."""
        return tuple(name for name in self._functions if name not in self._removed)

    def fail(
        self, function: str, code: int, *, device: int | None = None, field: int | None = None, times: int | None = None
    ) -> None:
        """Answer calls of a function (its exact symbol) with an error code: for one device or all, so often or always.

        With `field`, only that field of nvmlDeviceGetFieldValues or that metric of nvmlGpmMetricsGet has the code.
        """
        if function not in self._functions:
            raise ValueError(f"the simulated library has no function {function!r}")
        self._faults.add(Fault(function, code, None if device is None else self._node.devices[device], field, times))

    def heal(self) -> None:
        """End every fault that `fail` began."""
        self._faults.clear()

    def remove(self, function: str) -> None:
        """Take a symbol away, as on an older driver; a pointer that is held already answers FUNCTION_NOT_FOUND."""
        self._removed |= {function}

    def hang(self, device: int, function: str | None = None) -> Callable[[], None]:
        """Let calls for a device, or one function's, block until the returned function is called."""
        return self._faults.hang(self._node.devices[device], function)

    def lose(self, device: int, *, stale: bool = False) -> None:
        """Answer every call for a device with GPU_IS_LOST until it is restored.

        `stale` wants nvmlInit and a new handle after that, as a GPU that was reset does.
        """
        lost = self._node.devices[device]
        lost.lost, lost.stale = True, stale
        self._events.push_lost(lost)

    def restore(self, device: int) -> None:
        """Bring a lost device back."""
        self._node.devices[device].lost = False

    def xid(self, device: int, code: int, *, gpu_instance: int = NO_INSTANCE) -> None:
        """Let an XID error happen; only event sets that are registered by now will deliver it."""
        self.event(device, pynvml.nvmlEventTypeXidCriticalError, code, gpu_instance=gpu_instance)

    def event(self, device: int, kind: int, data: int = 0, *, gpu_instance: int = NO_INSTANCE) -> None:
        """Let an event of any nvmlEventType happen."""
        self._events.push(self._node.devices[device], kind, data, gpu_instance)

    def unload(self) -> None:
        """Unload the driver: every call answers DRIVER_NOT_LOADED."""
        self._loaded = False
        self._events.close()

    def load(self) -> None:
        """Load the driver anew: NVML must be initialised again, and counters since the driver's load start at 0."""
        step = self._node.step()
        for device in self._node.devices:
            device.reload(step)
        self._events.close()
        self._gpm.clear()
        self._references, self._loaded = 0, True

    def version_mismatch(self) -> None:
        """Let nvmlInit answer from now on that library and driver are of different versions."""
        self._matching = False

    def plug(self, model: str, load: str = "idle") -> None:
        """Add a GPU of a model (a key of MODELS); it is seen when NVML is next initialised."""
        self._node.plug(MODELS[model], load)

    def unplug(self, device: int) -> None:
        """Take a GPU out: it is lost at once, and not counted when NVML is next initialised."""
        gone = self._node.devices[device]
        self._node.unplug(gone)
        self._events.push_lost(gone)

    def repartition(self, device: int, instances: Sequence[str] | None) -> None:
        """Divide a GPU into MIG devices of these profiles, as in 1g.10gb; None turns MIG mode off."""
        self._node.devices[device].divide(instances)

    def set_processes(self, device: int, processes: Sequence[SimulatedProcess] | None) -> None:
        """Let exactly these processes hold memory of a device; None brings the load pattern's back."""
        self._node.devices[device].given = None if processes is None else tuple(processes)

    def set_accounts(self, device: int, accounts: Sequence[SimulatedAccount] | None) -> None:
        """Let accounting mode remember exactly these processes of a device; None switches it off."""
        self._node.devices[device].accounts = None if accounts is None else tuple(accounts)

    def set_load(self, device: int, load: str) -> None:
        """Let a device follow another load pattern from now on: idle, training, serving or gaming."""
        self._node.devices[device].follow(load, self._node.step())

    def set_counter(self, device: int, field: int, raw: int, *, scope: int = 0, bits: int | None = None) -> None:
        """Let the counter behind a field id read `raw` now and count on from there.

        `bits` is the width at which it wraps, when that is less than its value type's.
        """
        target = self._node.devices[device]
        row = FIELDS[field]
        if row.counts and bits:
            target.bits[row.counts] = bits
        set_field(target, row, self._node.step(), raw, scope)

    def processes(self, device: int) -> tuple[SimulatedProcess, ...]:
        """Give the processes that hold memory of a device now."""
        return self._node.devices[device].processes(self._node.step())

    def loads(self) -> tuple[str, ...]:
        """Give the load pattern of each device."""
        return tuple(device.load for device in self._node.devices)
