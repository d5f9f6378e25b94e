"""How a row says what one NVML function answers about a device.

A row fills the out-arguments that follow the handle and the inputs; `Refusal` is an error code instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpumon.gpu.simulate.binary import Argument, fill, fill_text, fill_versioned, number
from gpumon.gpu.simulate.device import Device, Instance

Arguments = tuple[Argument, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCall:
    """One function of a device: what it needs of it, which handles it takes, and how it fills its arguments.

    `fill` is given the device, the MIG device or None, the step, and the arguments after the handle.
    """

    fill: Callable[[Device, Instance | None, int, Arguments], Any]
    needs: str | None = None
    whole: bool = True  # it answers for a GPU
    part: bool = False  # it answers for a MIG device
    undivided: bool = False  # it does not answer while MIG mode is on


def numbers(form: str, value: Callable[..., Any], outs: int = 1, **about: Any) -> DeviceCall:
    """Declare numbers, one to an out-argument; `value` is given the device, the step and the inputs."""

    def answer(device: Device, _instance: Instance | None, step: int, arguments: Arguments) -> None:
        values = value(device, step, *(number(argument) for argument in arguments[:-outs]))
        for argument, one in zip(arguments[-outs:], values if outs > 1 else (values,), strict=True):
            fill(argument, form, one)

    return DeviceCall(fill=answer, **about)


def uint(value: Callable[..., Any], outs: int = 1, **about: Any) -> DeviceCall:
    return numbers("I", value, outs, **about)


def text(value: Callable[[Device], str], **about: Any) -> DeviceCall:
    def answer(device: Device, _instance: Instance | None, _step: int, arguments: Arguments) -> None:
        fill_text(arguments[0], arguments[1], value(device))

    return DeviceCall(fill=answer, **about)


def record(form: str, value: Callable[[Device, int], tuple[Any, ...]], version: int = 0, **about: Any) -> DeviceCall:
    """Declare a struct; `version` is the one it must begin with."""

    def answer(device: Device, _instance: Instance | None, step: int, arguments: Arguments) -> None:
        if version:
            fill_versioned(arguments[-1], version, form, *value(device, step))
        else:
            fill(arguments[-1], form, *value(device, step))

    return DeviceCall(fill=answer, **about)
