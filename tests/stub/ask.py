"""A child program: asks GPU 1 for everything in the catalogue, prints the answers as JSON, source by source and as gpumon reads them.

It runs apart from the tests because nvidia-ml-py finds the library through the environment, and loads it once in a process.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pynvml

from gpumon.catalog import FAN, GPU, MIG, NVLINK, Call, Computed, Entity, EntityKind, Field, Gpm, Source
from gpumon.gpu.counters import Ledger
from gpumon.gpu.device import Device, DeviceSetup
from gpumon.gpu.nvml import Nvml

GPU_INDEX = 1
# The member of nvmlValue_t that each NVML_VALUE_TYPE stands for (nvml.h).
MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


def directly(source: Source, handle: Any, parameters: dict[str, int]) -> Any:
    """Give a source's number by nvidia-ml-py alone; a string is the error met, None a source that is not NVML's."""
    try:
        if isinstance(source, Call) and source.function.startswith("nvml"):
            return _call(source, handle, parameters)
        if isinstance(source, Field):
            return _field(source, handle, parameters)
        if isinstance(source, Gpm):
            return _gpm(source, handle)
    except pynvml.NVMLError as error:
        return pynvml.NVMLError._errcode_to_string.get(error.value, str(error.value))
    assert isinstance(source, Computed | Call)
    return None


def _call(source: Call, handle: Any, parameters: dict[str, int]) -> Any:
    args = [_argument(arg, parameters) for arg in source.args]
    answer = getattr(pynvml, source.function)(handle, *args)
    if isinstance(source.pick, int):
        answer = answer[source.pick]
    elif source.pick is not None:
        answer = getattr(answer, source.pick)
    if source.bits is not None:
        answer = answer >> source.bits[0] & source.bits[1]
    return source.map.get(answer) if source.map is not None else answer * source.scale


def _field(source: Field, handle: Any, parameters: dict[str, int]) -> Any:
    scope = _argument(source.scope, parameters)
    (value,) = pynvml.nvmlDeviceGetFieldValues(handle, [(getattr(pynvml, source.id), scope)])
    if value.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(value.nvmlReturn)
    return getattr(value.value, MEMBERS[value.valueType]) * source.scale


def _gpm(source: Gpm, handle: Any) -> Any:
    request = pynvml.c_nvmlGpmMetricsGet_t()
    request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
    request.numMetrics = 1
    request.metrics[0].metricId = getattr(pynvml, source.id)
    request.sample1, request.sample2 = samples = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
    for sample in samples:
        pynvml.nvmlGpmSampleGet(handle, sample)
    pynvml.nvmlGpmMetricsGet(request)
    for sample in samples:
        pynvml.nvmlGpmSampleFree(sample)
    if request.metrics[0].nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(request.metrics[0].nvmlReturn)
    return request.metrics[0].value * source.scale


def _argument(argument: str | int, parameters: dict[str, int]) -> int:
    if isinstance(argument, int):
        return argument
    return parameters[argument] if argument in parameters else getattr(pynvml, argument)


def ask(kind: EntityKind, handle: Any, parameters: dict[str, int] | None = None) -> dict[str, list[Any]]:
    """Give, per column of `kind`, what each of its sources answers."""
    return {
        column.name: [directly(source, handle, parameters or {}) for source in column.sources]
        for column in kind.columns
    }


def as_read(nvml: Nvml, index: int) -> dict[str, dict[str, float | None]]:
    """Give what gpumon's own engine reads of the GPU, by kind and own labels, at its second tick."""
    ledger = Ledger()
    device = Device(nvml, index, DeviceSetup(30, 6, lambda _: ledger, lambda _: None))
    device.read(0)
    entities = device.read(100)
    device.free()
    return {_title(entity): dict(zip(entity.kind.index, entity.values, strict=True)) for entity in entities}


def _title(entity: Entity) -> str:
    return " ".join((entity.kind.name, *entity.labels[3:]))


def main() -> None:
    """Ask, and print."""
    nvml = Nvml()
    nvml.open()
    handle = pynvml.nvmlDeviceGetHandleByIndex(GPU_INDEX)
    answers = {
        "gpu": ask(GPU, handle),
        "nvlink": ask(NVLINK, handle, {"link": 2}),
        "fan": ask(FAN, handle, {"fan": 1}),
    }
    for slot in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot)
        except pynvml.NVMLError_NotFound:
            continue
        answers[f"mig {pynvml.nvmlDeviceGetGpuInstanceId(instance)}"] = ask(MIG, instance)
    json.dump({"direct": answers, "read": as_read(nvml, GPU_INDEX)}, sys.stdout)
    nvml.close()


if __name__ == "__main__":
    main()
