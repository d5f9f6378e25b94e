"""Answers read into buffers that are kept: field values, the driver's sample buffer, GPM.

nvidia-ml-py makes a new array and an object per value for each of these calls, which would be most of a tick's cost.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

import pynvml

from gpumon.gpu.nvml import INSUFFICIENT_SIZE, NOT_FOUND, NOT_SUPPORTED, SUCCESS, Handle, Nvml, RefusedError

# nvmlFieldValue_t: fieldId, scopeId, timestamp, latencyUsec, valueType, nvmlReturn, value (nvml.h)
_FIELD = struct.Struct("=IIqqIIQ")
# nvmlSample_t: timeStamp, sampleValue
_SAMPLE = struct.Struct("=QQ")
_DOUBLE = struct.Struct("=d")
_UNSIGNED = struct.Struct("=Q")

_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF

# How many bits a value type has, by NVML_VALUE_TYPE; unsigned long is 64 bits on every Linux NVML runs on.
VALUE_BITS = {1: 32, 2: 64, 3: 64, 4: 64, 5: 32, 6: 16}


def number(value_type: int, raw: int) -> float | None:
    """Take the number out of the 8 bytes of an nvmlValue_t; None for NVML's "not available" (all ones).

    What lies beyond the member that `value_type` names is undefined, so it is masked.
    """
    if value_type == 0:
        value: float = _DOUBLE.unpack(_UNSIGNED.pack(raw))[0]
        return value if value == value else None
    if value_type == 1:
        raw &= _U32
        return None if raw == _U32 else raw
    if value_type == 5:
        raw &= _U32
        return raw - (1 << 32) if raw >> 31 else raw
    if value_type == 4:
        return raw - (1 << 64) if raw >> 63 else raw
    if value_type == 6:
        return raw & 0xFFFF
    return None if raw == _U64 else raw


class FieldBlock:
    """A set of field values of one device that are read by one nvmlDeviceGetFieldValues call."""

    def __init__(self, fields: Sequence[tuple[int, int]]) -> None:
        self._array = (pynvml.c_nvmlFieldValue_t * len(fields))()
        for value, (field_id, scope_id) in zip(self._array, fields, strict=True):
            value.fieldId = field_id
            value.scopeId = scope_id
        self._count = ctypes.c_int32(len(fields))
        self._bytes = memoryview(self._array).cast("B")

    def read(self, nvml: Nvml, handle: Handle) -> list[tuple[int, int, int]]:
        """Give (value type, return value, raw value) of each field, in the order given at construction.

        Raises RefusedError when the call as a whole is refused.
        """
        code = nvml.raw("nvmlDeviceGetFieldValues", handle, self._count, ctypes.byref(self._array))
        if code != SUCCESS:
            raise nvml.refused("nvmlDeviceGetFieldValues", code)
        return [values[4:] for values in _FIELD.iter_unpack(self._bytes)]


class SampleBuffer:
    """The driver's buffer of one kind of samples of one device, read from where the last reading ended."""

    # Some drivers keep 100 samples, some 120; the size is asked for once and this much is added for growth.
    SLACK = 16
    # So many readings in a row without a new sample mean that the clock the driver stamps them by was set back.
    EMPTY_READINGS = 10

    def __init__(self, sampling_type: int) -> None:
        self._type = sampling_type
        self._array: ctypes.Array[pynvml.c_nvmlSample_t] | None = None
        self._bytes = memoryview(b"")
        self._empty = 0
        self.last_seen = 0  # microseconds, on the driver's clock; 0 when nothing was seen yet

    def read(self, nvml: Nvml, handle: Handle) -> list[tuple[int, int]]:
        """Give (time in microseconds, value) of every sample newer than the last one seen, oldest first.

        Empty when there is none. Raises RefusedError.
        """
        samples = self._read(nvml, handle)
        self._empty = 0 if samples else self._empty + 1
        if self._empty >= self.EMPTY_READINGS:
            self._empty = self.last_seen = 0
        return samples

    def _read(self, nvml: Nvml, handle: Handle) -> list[tuple[int, int]]:
        for _ in range(2):
            if self._array is None:
                self._make_room(nvml, handle)
            code, count = self._ask(nvml, handle)
            if code == INSUFFICIENT_SIZE:  # the buffer has grown between asking for its size and reading it
                self._array = None
                continue
            if code == NOT_FOUND or (code == SUCCESS and count == 0):
                return []
            if code != SUCCESS:
                raise nvml.refused("nvmlDeviceGetSamples", code)
            samples = [(time, raw & _U32) for time, raw in _SAMPLE.iter_unpack(self._bytes[: count * _SAMPLE.size])]
            # Drivers have been seen to repeat samples already given (nvtop #110).
            samples = sorted(sample for sample in samples if sample[0] > self.last_seen)
            if samples:
                self.last_seen = samples[-1][0]
            return samples
        return []

    def _make_room(self, nvml: Nvml, handle: Handle) -> None:
        code, count = self._ask(nvml, handle)
        if code not in (SUCCESS, INSUFFICIENT_SIZE, NOT_FOUND):
            raise nvml.refused("nvmlDeviceGetSamples", code)
        self._array = (pynvml.c_nvmlSample_t * (count + self.SLACK))()
        self._bytes = memoryview(self._array).cast("B")

    def _ask(self, nvml: Nvml, handle: Handle) -> tuple[int, int]:
        value_type = ctypes.c_uint()
        count = ctypes.c_uint(len(self._array) if self._array is not None else 0)
        code = nvml.raw(
            "nvmlDeviceGetSamples",
            handle,
            ctypes.c_uint(self._type),
            ctypes.c_ulonglong(self.last_seen),
            ctypes.byref(value_type),
            ctypes.byref(count),
            self._array,
        )
        return code, count.value


class GpmPair:
    """Two GPM samples of one device or MIG GPU instance; metrics are means between the last two readings."""

    def __init__(self, metric_ids: Sequence[int], gpu_instance_id: int | None = None) -> None:
        self._instance = gpu_instance_id
        self._older: object | None = None
        self._newer: object | None = None
        self._request = pynvml.c_nvmlGpmMetricsGet_t()
        self._request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        self._request.numMetrics = len(metric_ids)
        for i, metric_id in enumerate(metric_ids):
            self._request.metrics[i].metricId = metric_id
        # Kept: indexing the array makes a new object each time.
        self._metrics = [self._request.metrics[i] for i in range(len(metric_ids))]

    def read(self, nvml: Nvml, handle: Handle) -> list[tuple[int, float]] | None:
        """Take a sample and give (return value, mean since the last one) per metric; None at the first reading.

        Two readings must be at least 100 ms apart (nvml.h). Raises RefusedError.
        """
        if self._older is None:
            if not nvml.call("nvmlGpmQueryDeviceSupport", handle).isSupportedDevice:
                raise RefusedError("nvmlGpmQueryDeviceSupport", NOT_SUPPORTED)
            self._older = nvml.call("nvmlGpmSampleAlloc")
        self._take(nvml, handle, self._older)
        self._older, self._newer = self._newer, self._older
        if self._older is None:
            self._older = nvml.call("nvmlGpmSampleAlloc")
            return None
        self._request.sample1, self._request.sample2 = self._older, self._newer
        nvml.call("nvmlGpmMetricsGet", self._request)
        return [(metric.nvmlReturn, metric.value) for metric in self._metrics]

    def _take(self, nvml: Nvml, handle: Handle, sample: object) -> None:
        if self._instance is None:
            nvml.call("nvmlGpmSampleGet", handle, sample)
        else:
            nvml.call("nvmlGpmMigSampleGet", handle, self._instance, sample)

    def free(self, nvml: Nvml) -> None:
        """Give the samples back to the driver; to be called before the driver is closed."""
        for sample in (self._older, self._newer):
            if sample is not None:
                try:
                    nvml.call("nvmlGpmSampleFree", sample)
                except RefusedError:
                    pass  # the driver is gone, and the sample with it
        self._older = self._newer = None
