"""How a simulated libnvidia-ml.so.1 answers: symbols, initialisation, handles, and what spans devices."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pynvml

from gpumon.gpu.simulate.binary import Argument, Refusal, fill, fill_text, number, target
from gpumon.gpu.simulate.calls import Arguments, DeviceCall
from gpumon.gpu.simulate.device import Device, Instance
from gpumon.gpu.simulate.events import EventSets
from gpumon.gpu.simulate.faults import Faults
from gpumon.gpu.simulate.fields import answer_fields
from gpumon.gpu.simulate.gpm import GpmSamples
from gpumon.gpu.simulate.identity import IDENTITY, supported_events
from gpumon.gpu.simulate.lists import LISTS
from gpumon.gpu.simulate.node import Node
from gpumon.gpu.simulate.profiles import Profile
from gpumon.gpu.simulate.readings import READINGS

_INITIALISE = ("nvmlInitWithFlags", "nvmlInit_v2", "nvmlInit")
_ERRORS = {
    code: name.removeprefix("NVML_ERROR_").replace("_", " ").capitalize()
    for name, code in vars(pynvml).items()
    if name.startswith("NVML_ERROR_") and isinstance(code, int)
} | {0: "Success"}


class Function:
    """One symbol of the library: called like a function of ctypes, which lets its restype be set."""

    __slots__ = ("_answer", "_name", "argtypes", "errcheck", "restype")

    def __init__(self, name: str, answer: Callable[[str, Arguments], Any]) -> None:
        self._name = name
        self._answer = answer

    def __call__(self, *arguments: Argument) -> Any:
        return self._answer(self._name, arguments)


class Driver:
    """The library's answers. Calls may come from any number of threads; `calls` counts them by function."""

    def __init__(self, profile: Profile, seed: int, clock: Callable[[], float], real_pids: Sequence[int]) -> None:
        self.profile = profile
        self.calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._node = Node(profile, seed, clock, real_pids)
        self._faults, self._events, self._gpm = Faults(), EventSets(), GpmSamples()
        self._loaded, self._matching, self._references = True, True, 0
        self._removed: frozenset[str] = frozenset()
        self._device_calls: Mapping[str, DeviceCall] = {**READINGS, **IDENTITY, **LISTS, **self._own_device_calls()}
        self._library_calls = self._own_library_calls()
        names = (*self._device_calls, *self._library_calls, *_INITIALISE, "nvmlShutdown", "nvmlErrorString")
        self._functions = {name: Function(name, self._call) for name in names}

    def __getattr__(self, name: str) -> Function:
        """Give a symbol as ctypes.CDLL does; AttributeError where this library has none."""
        function = self.__dict__.get("_functions", {}).get(name)
        if function is None or name in self._removed:
            raise AttributeError(f"simulated libnvidia-ml.so.1: undefined symbol: {name}")
        return function  # type: ignore[no-any-return]

    def _call(self, name: str, arguments: Arguments) -> int | bytes:
        with self._lock:
            self.calls[name] += 1
        if name == "nvmlErrorString":
            return str(_ERRORS.get(number(arguments[0]), "Unknown error")).encode()
        try:
            if name in self._removed:
                return int(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
            row = self._device_calls.get(name)
            if row is not None:
                self._answer_device(name, row, arguments)
            else:
                self._faults.meet(name, None)
                self._answer_library(name, arguments)
        except Refusal as refusal:
            return int(refusal.code)
        return int(pynvml.NVML_SUCCESS)

    def _answer_device(self, name: str, row: DeviceCall, arguments: Arguments) -> None:
        self._be_ready()
        device, instance = self._node.resolve(arguments[0])
        self._meet(name, device)
        if not (row.part if instance else row.whole):
            raise Refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        if (row.needs and row.needs not in device.features) or (row.undivided and device.mig):
            raise Refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
        row.fill(device, instance, self._node.step(), arguments[1:])

    def _answer_library(self, name: str, arguments: Arguments) -> None:
        if name in _INITIALISE:
            self._initialise()
        elif name == "nvmlShutdown":
            with self._lock:
                if not self._references:
                    raise Refusal(pynvml.NVML_ERROR_UNINITIALIZED)
                self._references -= 1
            if not self._references:
                self._events.close()
        else:
            self._be_ready()
            self._library_calls[name](*arguments)

    def _initialise(self) -> None:
        if not self._loaded:
            raise Refusal(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        if not self._matching:
            raise Refusal(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
        with self._lock:
            self._references += 1
            if self._references == 1:
                self._node.enumerate()

    def _be_ready(self) -> None:
        if not self._references:
            raise Refusal(pynvml.NVML_ERROR_UNINITIALIZED)
        if not self._loaded:
            raise Refusal(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    def _meet(self, name: str, device: Device) -> None:
        """Let what is wrong with a device happen to a call."""
        self._faults.meet(name, device)
        if device.lost or device.stale:
            raise Refusal(pynvml.NVML_ERROR_GPU_IS_LOST)

    # Functions that need more than one device's state

    def _own_device_calls(self) -> Mapping[str, DeviceCall]:
        call = DeviceCall
        return {
            "nvmlDeviceGetFieldValues": call(fill=self._field_values),
            "nvmlDeviceGetMigDeviceHandleByIndex": call(fill=self._mig_handle, needs="mig"),
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": call(fill=self._parent, whole=False, part=True),
            "nvmlDeviceRegisterEvents": call(fill=self._register),
            "nvmlGpmQueryDeviceSupport": call(fill=self._gpm_support, part=True),
            "nvmlGpmSampleGet": call(fill=self._gpm_sample, needs="gpm", part=True),
            "nvmlGpmMigSampleGet": call(fill=self._gpm_mig_sample, needs="gpm"),
        }

    def _own_library_calls(self) -> Mapping[str, Callable[..., None]]:
        profile = self.profile
        return {
            "nvmlSystemGetDriverVersion": lambda out, size: fill_text(out, size, profile.driver_version),
            "nvmlSystemGetNVMLVersion": lambda out, size: fill_text(out, size, f"12.{profile.driver_version}"),
            "nvmlSystemGetCudaDriverVersion": lambda out: fill(out, "i", profile.cuda_version),
            "nvmlSystemGetCudaDriverVersion_v2": lambda out: fill(out, "i", profile.cuda_version),
            "nvmlSystemGetProcessName": self._process_name,
            "nvmlDeviceGetCount_v2": lambda out: fill(out, "I", len(self._node.devices)),
            "nvmlDeviceGetHandleByIndex_v2": self._handle_by_index,
            "nvmlDeviceGetHandleByUUID": self._handle_by_uuid,
            "nvmlDeviceGetHandleByPciBusId_v2": self._handle_by_bus,
            "nvmlEventSetCreate": self._events.create,
            "nvmlEventSetWait_v2": self._events.wait,
            "nvmlEventSetFree": self._events.free,
            "nvmlGpmSampleAlloc": self._gpm.allocate,
            "nvmlGpmSampleFree": self._gpm.free,
            "nvmlGpmMetricsGet": self._gpm_metrics,
        }

    def _process_name(self, pid: Argument, out: Argument, size: Argument) -> None:
        for device in self._node.devices:
            for process in device.processes(self._node.step()):
                if process.pid == number(pid):
                    fill_text(out, size, process.name)
                    return
        raise Refusal(pynvml.NVML_ERROR_NOT_FOUND)

    def _handle_by_index(self, index: Argument, out: Argument) -> None:
        if number(index) >= len(self._node.devices):
            raise Refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        device = self._node.devices[number(index)]
        self._meet("nvmlDeviceGetHandleByIndex_v2", device)
        fill(out, "Q", device.address)

    def _handle_by_uuid(self, uuid: Argument, out: Argument) -> None:
        device, instance = self._node.find(uuid.value.decode())
        self._meet("nvmlDeviceGetHandleByUUID", device)
        fill(out, "Q", self._node.part(instance) if instance else device.address)

    def _handle_by_bus(self, bus: Argument, out: Argument) -> None:
        device, _instance = self._node.find(bus.value.decode())
        self._meet("nvmlDeviceGetHandleByPciBusId_v2", device)
        fill(out, "Q", device.address)

    def _mig_handle(self, device: Device, _instance: Instance | None, _step: int, arguments: Arguments) -> None:
        index = number(arguments[0])
        instance = device.instances[index] if index < len(device.instances) else None
        if instance is None:
            raise Refusal(pynvml.NVML_ERROR_NOT_FOUND)
        fill(arguments[1], "Q", self._node.part(instance))

    def _parent(self, device: Device, _instance: Instance | None, _step: int, arguments: Arguments) -> None:
        fill(arguments[0], "Q", device.address)

    def _register(self, device: Device, _instance: Instance | None, _step: int, arguments: Arguments) -> None:
        self._events.register(device, number(arguments[0]), arguments[1], supported_events(device, 0))

    def _gpm_support(self, device: Device, _instance: Instance | None, _step: int, arguments: Arguments) -> None:
        fill(arguments[0], "II", pynvml.NVML_GPM_SUPPORT_VERSION, int("gpm" in device.features))

    def _gpm_sample(self, device: Device, instance: Instance | None, step: int, arguments: Arguments) -> None:
        self._gpm.take(arguments[0], device, instance.gpu_instance_id if instance else None, step)

    def _gpm_mig_sample(self, device: Device, _instance: Instance | None, step: int, arguments: Arguments) -> None:
        self._gpm.take(arguments[1], device, number(arguments[0]), step)

    def _gpm_metrics(self, out: Argument) -> None:
        self._gpm.measure(out, lambda device, metric: self._faults.code("nvmlGpmMetricsGet", device, metric))

    def _field_values(self, device: Device, _instance: Instance | None, step: int, arguments: Arguments) -> None:
        answer_fields(
            device,
            step,
            number(arguments[0]),
            target(arguments[1]),
            lambda field: self._faults.code("nvmlDeviceGetFieldValues", device, field),
        )
