"""A library that answers from a capture, so that the real code runs over what a real driver said."""

from __future__ import annotations

import ctypes
import itertools
import struct
import threading
from typing import Any

import pynvml

from gpumon.gpu.capture.arguments import BATCHES, Batch, Names, arrays_in, handles_in, memory
from gpumon.gpu.capture.file import Answer, Capture, Out
from gpumon.gpu.capture.record import NEW, entry_count

_WAITING = "nvmlEventSetWait_v2"
# What is answered where nothing was recorded, other than NOT_SUPPORTED: giving things back works, and nothing happens.
_UNRECORDED = {
    "nvmlShutdown": pynvml.NVML_SUCCESS,
    "nvmlGpmSampleFree": pynvml.NVML_SUCCESS,
    "nvmlEventSetFree": pynvml.NVML_SUCCESS,
    _WAITING: pynvml.NVML_ERROR_TIMEOUT,
}
_POINTER = 8


class ReplayLibrary:
    """Answers each call as the capture has it, in the order of time; the last answer is repeated for ever.

    A call that was not recorded answers NOT_SUPPORTED, but for waiting, which times out, and giving things back.
    A symbol that the library lacked is missing.
    Put it in place of `pynvml.nvmlLib`.
    """

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._lock = threading.Lock()
        self._names = Names()
        self._given: dict[str, int] = {}
        self._addresses = itertools.count(0x7E0000000000, 0x1000)
        self._devices: dict[str, int] = {}
        self._functions: dict[str, ReplayedFunction] = {}

    def __getattr__(self, name: str) -> ReplayedFunction:
        """Give a function; AttributeError where the recorded library had none."""
        if not name.startswith("nvml") or name in self._capture.missing:
            raise AttributeError(f"replayed libnvidia-ml.so.1: undefined symbol: {name}")
        return self._functions.setdefault(name, ReplayedFunction(name, self))

    def call(self, name: str, arguments: tuple[Any, ...]) -> int | bytes:
        """Answer a call."""
        if name == "nvmlErrorString":
            return b"error of a replayed driver"
        with self._lock:
            key, parts = self._names.key(name, arguments)
            answer = self._next(key)
            if answer is None:
                answer = Answer(_UNRECORDED.get(name, pynvml.NVML_ERROR_NOT_SUPPORTED), {})
            code = answer.code
            batch = BATCHES.get(name)
            if batch is not None and code == 0:
                self._fill_batch(key, batch, memory(arguments[batch.entries]), entry_count(batch, arguments))
            for place, out in answer.outs.items():
                held = memory(arguments[place])
                if held is not None and not self._fill(held, out):
                    return int(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
            if code == 0:
                self._names.fill_buffers(arguments, parts)
        if name == _WAITING and code == pynvml.NVML_ERROR_TIMEOUT:
            # Whoever waits for events must not be made to spin.
            threading.Event().wait(int(getattr(arguments[2], "value", arguments[2])) / 1000)
        return code

    def _next(self, key: str) -> Answer | None:
        answers = self._capture.answers.get(key)
        if not answers:
            return None
        turn = self._given.get(key, 0)
        self._given[key] = turn + 1
        for answer in answers:
            turn -= answer.times
            if turn < 0:
                return answer
        return answers[-1]

    def _fill(self, held: Any, out: Out) -> bool:
        """Write an answer into a caller's memory, all but where it holds pointers of its own; False without room."""
        size = ctypes.sizeof(held)
        if len(out.data) > size:
            return False
        data = bytearray(out.data.ljust(size, b"\0"))
        room = dict(arrays_in(held))
        for offset in out.arrays:
            if offset not in room or not self._fill(room[offset], out.arrays[offset]):
                return False
        own = ctypes.string_at(ctypes.addressof(held), size)
        for offset in room:
            data[offset : offset + _POINTER] = own[offset : offset + _POINTER]
        for offset, _kind in handles_in(held):
            name = out.handles.get(offset)
            struct.pack_into("Q", data, offset, self._address(name) if name else 0)
        ctypes.memmove(ctypes.addressof(held), bytes(data), size)
        return True

    def _address(self, name: str) -> int:
        if name == NEW:
            return next(self._addresses)
        if name not in self._devices:
            self._devices[name] = next(self._addresses)
            self._names.bind(self._devices[name], name)
        return self._devices[name]

    def _fill_batch(self, key: str, batch: Batch, held: Any, count: int) -> None:
        start = ctypes.addressof(held) + batch.start
        for entry in range(start, start + count * batch.size, batch.size):
            ids = struct.unpack(f"{batch.ids}I", ctypes.string_at(entry, 4 * batch.ids))
            answer = self._next(f"{key}[{','.join(str(one) for one in ids)}]")
            filled = bytearray(batch.end - batch.filled)
            if answer is None:
                struct.pack_into("I", filled, batch.code, pynvml.NVML_ERROR_NOT_SUPPORTED)
            else:
                filled[: len(answer.outs[0].data)] = answer.outs[0].data
            ctypes.memmove(entry + batch.filled, bytes(filled), len(filled))


class ReplayedFunction:
    """A function of the replayed library, which lets its restype be set as ctypes does."""

    __slots__ = ("_library", "_name", "argtypes", "errcheck", "restype")

    def __init__(self, name: str, library: ReplayLibrary) -> None:
        self._name = name
        self._library = library

    def __call__(self, *arguments: Any) -> int | bytes:
        return self._library.call(self._name, arguments)
