"""Reading and filling arguments as a C function does: what nvidia-ml-py passes are ctypes objects, None or numbers."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any

from pynvml import NVML_ERROR_ARGUMENT_VERSION_MISMATCH, NVML_ERROR_INSUFFICIENT_SIZE, NVML_ERROR_INVALID_ARGUMENT

Argument = Any  # a ctypes object of any kind


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """A call is answered with an NVML error code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def target(argument: Argument) -> Argument:
    """Give the object that byref(), pointer() or an array stands for; Refusal for a null pointer."""
    inner = getattr(argument, "_obj", None)
    if inner is not None:
        return inner
    if isinstance(argument, ctypes._Pointer):  # ctypes has no other name for it
        if not argument:
            raise Refusal(NVML_ERROR_INVALID_ARGUMENT)
        return argument.contents
    if argument is None:
        raise Refusal(NVML_ERROR_INVALID_ARGUMENT)
    return argument


def number(argument: Argument) -> int:
    """Give the value of a number passed by value."""
    return argument if isinstance(argument, int) else int(argument.value)


def address(argument: Argument) -> int:
    """Give the address in an opaque handle passed by value; 0 is null."""
    if argument is None:
        return 0
    if isinstance(argument, int):
        return argument
    return int(struct.unpack_from("Q", argument)[0])


def fill(argument: Argument, form: str, *values: float | bytes) -> None:
    """Write values over what the argument refers to, from its first byte, in the layout `form` (see struct)."""
    try:
        struct.pack_into(form, target(argument), 0, *values)
    except struct.error:
        raise Refusal(NVML_ERROR_INVALID_ARGUMENT) from None


def fill_versioned(argument: Argument, version: int, form: str, *values: float | bytes) -> None:
    """Write values after the version that begins a struct; Refusal when it is another one."""
    held = target(argument)
    if struct.unpack_from("I", held)[0] != version:
        raise Refusal(NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
    try:
        struct.pack_into("I" + form, held, 0, version, *values)
    except struct.error:
        raise Refusal(NVML_ERROR_INVALID_ARGUMENT) from None


def fill_text(argument: Argument, length: Argument, text: str) -> None:
    """Write a text that ends with a zero byte; Refusal when `length` bytes are too few."""
    data = text.encode() + b"\0"
    if len(data) > number(length):
        raise Refusal(NVML_ERROR_INSUFFICIENT_SIZE)
    ctypes.memmove(target(argument), data, len(data))


def fill_rows(rows: Argument, form: str, stride: int, values: Sequence[tuple[int, ...]], room: int) -> None:
    """Write an array of structs `stride` bytes apart, stopping where `room` bytes end."""
    start = ctypes.cast(rows, ctypes.c_void_p).value if not hasattr(rows, "_obj") else ctypes.addressof(rows._obj)
    if not start:
        raise Refusal(NVML_ERROR_INVALID_ARGUMENT)
    size = struct.calcsize(form)
    for position, row in enumerate(values):
        if position * stride + size > room:
            break
        ctypes.memmove(start + position * stride, struct.pack(form, *row), size)
