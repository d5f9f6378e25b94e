"""The GPUs of a simulated node: which there are, which of them NVML has seen, and the handles it has given out."""

from __future__ import annotations

import itertools
import math
import random
import threading
from collections.abc import Callable, Sequence

import pynvml

from gpumon.gpu.simulate.architectures import Model
from gpumon.gpu.simulate.binary import Argument, Refusal, address
from gpumon.gpu.simulate.course import STEPS_PER_SECOND, Course
from gpumon.gpu.simulate.device import Device, Instance
from gpumon.gpu.simulate.profiles import Profile

# The driver has been loaded this long when the simulation begins, so that counters have counted something.
LOADED_SECONDS_AGO = 3600
# A step of the grid is reached this much early, so that a clock's rounding does not miss it (0.2 ms).
_EARLY_STEPS = 1e-3


def draw_loads(models: Sequence[Model], seed: int) -> list[str]:
    """Give each GPU one of the load patterns its model usually runs, in turn; the seed shuffles the order."""
    turns = {model.name: itertools.cycle(model.loads) for model in models}
    loads = [next(turns[model.name]) for model in models]
    if len({model.name for model in models}) == 1:
        random.Random(seed).shuffle(loads)  # noqa: S311 - a simulation, not a secret
    return loads


class Node:
    """All devices of a library. `devices` are those NVML enumerated when it was last initialised, by index."""

    def __init__(self, profile: Profile, seed: int, clock: Callable[[], float], real_pids: Sequence[int]) -> None:
        self.profile = profile
        self.devices: list[Device] = []
        self._seed = seed
        self._clock = clock
        self._pids = list(real_pids)
        self._lock = threading.Lock()
        self._courses: dict[str, Course] = {}
        self._epoch = math.floor(clock()) - LOADED_SECONDS_AGO
        # Addresses of nothing: handles are opaque, and only this class looks them up.
        self._addresses = itertools.count(0x5D0000000000, 0x1000)
        self._handles: dict[int, tuple[Device, Instance | None]] = {}
        self._slots = itertools.count()
        self._present: list[Device] = []
        loads = profile.loads or draw_loads(profile.models, seed)
        for position, model in enumerate(profile.models):
            self.plug(model, loads[position % len(loads)])
        self.enumerate()

    def step(self) -> int:
        """Give the number of sample periods since the driver's epoch."""
        return math.floor((self._clock() - self._epoch) * STEPS_PER_SECOND + _EARLY_STEPS)

    def plug(self, model: Model, load: str) -> None:
        """Add a GPU; NVML sees it when it is next initialised."""
        device = Device(model, next(self._slots), self._seed, load, self._courses)
        device.epoch_microseconds = self._epoch * 1_000_000
        device.misplaced_processes = self.profile.misplaced_processes
        if self.profile.partition is not None and model.mig:
            device.divide(self.profile.partition)
        if self._pids:
            taken = device.client_count()
            device.real_pids, self._pids = self._pids[:taken], self._pids[taken:]
            device.meet_clients()
        with self._lock:
            self._present.append(device)

    def unplug(self, device: Device) -> None:
        """Take a GPU away: it is lost at once, and gone when NVML is next initialised."""
        device.lost = True
        with self._lock:
            self._present.remove(device)

    def enumerate(self) -> None:
        """Look for GPUs, as nvmlInit does: indexes follow the slots, and a GPU that was reset gets a new handle."""
        with self._lock:
            self.devices = list(self._present)
            for index, device in enumerate(self.devices):
                device.index = index
                if not device.address or (device.stale and not device.lost):
                    device.address, device.stale = next(self._addresses), False
                    self._handles[device.address] = (device, None)

    def resolve(self, handle: Argument) -> tuple[Device, Instance | None]:
        """Give the device, and the MIG device if it is one, that a handle stands for; Refusal for a wrong one."""
        known = self._handles.get(address(handle))
        if known is None:
            raise Refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        device, instance = known
        if instance is None and device.address != address(handle):
            raise Refusal(pynvml.NVML_ERROR_GPU_IS_LOST)
        if instance is not None and instance not in device.instances:
            raise Refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return known

    def part(self, instance: Instance) -> int:
        """Give the handle of a MIG device."""
        with self._lock:
            if not instance.address:
                instance.address = next(self._addresses)
                self._handles[instance.address] = (instance.device, instance)
        return instance.address

    def find(self, identifier: str) -> tuple[Device, Instance | None]:
        """Give the device or MIG device with this UUID or PCI address; Refusal when there is none."""
        for device in self.devices:
            if identifier == device.uuid or _same_bus(identifier, device):
                return device, None
            for instance in device.instances:
                if identifier == instance.uuid:
                    return device, instance
        raise Refusal(pynvml.NVML_ERROR_NOT_FOUND)


def _same_bus(identifier: str, device: Device) -> bool:
    domain, _, rest = identifier.partition(":")
    return rest.upper() == f"{device.bus:02X}:00.0" and set(domain) <= {"0"}
