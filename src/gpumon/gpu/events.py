"""XIDs as NVML's events tell them: one event set per GPU, looked at by one thread.

A set of its own for each GPU: a lost GPU makes the wait for its set fail, and a set whose registration failed with
UNKNOWN is undefined and has to be freed (nvml.h); neither may touch the other GPUs.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable

import pynvml

from gpumon.gpu.nvml import SUCCESS, Handle, Nvml, RefusedError
from gpumon.gpu.xid import XidLog

# Of all that NVML can report, what gpumon uses; the recovery action is a reading of its own.
WANTED_EVENTS: int = pynvml.nvmlEventTypeXidCriticalError

# The driver keeps events until they are fetched; what the kernel log says of the same XID is waited for longer than that,
# also when a look failed. A set whose wait fails costs next to nothing, so there is no back-off.
POLL_SECONDS = 4.0
# Without an event each set costs this and 30 µs of CPU. 0 would cost 2 µs, but is said to mean "for ever" by NVIDIA's own
# cuda.core and "at once" by others: unverified.
WAIT_MILLISECONDS = 1
# Per GPU and look, so that a storm does not keep the thread from the other GPUs.
MOST_EVENTS = 1000
# How long to wait for a driver call that may hang before its event set is left to the end of the process.
PATIENCE_SECONDS = 1.0


def register(nvml: Nvml, handle: Handle, event_set: object) -> int:
    """Have those of WANTED_EVENTS that a device supports put into `event_set`; give their mask, 0 for none.

    NVML refuses the whole request when one type is not supported, so it is asked for those first.
    Raises RefusedError; after UNKNOWN the set has to be freed.
    """
    types = int(nvml.call("nvmlDeviceGetSupportedEventTypes", handle)) & WANTED_EVENTS
    if types:
        nvml.call("nvmlDeviceRegisterEvents", handle, types, event_set)
    return types


class _Watch:
    """The event set of one GPU; `lock` is held while the driver is asked about it."""

    __slots__ = ("event_set", "lock")

    def __init__(self, event_set: object) -> None:
        self.event_set = event_set
        self.lock = threading.Lock()


class EventWatcher:
    """Feeds a XidLog from NVML's events, from `start` to `stop`. May be used from any thread."""

    def __init__(
        self,
        nvml: Nvml,
        xids: XidLog,
        *,
        clock: Callable[[], float] = time.time,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._nvml = nvml
        self._xids = xids
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._watches: dict[str, _Watch] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._data = pynvml.c_nvmlEventData_t()
        # A daemon: a driver call that never returns does not keep gpumon alive.
        self._thread = threading.Thread(target=self._run, name="gpumon-events", daemon=True)

    def watch(self, uuid: str, handle: Handle) -> bool:
        """Watch a GPU from now on; again for one that was opened anew. False when it has no XID events.

        Call on the thread that reads the device. Raises RefusedError; the GPU is not watched then.
        """
        self._drop(uuid)
        watch = _Watch(self._nvml.call("nvmlEventSetCreate"))
        try:
            registered = register(self._nvml, handle, watch.event_set)
        except RefusedError:
            self._free(watch)
            raise
        if not registered or self._stopping.is_set():
            self._free(watch)
            return False
        with self._lock:
            self._watches[uuid] = watch
        return True

    def _drop(self, uuid: str) -> None:
        with self._lock:
            watch = self._watches.pop(uuid, None)
        if watch is not None:
            self._free(watch)

    def start(self) -> None:
        """Begin to look for events on a thread of its own."""
        self._thread.start()

    def stop(self) -> bool:
        """End the thread and give every event set back, before the driver is closed; False when a driver call hangs."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_SECONDS)
        with self._lock:
            watches = list(self._watches.values())
            self._watches.clear()
        freed = [self._free(watch) for watch in watches]
        return all(freed) and not self._thread.is_alive()

    def poll(self) -> None:
        """Take every event that has come since the last look."""
        with self._lock:
            watches = list(self._watches.items())
        for uuid, watch in watches:
            with watch.lock:
                self._take(uuid, watch)

    def _take(self, uuid: str, watch: _Watch) -> None:
        for _ in range(MOST_EVENTS):
            if watch.event_set is None:
                return  # freed meanwhile
            # Not by nvidia-ml-py's own function: that makes an exception of every time-out.
            code = self._nvml.raw(
                "nvmlEventSetWait_v2", watch.event_set, ctypes.byref(self._data), ctypes.c_uint(WAIT_MILLISECONDS)
            )
            if code != SUCCESS:
                if code != pynvml.NVML_ERROR_TIMEOUT:
                    self._nvml.refused("nvmlEventSetWait_v2", code)  # counted there when unexpected
                return
            if self._data.eventType == pynvml.nvmlEventTypeXidCriticalError:
                self._xids.seen(uuid, int(self._data.eventData), self._clock(), "nvml")

    def _free(self, watch: _Watch) -> bool:
        if not watch.lock.acquire(timeout=PATIENCE_SECONDS):
            return False
        try:
            self._nvml.call("nvmlEventSetFree", watch.event_set)
        except RefusedError:
            pass  # the driver is gone, and the set with it
        finally:
            watch.event_set = None
            watch.lock.release()
        return True

    def _run(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            self.poll()
