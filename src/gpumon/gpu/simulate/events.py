"""NVML's event sets: what was registered, what has happened, and waiting for it in real time."""

from __future__ import annotations

import itertools
import threading
from collections import deque

import pynvml

from gpumon.gpu.simulate.binary import Argument, Refusal, address, fill, number
from gpumon.gpu.simulate.device import Device
from gpumon.gpu.simulate.processes import NO_INSTANCE


class EventSet:
    """The devices and event types that were registered, and what waits to be fetched: an event, or an error code."""

    def __init__(self) -> None:
        self.registered: list[tuple[Device, int]] = []
        self.waiting: deque[tuple[int, int, int, int, int] | int] = deque()


class EventSets:
    """All event sets of a library."""

    def __init__(self) -> None:
        self._happened = threading.Condition()
        self._sets: dict[int, EventSet] = {}
        # Addresses of nothing: nobody but this class looks at them.
        self._addresses = itertools.count(0x5E7000000000, 0x1000)

    def create(self, out: Argument) -> None:
        """Answer nvmlEventSetCreate."""
        with self._happened:
            number_of_set = next(self._addresses)
            self._sets[number_of_set] = EventSet()
        fill(out, "Q", number_of_set)

    def register(self, device: Device, types: int, handle: Argument, supported: int) -> None:
        """Answer nvmlDeviceRegisterEvents: all of the types or none."""
        if types & ~supported:
            raise Refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
        with self._happened:
            self._find(handle).registered.append((device, types))

    def free(self, handle: Argument) -> None:
        """Answer nvmlEventSetFree; whoever waits on the set is told that it is gone."""
        with self._happened:
            self._find(handle)
            del self._sets[address(handle)]
            self._happened.notify_all()

    def close(self) -> None:
        """Drop all sets, as nvmlShutdown and a driver that is unloaded do."""
        with self._happened:
            self._sets.clear()
            self._happened.notify_all()

    def push(self, device: Device, kind: int, data: int, gpu_instance: int = NO_INSTANCE) -> None:
        """Let an event happen: sets that registered the device for its kind will deliver it, once each."""
        compute_instance = NO_INSTANCE if gpu_instance == NO_INSTANCE else 0
        with self._happened:
            for events in self._sets.values():
                if any(known is device and types & kind for known, types in events.registered):
                    events.waiting.append((device.address, kind, data, gpu_instance, compute_instance))
            self._happened.notify_all()

    def push_lost(self, device: Device) -> None:
        """Let the next wait on each set that registered the device answer that a GPU is lost (once: unverified)."""
        with self._happened:
            for events in self._sets.values():
                if any(known is device for known, _types in events.registered):
                    events.waiting.append(pynvml.NVML_ERROR_GPU_IS_LOST)
            self._happened.notify_all()

    def wait(self, handle: Argument, out: Argument, milliseconds: Argument) -> None:
        """Answer nvmlEventSetWait_v2: the next event, or TIMEOUT after so many real milliseconds."""
        with self._happened:
            events = self._find(handle)

            def ready() -> bool:
                return bool(events.waiting) or self._sets.get(address(handle)) is not events

            if not self._happened.wait_for(ready, number(milliseconds) / 1000):
                raise Refusal(pynvml.NVML_ERROR_TIMEOUT)
            if not events.waiting:
                raise Refusal(pynvml.NVML_ERROR_UNINITIALIZED)
            event = events.waiting.popleft()
        if isinstance(event, int):
            raise Refusal(event)
        fill(out, "QQQII", *event)

    def _find(self, handle: Argument) -> EventSet:
        events = self._sets.get(address(handle))
        if events is None:
            raise Refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return events
