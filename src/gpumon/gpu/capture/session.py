"""`gpumon capture`: ask the driver everything that gpumon ever asks, and keep what it answers."""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pynvml
import structlog

from gpumon.catalog import FAN, GPU_KINDS, MIG, MIG_INFO, NVLINK, Call, EntityKind, Field
from gpumon.gpu.buffers import FieldBlock
from gpumon.gpu.capture.file import Capture, dump
from gpumon.gpu.capture.masking import mask
from gpumon.gpu.capture.record import RecordingLibrary
from gpumon.gpu.nvml import Nvml, RefusedError, constant
from gpumon.gpu.source import GpuSource
from gpumon.gpu.xid import XidLog
from gpumon.settings import Gpu as GpuSettings
from gpumon.settings import SettingsError

# Enough for every counter to move and for GPM to have two samples.
TICKS = 5
INTERVAL_SECONDS = 2.0

# What no row of the catalogue asks for and other parts of gpumon do, or will.
_MORE: tuple[tuple[Any, ...], ...] = (
    ("nvmlDeviceGetComputeRunningProcesses_v3",),
    ("nvmlDeviceGetComputeRunningProcesses_v2",),
    ("nvmlDeviceGetGraphicsRunningProcesses_v3",),
    ("nvmlDeviceGetGraphicsRunningProcesses_v2",),
    ("nvmlDeviceGetMPSComputeRunningProcesses_v3",),
    ("nvmlDeviceGetMPSComputeRunningProcesses_v2",),
    ("nvmlDeviceGetRunningProcessDetailList", pynvml.nvmlProcessDetailList_v1, 0),
    ("nvmlDeviceGetProcessUtilization", 0),
    ("nvmlDeviceGetProcessesUtilizationInfo", 0),
    ("nvmlDeviceGetAccountingMode",),
    ("nvmlDeviceGetSupportedEventTypes",),
    ("nvmlDeviceGetCudaComputeCapability",),
    ("nvmlDeviceGetNumFans",),
    ("nvmlDeviceGetMaxMigDeviceCount",),
    *(("nvmlDeviceGetSamples", kind, 0) for kind in range(pynvml.NVML_OFA_UTILIZATION_SAMPLES + 1)),
)


def load_library() -> object:
    """Load the real libnvidia-ml.so.1; SettingsError says why it cannot be."""
    try:
        return ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        raise SettingsError(f"there is no NVIDIA driver to capture here: {error}") from error


def capture(file: Path) -> None:
    """Record this machine's driver into a new file, identifiers masked.

    OSError says why the file cannot be made, SettingsError why there is no driver to record; no file is left then.
    """
    with file.open("x") as out:
        try:
            out.write(dump(mask(asyncio.run(record(load_library())))))
        except BaseException:
            file.unlink()
            raise


async def record(
    library: object,
    *,
    ticks: int = TICKS,
    clock: Callable[[], float] = time.time,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> Capture:
    """Let gpumon read a driver for some ticks, then ask it every source of the catalogue; give all answers, unmasked."""
    recorder = RecordingLibrary(library)
    nvml = Nvml(recorder)
    xids = XidLog()
    source = GpuSource(GpuSettings(), nvml, structlog.get_logger(), interval=INTERVAL_SECONDS, xids=xids)
    for _ in range(ticks):
        await source.read(clock(), INTERVAL_SECONDS)
        await pause(INTERVAL_SECONDS)
    if source.fatal is not None or source.driver_name != "nvml":
        raise SettingsError(f"the NVIDIA driver cannot be captured: {source.fatal or 'it cannot be opened'}")
    ask_everything(nvml)
    recorder.capture.driver = str(nvml.call("nvmlSystemGetDriverVersion", None))
    await source.stop(INTERVAL_SECONDS)
    return recorder.capture


def ask_everything(nvml: Nvml) -> None:
    """Ask every GPU and every part of it all sources of the catalogue, and more; refusals are answers too."""
    for index in range(int(nvml.call("nvmlDeviceGetCount"))):
        try:
            handle = nvml.call("nvmlDeviceGetHandleByIndex", index)
        except RefusedError:
            continue
        for kind, subject, parameter in _subjects(nvml, handle):
            _ask_kind(nvml, kind, subject, parameter)
        for function, *arguments in _MORE:
            _ask(nvml, function, handle, *arguments)


def _subjects(nvml: Nvml, handle: Any) -> Iterator[tuple[EntityKind, Any, int]]:
    """Give every kind with what it is asked of: the GPU, each of its links and fans, each of its MIG devices."""
    links = range(pynvml.NVML_NVLINK_MAX_LINKS)
    fans = range(_ask(nvml, "nvmlDeviceGetNumFans", handle) or 0)
    slots = range(_ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0)
    found = (_ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, slot) for slot in slots)
    instances = [instance for instance in found if instance is not None]
    for kind in GPU_KINDS:
        if kind in (NVLINK, FAN):
            yield from ((kind, handle, number) for number in (links if kind is NVLINK else fans))
        elif kind in (MIG, MIG_INFO):
            yield from ((kind, instance, 0) for instance in instances)
        else:
            yield kind, handle, 0


def _ask_kind(nvml: Nvml, kind: EntityKind, handle: Any, parameter: int) -> None:
    sources = [source for label in kind.labels for source in label.sources]
    sources += [source for column in kind.columns for source in column.sources]
    for source in sources:
        if isinstance(source, Call):
            _ask(nvml, source.function, handle, *(_value(one, parameter) for one in source.args))
    fields = [(constant(one.id), _value(one.scope, parameter)) for one in sources if isinstance(one, Field)]
    if fields:
        try:
            FieldBlock(fields).read(nvml, handle)
        except RefusedError:
            pass


def _value(argument: str | int, parameter: int) -> int:
    if isinstance(argument, int):
        return argument
    return parameter if argument in ("link", "fan") else constant(argument)


def _ask(nvml: Nvml, function: str, *arguments: Any) -> Any:
    """Give an answer, None for a refusal."""
    try:
        return nvml.call(function, *arguments)
    except RefusedError:
        return None
    except TypeError:
        # nvidia-ml-py's own process details fail so on a process whose memory is not available.
        return None
