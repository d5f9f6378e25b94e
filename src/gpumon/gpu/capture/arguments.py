"""How a library call is told from others, and what of its arguments the driver fills: for recording and replaying alike.

A call's key is its function and inputs, as in nvmlDeviceGetClockInfo(gpu0,2,&): a handle by the device it stands for,
a number as it is, `&` for memory to fill, `-` for a null pointer. As little as possible is known of any one function;
all that is, stands in the tables here.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Members of structures that the caller sets: they belong to the key.
INPUT_MEMBERS = frozenset({"version", "sensorType", "mode", "fan"})
# Arguments that differ from call to call and are no part of the key, by function: time stamps and time-outs.
CHANGING = {"nvmlDeviceGetSamples": 2, "nvmlDeviceGetProcessUtilization": 3, "nvmlEventSetWait_v2": 2}
# Members that point to an array the driver fills, and the member that counts its entries.
ARRAY_MEMBERS = {"procArray": "numProcArrayEntries", "procUtilArray": "processSamplesCount"}
# Handles that are named after what they stand for; any other is named after the call that gave it.
DEVICE_TYPE = "struct_c_nvmlDevice_t"
HANDLE_NAMES = {"nvmlDeviceGetHandleByIndex_v2": "gpu{0}", "nvmlDeviceGetMigDeviceHandleByIndex": "{0}/{1}"}


@dataclass(frozen=True, slots=True)
class Batch:
    """A function that answers many questions in one call, each with a return code of its own: each is kept alone.

    Entries are `size` bytes, from `start` on in argument `entries`; the driver fills them from byte `filled` to `end`.
    `code` is where in what is filled the entry's return code stands; `ids` numbers of 4 bytes begin an entry.
    """

    entries: int
    start: int
    size: int
    ids: int
    filled: int
    end: int
    code: int


BATCHES = {
    # nvmlFieldValue_t: fieldId, scopeId, timestamp, latencyUsec, valueType, nvmlReturn, value
    "nvmlDeviceGetFieldValues": Batch(entries=2, start=0, size=40, ids=2, filled=8, end=40, code=20),
    # nvmlGpmMetricsGet_t: version, numMetrics, sample1, sample2; metrics: metricId, nvmlReturn, value, three names
    "nvmlGpmMetricsGet": Batch(entries=0, start=24, size=40, ids=1, filled=4, end=16, code=0),
}


def memory(argument: Any) -> Any | None:
    """Give the ctypes object whose memory an argument points to; None for an argument that is passed by value."""
    inner = getattr(argument, "_obj", None)
    if inner is not None:
        return inner
    if isinstance(argument, ctypes.Array | ctypes.Structure):
        return argument
    if isinstance(argument, ctypes._Pointer) and not _opaque(type(argument)):
        return argument.contents
    return None


def _opaque(kind: Any) -> bool:
    """Say whether a type is a pointer to a structure that nothing is known of."""
    pointer = isinstance(kind, type) and issubclass(kind, ctypes._Pointer)
    return pointer and not hasattr(kind._type_, "_fields_")


def _kind(argument: Any) -> str | None:
    """Give the type of an opaque handle passed by value, None for anything else."""
    return argument._type_.__name__ if isinstance(argument, ctypes._Pointer) and _opaque(type(argument)) else None


def handles_in(held: Any) -> Iterator[tuple[int, str]]:
    """Give offset and type of every opaque handle in an object."""
    kind: Any = type(held)
    if _opaque(kind):
        yield 0, kind._type_.__name__
    for name, member, *_ in getattr(kind, "_fields_", ()):
        if _opaque(member):
            yield getattr(kind, name).offset, member._type_.__name__


def arrays_in(held: Any) -> Iterator[tuple[int, Any]]:
    """Give offset and memory of every array that a structure points to and counts."""
    for name, _member, *_ in getattr(type(held), "_fields_", ()):
        counter = ARRAY_MEMBERS.get(name)
        pointer = getattr(held, name) if counter else None
        if counter and pointer:
            count = getattr(held, counter)
            yield getattr(type(held), name).offset, (pointer._type_ * count).from_address(ctypes.addressof(pointer[0]))


def address_at(held: Any, offset: int) -> int:
    """Give the address that stands at an offset of an object."""
    return int(struct.unpack_from("Q", held, offset)[0])


class Names:
    """What handles stand for. Handles of devices have names; those of buffers stand for what was last put in them."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._contents: dict[int, str] = {}

    def name(self, address: int) -> str:
        """Give what a handle stands for."""
        return self._names.get(address) or self._contents.get(address, "?")

    def learn(self, address: int, call: str, parts: list[str]) -> str:
        """Give the name of a device handle that a call gave, naming it if it is new."""
        form = HANDLE_NAMES.get(call)
        name = form.format(*parts) if form else f"{call}({','.join(parts[:-1])})"
        return self._names.setdefault(address, name)

    def bind(self, address: int, name: str) -> None:
        """Let a handle stand for a name."""
        self._names[address] = name

    def key(self, function: str, arguments: tuple[Any, ...]) -> tuple[str, list[str]]:
        """Give the key of a call, and its arguments' parts of it."""
        if function == "nvmlGpmMetricsGet":
            # Two samples of one thing: the newer tells which.
            parts = [self.name(address_at(memory(arguments[0]), 16))]
        else:
            filling = any(_kind(argument) == DEVICE_TYPE for argument in arguments)
            parts = [self._part(argument, filling) for argument in arguments]
            changing = CHANGING.get(function)
            if changing is not None and changing < len(parts):
                parts[changing] = "*"
        if function in BATCHES:
            parts = parts[:1]
        return f"{function}({','.join(parts)})", parts

    def _part(self, argument: Any, filling: bool) -> str:
        if argument is None:
            return "-"
        if isinstance(argument, bytes):
            return argument.decode(errors="replace")
        if isinstance(argument, int):
            return str(argument)
        held = memory(argument)
        if held is not None:
            members = [name for name, *_ in getattr(type(held), "_fields_", ()) if name in INPUT_MEMBERS]
            return "&" + ";".join(f"{name}={getattr(held, name)}" for name in members)
        kind = _kind(argument)
        if kind is not None:
            # A buffer that a device's call fills is any buffer; elsewhere it stands for what is in it.
            return "buffer" if filling and kind != DEVICE_TYPE else self.name(address_at(argument, 0))
        value = argument.value
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

    def fill_buffers(self, arguments: tuple[Any, ...], parts: list[str]) -> None:
        """Note that buffers among the arguments of a device's call now hold what its other arguments name."""
        if any(_kind(argument) == DEVICE_TYPE for argument in arguments):
            for argument in arguments:
                if _kind(argument) not in (None, DEVICE_TYPE):
                    self._contents[address_at(argument, 0)] = ",".join(part for part in parts if part != "buffer")
