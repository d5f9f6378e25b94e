"""What goes wrong on request: error codes, and calls that hang."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from gpumon.gpu.simulate.binary import Refusal
from gpumon.gpu.simulate.device import Device


@dataclass(slots=True)
class Fault:
    """One error answered instead of the truth; None is any. `left` counts down to the fault's end."""

    function: str
    code: int
    device: Device | None
    field: int | None
    left: int | None


class Faults:
    """All faults of a library. Checking costs next to nothing while there are none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: tuple[Fault, ...] = ()
        self._hangs: tuple[tuple[Device, str | None, threading.Event], ...] = ()

    def add(self, fault: Fault) -> None:
        """Let a fault begin."""
        with self._lock:
            self._faults += (fault,)

    def clear(self) -> None:
        """End every fault; hanging calls hang on."""
        with self._lock:
            self._faults = ()

    def hang(self, device: Device, function: str | None) -> Callable[[], None]:
        """Let calls for a device wait until the returned function is called."""
        hang = (device, function, threading.Event())
        with self._lock:
            self._hangs += (hang,)

        def release() -> None:
            with self._lock:
                self._hangs = tuple(other for other in self._hangs if other is not hang)
            hang[2].set()

        return release

    def code(self, function: str, device: Device | None, field: int | None = None) -> int | None:
        """Give the error code that this call, or this field of it, is to be answered with; None for none."""
        if not self._faults:
            return None
        with self._lock:
            for fault in self._faults:
                if (
                    fault.function == function
                    and fault.field == field
                    and fault.device in (None, device)
                    and fault.left != 0
                ):
                    if fault.left is not None:
                        fault.left -= 1
                    return fault.code
        return None

    def meet(self, function: str, device: Device | None) -> None:
        """Wait while calls for this device hang; then Refusal if the call is to fail."""
        for hanging, name, released in self._hangs:
            if hanging is device and name in (None, function):
                released.wait()
        code = self.code(function, device)
        if code is not None:
            raise Refusal(code)
