"""NVML's performance monitor: samples that are taken, and metrics averaged between two of them."""

from __future__ import annotations

import itertools
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import fsum

import pynvml

from gpumon.gpu.simulate.binary import Argument, Refusal, address, fill, target
from gpumon.gpu.simulate.device import Device

# nvmlGpmMetricsGet_t: version, numMetrics, sample1, sample2, then metrics of 40 bytes: id, return code, value, names.
_HEAD = struct.Struct("=IIQQ")
_METRIC = struct.Struct("=IId")
_METRIC_SIZE = 40


@dataclass(frozen=True, slots=True)
class Taken:
    """When and of what a sample was taken; `strength` scales the GPU's load to that of a MIG device."""

    device: Device
    gpu_instance_id: int | None
    strength: float
    step: int


class GpmSamples:
    """All sample buffers of a library."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: dict[int, Taken | None] = {}
        self._addresses = itertools.count(0x6B0000000000, 0x1000)

    def __len__(self) -> int:
        return len(self._samples)

    def clear(self) -> None:
        """Forget all samples, as a driver that is loaded anew does."""
        with self._lock:
            self._samples.clear()

    def allocate(self, out: Argument) -> None:
        """Answer nvmlGpmSampleAlloc."""
        with self._lock:
            place = next(self._addresses)
            self._samples[place] = None
        fill(out, "Q", place)

    def free(self, handle: Argument) -> None:
        """Answer nvmlGpmSampleFree."""
        with self._lock:
            if address(handle) not in self._samples:
                raise Refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
            del self._samples[address(handle)]

    def take(self, handle: Argument, device: Device, gpu_instance_id: int | None, step: int) -> None:
        """Answer nvmlGpmSampleGet and nvmlGpmMigSampleGet."""
        if gpu_instance_id is None:
            # A GPU that is divided does what its MIG devices do, by their share of its seven slices.
            parts = [(part.profile.slices / 7, part.strength) for part in device.instances]
            # fsum: the same last digit in every version of Python, so that golden pages are the same.
            strength = fsum(share * power for share, power in parts) if device.mig else 1.0
        else:
            own = [part.strength for part in device.instances if part.gpu_instance_id == gpu_instance_id]
            if not own:
                raise Refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
            strength = own[0]
        with self._lock:
            if address(handle) not in self._samples:
                raise Refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
            self._samples[address(handle)] = Taken(device, gpu_instance_id, strength, step)

    def measure(self, out: Argument, refuse: Callable[[Device, int | None], int | None]) -> None:
        """Answer nvmlGpmMetricsGet; `refuse` gives the error code of the call (None) or of one metric of a device."""
        held = target(out)
        version, count, first, second = _HEAD.unpack_from(held)
        if version != pynvml.NVML_GPM_METRICS_GET_VERSION:
            raise Refusal(pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
        start, end = self._samples.get(first), self._samples.get(second)
        if not start or not end or (start.device, start.gpu_instance_id) != (end.device, end.gpu_instance_id):
            raise Refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        code = refuse(end.device, None)
        if code is not None:
            raise Refusal(code)
        for position in range(count):
            place = _HEAD.size + position * _METRIC_SIZE
            metric = _METRIC.unpack_from(held, place)[0]
            code, value = refuse(end.device, metric), 0.0
            if code is None:
                try:
                    value = end.device.mean_gpm(metric, start.step, end.step) * end.strength
                    code = pynvml.NVML_SUCCESS
                except KeyError:
                    code = pynvml.NVML_ERROR_NOT_SUPPORTED
            _METRIC.pack_into(held, place, metric, code, value)
