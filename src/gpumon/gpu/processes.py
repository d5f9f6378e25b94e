"""The processes of one GPU as NVML lists them, what each of them does, and those that accounting mode remembers.

Everything is read into buffers that are kept: nvidia-ml-py makes an object per process and takes "nothing" for an error.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pynvml

from gpumon.gpu.nvml import (
    INSUFFICIENT_SIZE,
    NOT_FOUND,
    SUCCESS,
    Handle,
    Nvml,
    RefusedError,
    Trouble,
    trouble_of,
)
from gpumon.gpuprocess import AccountedProcess, GpuProcess

# NVML's lists of processes with the letter of the context that a process in it has.
LISTS = {
    "nvmlDeviceGetComputeRunningProcesses": "C",
    "nvmlDeviceGetGraphicsRunningProcesses": "G",
    "nvmlDeviceGetMPSComputeRunningProcesses": "M",
}
# nvmlProcessInfo_t, the same in version 3 and 2: pid, usedGpuMemory, gpuInstanceId, computeInstanceId; then version 1.
_INFO, _INFO_V1 = struct.Struct("=I4xQII"), struct.Struct("=I4xQ")
VERSIONS = (("_v3", _INFO), ("_v2", _INFO), ("", _INFO_V1))
# nvmlProcessUtilizationInfo_v1_t: timeStamp, pid, sm, mem, enc, dec, jpg, ofa; then the older nvmlProcessUtilizationSample_t.
_WORK_POINTER = dict(pynvml.c_nvmlProcessesUtilizationInfo_v1_t._fields_)["procUtilArray"]
_WORK_INFO, _WORK_SAMPLE = struct.Struct("=QIIIIIII4x"), struct.Struct("=I4xQIIII")

# A list that outgrew its buffer gets so much more room than it asked for, so that growth does not cost a call each time.
SLACK = 32

# Drivers from 535.43 to 535.86 write the process list in another layout than its header says: pids are garbage (gpustat #161).
MISPLACED = "driver 535.43 to 535.86 lists processes wrongly: use another"

# So many readings in a row without a sample mean an idle GPU, or that the clock the driver stamps them by was set back.
EMPTY_READINGS = 30

# A mean of more is a known driver fault (nvtop #110).
FULL = 100

_U32, _U64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def has_misplaced_lists(driver_version: str) -> bool:
    """Say whether a driver of this version, as in 535.54.03, lists processes in a wrong layout."""
    major, _, rest = driver_version.partition(".")
    minor = rest.partition(".")[0]
    return major == "535" and minor.isdigit() and 43 <= int(minor) <= 86


class Entry(NamedTuple):
    """One line of one of the driver's process lists; None is NVML's "not available" or "does not apply"."""

    pid: int
    memory_bytes: int | None
    gpu_instance_id: int | None
    compute_instance_id: int | None


class ProcessList:
    """One of NVML's process lists of one device, by the newest version of the call that the driver has."""

    def __init__(self, function: str) -> None:
        self._function = function
        self._version = 0
        self._make_room(SLACK)

    def read(self, nvml: Nvml, handle: Handle) -> Iterator[Entry]:
        """Give the list's entries. Raises RefusedError."""
        count = self._fill(nvml, handle)
        layout = VERSIONS[self._version][1]
        for pid, memory, *instances in layout.iter_unpack(self._bytes[: count * layout.size]):
            gpu, compute = (None if i == _U32 else i for i in instances or (_U32, _U32))
            yield Entry(pid, None if memory == _U64 else memory, gpu, compute)

    def _fill(self, nvml: Nvml, handle: Handle) -> int:
        code, count = self._ask(nvml, handle)
        while code == pynvml.NVML_ERROR_FUNCTION_NOT_FOUND and self._version + 1 < len(VERSIONS):
            self._version += 1
            code, count = self._ask(nvml, handle)
        if code == INSUFFICIENT_SIZE:
            self._make_room(count + SLACK)
            code, count = self._ask(nvml, handle)
        if code == NOT_FOUND:
            return 0
        if code != SUCCESS:
            raise nvml.refused(self._function, code)
        return count

    def _ask(self, nvml: Nvml, handle: Handle) -> tuple[int, int]:
        count = ctypes.c_uint(self._room)
        code = nvml.raw(self._function + VERSIONS[self._version][0], handle, ctypes.byref(count), self._array)
        return code, count.value

    def _make_room(self, room: int) -> None:
        self._room = room
        self._array = (ctypes.c_char * (_INFO.size * room))()
        self._bytes = memoryview(self._array).cast("B")


class Work:
    """What each process of a device did since the last reading, from the driver's samples of every process."""

    def __init__(self) -> None:
        self._newer = True  # the driver has nvmlDeviceGetProcessesUtilizationInfo
        self._last_seen = 0  # microseconds, on the driver's clock
        self._empty = 0
        self._make_room(SLACK)

    def read(self, nvml: Nvml, handle: Handle) -> dict[int, list[tuple[int, ...]]]:
        """Give (percent of multiprocessors, memory, encoder, decoder, JPEG, OFA) of every new sample, by pid.

        The last two are left out by older drivers. Empty when no process did anything. Raises RefusedError.
        """
        before = self._last_seen
        count = self._fill(nvml, handle)
        self._empty = 0 if count else self._empty + 1
        if self._empty >= EMPTY_READINGS:
            self._empty = self._last_seen = 0
        found: dict[int, list[tuple[int, ...]]] = {}
        layout = _WORK_INFO if self._newer else _WORK_SAMPLE
        for first, second, *percents in layout.iter_unpack(self._bytes[: count * layout.size]):
            time, pid = (first, second) if self._newer else (second, first)
            # Before the first reading is before gpumon; what is not newer than the last one was given already.
            if time > before and max(percents) <= FULL:
                self._last_seen = max(self._last_seen, time)
                if before:
                    found.setdefault(pid, []).append(tuple(percents))
        return found

    def _fill(self, nvml: Nvml, handle: Handle) -> int:
        code, count = self._ask(nvml, handle)
        if self._newer and code != SUCCESS and trouble_of(code) is Trouble.ABSENT:
            self._newer = False
            code, count = self._ask(nvml, handle)
        if code == INSUFFICIENT_SIZE:  # more processes work now than before
            self._make_room(count + SLACK)
            code, count = self._ask(nvml, handle)
        if code == NOT_FOUND:
            return 0
        if code != SUCCESS:
            raise nvml.refused(self._function, code)
        return count

    @property
    def _function(self) -> str:
        return "nvmlDeviceGetProcessesUtilizationInfo" if self._newer else "nvmlDeviceGetProcessUtilization"

    def _ask(self, nvml: Nvml, handle: Handle) -> tuple[int, int]:
        if self._newer:
            held = self._request
            held.processSamplesCount, held.lastSeenTimeStamp = self._room, self._last_seen
            code = nvml.raw(self._function, handle, ctypes.byref(held))
            return code, held.processSamplesCount
        count = ctypes.c_uint(self._room)
        seen = ctypes.c_ulonglong(self._last_seen)
        code = nvml.raw(self._function, handle, self._array, ctypes.byref(count), seen)
        return code, count.value

    def _make_room(self, room: int) -> None:
        self._room = room
        self._array = (ctypes.c_char * (_WORK_INFO.size * room))()
        self._bytes = memoryview(self._array).cast("B")
        self._request = pynvml.c_nvmlProcessesUtilizationInfo_v1_t()
        self._request.version = pynvml.ProcessesUtilizationInfo_v1
        self._request.procUtilArray = ctypes.cast(self._array, _WORK_POINTER)


class Accounting:
    """Processes that ended, from the driver's accounting buffer; only where accounting mode was switched on by root."""

    def __init__(self) -> None:
        self._known: set[tuple[int, int]] | None = None
        self._pids = (ctypes.c_uint * SLACK)()

    def read(self, nvml: Nvml, handle: Handle) -> tuple[AccountedProcess, ...]:
        """Give the processes that ended since the last reading; none at the first. Raises RefusedError."""
        if not nvml.call("nvmlDeviceGetAccountingMode", handle):
            self._known = None
            return ()
        ended = {}
        for pid in self._list(nvml, handle):
            stats = pynvml.c_nvmlAccountingStats_t()
            code = nvml.raw("nvmlDeviceGetAccountingStats", handle, ctypes.c_uint(pid), ctypes.byref(stats))
            if code == SUCCESS and not stats.isRunning:
                ended[pid, stats.startTime] = _accounted(pid, stats)
        known, self._known = self._known, set(ended)
        return () if known is None else tuple(process for key, process in ended.items() if key not in known)

    def _list(self, nvml: Nvml, handle: Handle) -> Iterable[int]:
        for _ in range(2):
            count = ctypes.c_uint(len(self._pids))
            code = nvml.raw("nvmlDeviceGetAccountingPids", handle, ctypes.byref(count), self._pids)
            if code == SUCCESS:
                return self._pids[: count.value]
            if code != INSUFFICIENT_SIZE:
                break
            self._pids = (ctypes.c_uint * (count.value + SLACK))()
        if code == NOT_FOUND:
            return ()
        raise nvml.refused("nvmlDeviceGetAccountingPids", code)


def _accounted(pid: int, stats: pynvml.c_nvmlAccountingStats_t) -> AccountedProcess:
    seconds = stats.time / 1e3  # ms
    percent = stats.gpuUtilization if stats.gpuUtilization <= FULL else 0
    memory = 0 if stats.maxMemoryUsage == _U64 else stats.maxMemoryUsage
    return AccountedProcess(pid, stats.startTime / 1e6, seconds, seconds * percent / 100, memory)


class ProcessReading(NamedTuple):
    """What one device told of its processes; see GpuUse."""

    processes: tuple[GpuProcess, ...] | None
    reason: str = ""
    work_reason: str = ""
    ended: tuple[AccountedProcess, ...] = ()


class DeviceProcesses:
    """Everything NVML tells of the processes of one device. Used on the device's thread."""

    def __init__(self, driver_version: str) -> None:
        self._reason = MISPLACED if has_misplaced_lists(driver_version) else ""
        self._work_reason = ""
        self._lists = [(ProcessList(function), context) for function, context in LISTS.items()]
        self._work = Work()
        self._accounting: Accounting | None = Accounting()

    def read(self, nvml: Nvml, handle: Handle, instances: Iterable[Handle], *, slow: bool) -> ProcessReading:
        """Give who is on the device; `instances` are its MIG devices, `slow` asks for ended processes as well.

        A refusal is the reading's reason. Raises RefusedError only when the device is gone.
        """
        if self._reason:
            return ProcessReading(None, self._reason)
        try:
            contexts = self._contexts(nvml, handle, tuple(instances))
        except RefusedError as error:
            if error.trouble is Trouble.GONE:
                raise
            return ProcessReading(None, error.reason)
        work = self._read_work(nvml, handle)
        ended = self._read_ended(nvml, handle) if slow else ()
        return ProcessReading(tuple(_join(contexts, work)), "", self._work_reason, ended)

    def _contexts(self, nvml: Nvml, handle: Handle, instances: tuple[Handle, ...]) -> dict[Entry, str]:
        try:
            return self._read_lists(nvml, handle)
        except RefusedError as error:
            # Without the right to see all of a divided GPU, each of its MIG devices may still be asked (nvml.h).
            if error.trouble is not Trouble.DENIED or not instances:
                raise
        found: dict[Entry, str] = {}
        for instance in instances:
            found |= self._read_lists(nvml, instance)
        return found

    def _read_lists(self, nvml: Nvml, handle: Handle) -> dict[Entry, str]:
        """Give the contexts of every process on each instance; memory is that of the whole process in every list."""
        found: dict[tuple[int, int | None, int | None], tuple[Entry, str]] = {}
        for processes, context in list(self._lists):
            try:
                for entry in processes.read(nvml, handle):
                    key = (entry.pid, entry.gpu_instance_id, entry.compute_instance_id)
                    known, letters = found.get(key, (entry, ""))
                    more = entry if (entry.memory_bytes or 0) > (known.memory_bytes or 0) else known
                    found[key] = more, letters + context
            except RefusedError as error:
                if context == "C" or error.trouble is not Trouble.ABSENT:
                    raise
                self._lists.remove((processes, context))  # a device without graphics, a driver before MPS lists
        return dict(found.values())

    def _read_work(self, nvml: Nvml, handle: Handle) -> dict[int, list[tuple[int, ...]]]:
        if self._work_reason:
            return {}
        try:
            return self._work.read(nvml, handle)
        except RefusedError as error:
            if error.trouble is Trouble.GONE:
                raise
            if error.trouble is not Trouble.OTHER:
                self._work_reason = error.reason
            return {}

    def _read_ended(self, nvml: Nvml, handle: Handle) -> tuple[AccountedProcess, ...]:
        if self._accounting is None:
            return ()
        try:
            return self._accounting.read(nvml, handle)
        except RefusedError as error:
            if error.trouble is Trouble.GONE:
                raise
            if error.trouble is not Trouble.OTHER:
                self._accounting = None
            return ()


def _join(contexts: dict[Entry, str], work: dict[int, list[tuple[int, ...]]]) -> Iterator[GpuProcess]:
    """Give each process once per instance, and those that did something but hold nothing any more."""
    make = GpuProcess._make
    for entry, letters in contexts.items():
        yield make((entry.pid, letters, *entry[1:], *_means(work.get(entry.pid))))
    listed = {entry.pid for entry in contexts}
    for pid, samples in work.items():
        if pid not in listed:
            yield make((pid, "", None, None, None, *_means(samples)))


def _means(samples: list[tuple[int, ...]] | None) -> tuple[float | None, ...]:
    """Give the sum of the first percents, then the mean of each; None for what the driver does not sample."""
    if not samples:
        return (0.0, None, None, None, None, None, None)
    total = float(sum(sample[0] for sample in samples))
    means = [sum(column) / len(samples) for column in zip(*samples, strict=True)]
    return (total, *means, *[None] * (6 - len(means)))
