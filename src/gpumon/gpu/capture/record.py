"""A library that notes what another one answers."""

from __future__ import annotations

import ctypes
import struct
import threading
from typing import Any

from gpumon import __version__
from gpumon.gpu.capture.arguments import (
    ARRAY_MEMBERS,
    BATCHES,
    DEVICE_TYPE,
    Batch,
    Names,
    address_at,
    arrays_in,
    handles_in,
    memory,
)
from gpumon.gpu.capture.file import Answer, Capture, Out

# A name instead of an address for buffers: whoever replays gets a new one each time.
NEW = "new"
_POINTER = 8


class RecordingLibrary:
    """Stands before a library (ctypes.CDLL or one that behaves like it) and keeps every answer in `capture`."""

    def __init__(self, inner: object) -> None:
        self.capture = Capture(__version__, "")
        self._inner = inner
        self._lock = threading.Lock()
        self._names = Names()
        self._functions: dict[str, RecordedFunction] = {}

    def __getattr__(self, name: str) -> RecordedFunction:
        """Give a function of the library; AttributeError, and a note of it, where it has none."""
        try:
            function = getattr(self._inner, name)
        except AttributeError:
            if name.startswith("nvml"):
                self.capture.missing.add(name)
            raise
        return self._functions.setdefault(name, RecordedFunction(name, function, self))

    def call(self, name: str, function: Any, arguments: tuple[Any, ...]) -> Any:
        """Make a call, and note its answer."""
        with self._lock:
            key, parts = self._names.key(name, arguments)
        code = function(*arguments)
        if not isinstance(code, int):
            return code  # nvmlErrorString: a text that is the same everywhere
        with self._lock:
            batch = BATCHES.get(name)
            if batch is not None:
                self._note(key, code, {})
                if code == 0:
                    self._note_batch(key, batch, memory(arguments[batch.entries]), entry_count(batch, arguments))
            else:
                outs = {
                    place: self._out(name, held, parts)
                    for place, argument in enumerate(arguments)
                    if (held := memory(argument)) is not None
                }
                self._note(key, code, outs)
                if code == 0:
                    self._names.fill_buffers(arguments, parts)
        return code

    def _out(self, name: str, held: Any, parts: list[str]) -> Out:
        data = bytearray(ctypes.string_at(ctypes.addressof(held), ctypes.sizeof(held)))
        handles = {}
        for offset, kind in handles_in(held):
            data[offset : offset + _POINTER] = bytes(_POINTER)
            address = address_at(held, offset)
            if address:
                known = kind == DEVICE_TYPE
                handles[offset] = self._device(name, address, parts) if known else NEW
        arrays = {offset: self._out(name, array, parts) for offset, array in arrays_in(held)}
        for member, *_ in getattr(type(held), "_fields_", ()):
            if member in ARRAY_MEMBERS:
                offset = getattr(type(held), member).offset
                data[offset : offset + _POINTER] = bytes(_POINTER)
        return Out(type(held).__name__, bytes(data).rstrip(b"\0"), handles, arrays)

    def _device(self, name: str, address: int, parts: list[str]) -> str:
        known = self._names.name(address)
        return self._names.learn(address, name, parts) if known == "?" else known

    def _note_batch(self, key: str, batch: Batch, held: Any, count: int) -> None:
        data = ctypes.string_at(ctypes.addressof(held), batch.start + count * batch.size)
        for place in range(batch.start, len(data), batch.size):
            entry = data[place : place + batch.size]
            wanted = ",".join(str(one) for one in struct.unpack_from(f"{batch.ids}I", entry))
            filled = entry[batch.filled : batch.end]
            code = struct.unpack_from("I", filled, batch.code)[0]
            self._note(f"{key}[{wanted}]", code, {0: Out("entry", filled.rstrip(b"\0"))})

    def _note(self, key: str, code: int, outs: dict[int, Out]) -> None:
        answers = self.capture.answers.setdefault(key, [])
        if answers and (answers[-1].code, answers[-1].outs) == (code, outs):
            answers[-1].times += 1
        else:
            answers.append(Answer(code, outs))


class RecordedFunction:
    """A function of the library being recorded."""

    __slots__ = ("_function", "_library", "_name")

    def __init__(self, name: str, function: Any, library: RecordingLibrary) -> None:
        self._name = name
        self._function = function
        self._library = library

    @property
    def restype(self) -> Any:
        """The real function's type of result, which nvidia-ml-py sets."""
        return self._function.restype

    @restype.setter
    def restype(self, kind: Any) -> None:
        self._function.restype = kind

    def __call__(self, *arguments: Any) -> Any:
        return self._library.call(self._name, self._function, arguments)


def entry_count(batch: Batch, arguments: tuple[Any, ...]) -> int:
    """Give the number of entries: the argument before them, or a member of the structure they end."""
    if batch.entries:
        count = arguments[batch.entries - 1]
        return count if isinstance(count, int) else int(count.value)
    held: Any = memory(arguments[0])
    return int(struct.unpack_from("I", held, 4)[0])
