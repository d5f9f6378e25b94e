"""What NVML answers about use, memory, heat, power and clocks of a simulated device: one row per function."""

from __future__ import annotations

from collections.abc import Mapping

import pynvml

from gpumon.gpu.simulate.architectures import MIB
from gpumon.gpu.simulate.binary import Refusal, fill, fill_versioned, target
from gpumon.gpu.simulate.calls import Arguments, DeviceCall, numbers, record, uint
from gpumon.gpu.simulate.course import STEPS_PER_SECOND
from gpumon.gpu.simulate.device import Device, Instance
from gpumon.gpu.simulate.fields import milliwatts

PERIOD_MICROSECONDS = 1_000_000 // STEPS_PER_SECOND
_CLOCK_COLUMNS = {0: "clock", 1: "clock", 3: "video_clock"}
_THRESHOLDS = {0: "shutdown", 1: "slowdown", 2: "memory_max", 3: "gpu_max"}
# Every reason of nvmlClocksEventReasons.
_ALL_REASONS = 0x1FF


def _engine(column: str, needs: str | None = None) -> DeviceCall:
    def value(device: Device, step: int) -> tuple[int, int]:
        return device.at(column, step), PERIOD_MICROSECONDS

    return uint(value, outs=2, needs=needs, undivided=True)


def _memory(device: Device, instance: Instance | None, step: int) -> tuple[int, int, int, int]:
    """Give total, reserved, free and used bytes."""
    if instance:
        total = instance.profile.memory_mib * MIB
        used = device.used(step, instance.gpu_instance_id)
        return total, 0, total - used, used
    total, reserved, used = device.model.memory_mib * MIB, device.model.reserved_mib * MIB, device.used(step)
    return total, reserved, total - reserved - used, used


def _memory_v1(device: Device, instance: Instance | None, step: int, arguments: Arguments) -> None:
    total, _reserved, free, _used = _memory(device, instance, step)
    fill(arguments[0], "QQQ", total, free, total - free)


def _memory_v2(device: Device, instance: Instance | None, step: int, arguments: Arguments) -> None:
    fill_versioned(arguments[0], pynvml.nvmlMemory_v2, "4xQQQQ", *_memory(device, instance, step))


def _bar1(device: Device, _step: int) -> tuple[int, int, int]:
    # The window covers all memory on server cards; 256 MiB of it is what drivers map at rest.
    total = 1 << (device.model.memory_mib * MIB - 1).bit_length()
    used = min(total, 256 * MIB)
    return total, total - used, used


def _temperature(device: Device, step: int, sensor: int) -> int:
    if sensor != pynvml.NVML_TEMPERATURE_GPU:
        raise Refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    return round(device.temperature(step))


def _temperature_v1(device: Device, _instance: Instance | None, step: int, arguments: Arguments) -> None:
    sensor = target(arguments[0]).sensorType
    fill_versioned(arguments[0], pynvml.nvmlTemperature_v1, "Ii", sensor, _temperature(device, step, sensor))


def _threshold(device: Device, _step: int, kind: int) -> int:
    if kind not in _THRESHOLDS or (kind == 2 and "memory_temperature" not in device.features):
        raise Refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return int(getattr(device.model, _THRESHOLDS[kind]))


def _fan(device: Device, step: int, fan: int = 0) -> int:
    if not device.model.fans:
        raise Refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
    if fan >= device.model.fans:
        raise Refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    # Consumer cards stop their fans below 50 °C and run them flat out at the slowdown temperature.
    return max(0, min(100, round((device.temperature(step) - 50) * 100 / (device.model.slowdown - 50))))


def _clock(device: Device, step: int, kind: int) -> int:
    if kind in _CLOCK_COLUMNS:
        return device.at(_CLOCK_COLUMNS[kind], step)
    if kind != pynvml.NVML_CLOCK_MEM or not device.model.clock_memory:
        raise Refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
    # Cards that leave P0 at rest drop the memory clock with it.
    return device.model.clock_memory if performance_state(device, step) == 0 else 405


def _clock_max(device: Device, _step: int, kind: int) -> int:
    model = device.model
    clocks = {0: model.clock_max, 1: model.clock_max, 2: model.clock_memory, 3: model.clock_video}
    if not clocks.get(kind):
        raise Refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
    return clocks[kind]


def performance_state(device: Device, step: int) -> int:
    """Give the P-state: 0 at work, the model's own at rest."""
    # A card falls back to its idle state only after a rest; one second is what is seen.
    resting = device.mean("busy", step - STEPS_PER_SECOND, step) == 0
    return device.model.pstate_idle if resting else 0


def _power(device: Device, step: int) -> int:
    # nvml.h: the mean of a second on Ampere (but GA100) and newer, else the moment's.
    return milliwatts(device, step) if "power_average" in device.features else device.at("power", step)


def _limit(model_field: str) -> DeviceCall:
    return uint(lambda device, _step: getattr(device.model, model_field) * 1000, needs="power_limits")


READINGS: Mapping[str, DeviceCall] = {
    "nvmlDeviceGetUtilizationRates": record(
        "II", lambda device, step: (device.at("busy", step), device.at("memory_busy", step)), undivided=True
    ),
    "nvmlDeviceGetEncoderUtilization": _engine("encoder"),
    "nvmlDeviceGetDecoderUtilization": _engine("decoder"),
    "nvmlDeviceGetJpgUtilization": _engine("jpeg", "jpeg"),
    "nvmlDeviceGetOfaUtilization": _engine("optical_flow", "ofa"),
    "nvmlDeviceGetMemoryInfo": DeviceCall(fill=_memory_v1, needs="framebuffer", part=True),
    "nvmlDeviceGetMemoryInfo_v2": DeviceCall(fill=_memory_v2, needs="framebuffer", part=True),
    "nvmlDeviceGetBAR1MemoryInfo": record("QQQ", _bar1, needs="bar1", part=True),
    "nvmlDeviceGetConfComputeProtectedMemoryUsage": record(
        "QQQ", lambda _device, _step: (0, 0, 0), needs="confidential"
    ),
    "nvmlDeviceGetTemperatureV": DeviceCall(fill=_temperature_v1),
    "nvmlDeviceGetTemperature": uint(_temperature),
    "nvmlDeviceGetTemperatureThreshold": uint(_threshold, needs="thresholds"),
    "nvmlDeviceGetMarginTemperature": record(
        "i",
        lambda device, step: (device.model.gpu_max - round(device.temperature(step)),),
        pynvml.nvmlMarginTemperature_v1,
        needs="margin",
    ),
    "nvmlDeviceGetNumFans": uint(lambda device, _step: device.model.fans),
    "nvmlDeviceGetFanSpeed": uint(_fan),
    "nvmlDeviceGetFanSpeed_v2": uint(_fan),
    "nvmlDeviceGetPowerUsage": uint(_power),
    "nvmlDeviceGetEnforcedPowerLimit": _limit("power_limit"),
    "nvmlDeviceGetPowerManagementLimit": _limit("power_limit"),
    "nvmlDeviceGetPowerManagementDefaultLimit": _limit("power_limit"),
    "nvmlDeviceGetPowerManagementLimitConstraints": uint(
        lambda device, _step: (device.model.power_min * 1000, device.model.power_max * 1000),
        outs=2,
        needs="power_limits",
    ),
    "nvmlDeviceGetTotalEnergyConsumption": numbers(
        "Q", lambda device, step: device.counted("power", step) // STEPS_PER_SECOND, needs="energy"
    ),
    "nvmlDeviceGetClockInfo": uint(_clock),
    "nvmlDeviceGetMaxClockInfo": uint(_clock_max),
    "nvmlDeviceGetPerformanceState": uint(performance_state),
    "nvmlDeviceGetPowerState": uint(performance_state),
    "nvmlDeviceGetCurrentClocksEventReasons": numbers("Q", lambda device, step: device.at("reasons", step)),
    "nvmlDeviceGetCurrentClocksThrottleReasons": numbers("Q", lambda device, step: device.at("reasons", step)),
    "nvmlDeviceGetSupportedClocksEventReasons": numbers("Q", lambda _device, _step: _ALL_REASONS),
    "nvmlDeviceGetSupportedClocksThrottleReasons": numbers("Q", lambda _device, _step: _ALL_REASONS),
}
