"""Taking out of a capture what identifies a machine, its owner or its users: each identifier by one of the same length.

Bytes whose layout is not known are dropped, for what cannot be read cannot be masked.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pynvml

from gpumon.gpu.capture.file import Capture, Out

# Whole texts that identify, by the function that gives them; UUIDs and PCI addresses are found in any text.
_IDENTIFYING = frozenset({"nvmlDeviceGetSerial", "nvmlDeviceGetBoardPartNumber", "nvmlSystemGetProcessName"})
# Members of structures that identify. A PCI address is a domain and a bus, which are masked together.
_PID_MEMBERS = frozenset({"pid"})
_BYTE_MEMBERS = frozenset({"clusterUuid", "ibGuid", "rackGuid", "chassisPhysicalSlotNumber"})
# Functions one of whose inputs is a pid: its position.
_PID_INPUTS = {"nvmlSystemGetProcessName": 0, "nvmlDeviceGetAccountingStats": 1}
# Above what Linux gives, so that no masked pid is ever taken for a process of the machine that replays.
_FIRST_PID = 2**22 + 1

_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_BUS = re.compile(r"\b([0-9a-fA-F]{4}|[0-9a-fA-F]{8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])")
_ARRAY = re.compile(r"(.+)_Array_(\d+)")


def mask(capture: Capture) -> Capture:
    """Give the same capture with every identifier replaced, the same one always by the same."""
    masker = _Masker()
    answers = {}
    # In the order of keys: which GPU was asked first is chance.
    for key, rows in sorted(capture.answers.items()):
        function = key.partition("(")[0]
        answers[masker.key(function, key)] = [
            replace(row, outs={place: masker.out(function, out) for place, out in row.outs.items()}) for row in rows
        ]
    return Capture(capture.gpumon, capture.driver, True, capture.missing, answers)


class _Masker:
    """Remembers what stands for what."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, object], int] = {}

    def _number(self, kind: str, original: object) -> int:
        """Give the number that stands for an original: the first of its kind is 1."""
        count = sum(1 for known, _ in self._known if known == kind)
        return self._known.setdefault((kind, original), count + 1)

    def key(self, function: str, key: str) -> str:
        """Mask the inputs in the key of a call."""
        place = _PID_INPUTS.get(function)
        if place is None:
            return self.text(key)
        parts = key.removeprefix(f"{function}(").removesuffix(")").split(",")
        parts[place] = str(self._pid(int(parts[place])))
        return f"{function}({','.join(parts)})"

    def text(self, text: str) -> str:
        """Mask UUIDs and PCI addresses in a text."""
        text = _UUID.sub(lambda found: self._uuid(found[0]), text)
        return _BUS.sub(lambda found: self._bus_text(found), text)

    def _uuid(self, original: str) -> str:
        digits = f"{self._number('uuid', original.lower()):032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def _bus_text(self, found: re.Match[str]) -> str:
        domain, bus, device, function = found.groups()
        return f"{'0' * len(domain)}:{self._bus(int(domain, 16), int(bus, 16)):02X}:{device}.{function}"

    def _bus(self, domain: int, bus: int) -> int:
        return self._number("bus", (domain, bus)) % 256

    def _pid(self, original: int) -> int:
        return _FIRST_PID + self._number("pid", original) if original else 0

    def _word(self, original: str) -> str:
        """Give a text of the same length and punctuation, its letters and digits replaced by a number."""
        digits = iter(reversed(str(self._number("word", original))))
        return "".join(reversed([next(digits, "0") if one.isalnum() else one for one in reversed(original)]))

    def out(self, function: str, out: Out) -> Out:
        """Mask the memory behind one argument."""
        arrays = {offset: self.out(function, array) for offset, array in out.arrays.items()}
        handles = {offset: self.text(name) for offset, name in out.handles.items()}
        return Out(out.type, self._data(function, out), handles, arrays)

    def _data(self, function: str, out: Out) -> bytes:
        if out.type == "entry" or not out.data:
            return out.data
        kind = _layout(out.type)
        if kind is None:
            return b""
        held = kind.from_buffer_copy(out.data.ljust(ctypes.sizeof(kind), b"\0"))
        if _is_text(kind):
            text = out.data.decode("latin-1")
            return (self._word(text) if function in _IDENTIFYING else self.text(text)).encode("latin-1")
        for structure in _structures(held):
            self._members(structure)
        return bytes(held).rstrip(b"\0")

    def _members(self, structure: Any) -> None:
        names = {name for name, *_ in structure._fields_}
        if {"domain", "bus"} <= names:
            structure.bus, structure.domain = self._bus(structure.domain, structure.bus), 0
        for name, kind, *_ in structure._fields_:
            if name in _PID_MEMBERS:
                setattr(structure, name, self._pid(getattr(structure, name)))
            elif name in _BYTE_MEMBERS:
                fake = self._number(name, bytes(getattr(structure, name)))
                setattr(structure, name, kind(*fake.to_bytes(ctypes.sizeof(kind), "big")))
            elif _is_text(kind):
                setattr(structure, name, self.text(_text(getattr(structure, name))).encode("latin-1"))


def _layout(name: str) -> Any | None:
    """Give the ctypes type of that name, from ctypes or nvidia-ml-py; None for another's."""
    array = _ARRAY.fullmatch(name)
    if array:
        element = _layout(array[1])
        return element * int(array[2]) if element is not None else None
    found = getattr(ctypes, name, None) or getattr(pynvml, name, None)
    if found is None and name.startswith("LP_"):
        return ctypes.c_void_p  # a handle, whose bytes are zeros
    return found if isinstance(found, type) else None


def _structures(held: Any) -> Iterator[Any]:
    if isinstance(held, ctypes.Array) and not _is_text(type(held)):
        for one in held:
            yield from _structures(one)
    elif isinstance(held, ctypes.Structure):
        yield held
        for name, *_ in held._fields_:
            yield from _structures(getattr(held, name))


def _is_text(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, ctypes.Array) and getattr(kind, "_type_", None) == ctypes.c_char


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
