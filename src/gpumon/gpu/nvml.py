"""The one door to NVML: every driver call goes through `Nvml`, which sorts what the driver refuses into four classes.

nvidia-ml-py's functions with mutable default arguments (nvmlDeviceGetModuleId, …GetThermalSettings and others)
share one buffer between threads and are not used.
"""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Any

import pynvml

Handle = Any  # ctypes pointer to NVML's opaque device

SUCCESS = 0
ERROR_NAMES: dict[int, str] = {
    value: name.removeprefix("NVML_ERROR_")
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_ERROR_") and isinstance(value, int)
}
_CODES = {name: code for code, name in ERROR_NAMES.items()}


class Trouble(Enum):
    """What a refusal means for the reading that met it."""

    ABSENT = "absent"  # the device or driver has no such thing: not asked again until re-initialised
    DENIED = "denied"  # this process may not: not asked again either
    GONE = "gone"  # the device or the driver does not answer any more
    OTHER = "other"  # not this time


_TROUBLES = {
    _CODES[name]: trouble
    for trouble, names in {
        # INVALID_ARGUMENT: all arguments but the handle are constants, so an older driver does not know one of them;
        # a handle that became invalid fails every call, which `Device` takes as gone.
        Trouble.ABSENT: (
            "NOT_SUPPORTED",
            "FUNCTION_NOT_FOUND",
            "ARGUMENT_VERSION_MISMATCH",
            "DEPRECATED",
            "INVALID_ARGUMENT",
            "VGPU_ECC_NOT_SUPPORTED",
        ),
        Trouble.DENIED: ("NO_PERMISSION",),
        Trouble.GONE: (
            "UNINITIALIZED",
            "DRIVER_NOT_LOADED",
            "GPU_IS_LOST",
            "RESET_REQUIRED",
            "LIB_RM_VERSION_MISMATCH",
            "GPU_NOT_FOUND",
        ),
    }.items()
    for name in names
}

# These concern the driver as a whole, not one device.
DRIVER_WIDE = frozenset(_CODES[name] for name in ("UNINITIALIZED", "DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH"))
VERSION_MISMATCH = _CODES["LIB_RM_VERSION_MISMATCH"]
LIBRARY_NOT_FOUND = _CODES["LIBRARY_NOT_FOUND"]
NOT_SUPPORTED = _CODES["NOT_SUPPORTED"]
NOT_FOUND = _CODES["NOT_FOUND"]
INVALID_ARGUMENT = _CODES["INVALID_ARGUMENT"]
UNKNOWN = _CODES["UNKNOWN"]
INSUFFICIENT_SIZE = _CODES["INSUFFICIENT_SIZE"]


class RefusedError(Exception):
    """A driver call that gave no answer; `function` is NVML's name of the call or field, `code` its return value."""

    def __init__(self, function: str, code: int) -> None:
        super().__init__(function, code)
        self.function = function
        self.code = code

    @property
    def trouble(self) -> Trouble:
        """Give the class of the refusal."""
        return trouble_of(self.code)

    @property
    def reason(self) -> str:
        """Give NVML's own name of the refusal, as in NOT_SUPPORTED."""
        return error_name(self.code)

    def __str__(self) -> str:
        return f"{self.function}: {self.reason}"


def trouble_of(code: int) -> Trouble:
    """Sort an NVML return value other than success."""
    return _TROUBLES.get(code, Trouble.OTHER)


def error_name(code: int) -> str:
    """Give NVML's name of a return value without its prefix; a number unknown to the binding stays a number."""
    return ERROR_NAMES.get(code, str(code))


def constant(name: str) -> int:
    """Give the value of an NVML constant by name; AttributeError names one the binding lacks."""
    value: int = getattr(pynvml, name)
    return value


class Nvml:
    """The driver as gpumon sees it. All methods may be called from any thread; NVML is thread-safe by its contract.

    `library` takes the place of libnvidia-ml.so.1 (a simulated driver, a recorder), None loads the real one.
    """

    def __init__(self, library: object | None = None) -> None:
        # Another package on PyPI also installs a module named pynvml (nvitop #107, #153 of gpustat).
        if not hasattr(pynvml, "_nvmlGetFunctionPointer"):
            raise RuntimeError("the module pynvml is not nvidia-ml-py's: uninstall the package named pynvml")
        self._library = library
        self._lock = threading.Lock()
        self._errors: Counter[tuple[str, str]] = Counter()

    def open(self) -> None:
        """Load the library and initialise it; GPUs are attached one by one as their handles are taken.

        Raises RefusedError; LIBRARY_NOT_FOUND also stands for a library that could not be loaded for other reasons.
        """
        if self._library is not None and pynvml.nvmlLib is not self._library:
            pynvml.nvmlLib = self._library
            pynvml._nvmlGetFunctionPointer_cache.clear()
        self.call("nvmlInit")

    def close(self) -> None:
        """Give every handle back. The shared library stays mapped: nvidia-ml-py cannot let it go."""
        self.call("nvmlShutdown")

    def call(self, function: str, *args: Any) -> Any:
        """Call an NVML function of nvidia-ml-py, or one put together here, and give its answer.

        Raises RefusedError and nothing else that comes from the driver.
        """
        try:
            composed = _COMPOSED.get(function)
            if composed is not None:
                return composed(self, *args)
            return getattr(pynvml, function)(*args)
        except pynvml.NVMLError as error:
            # NVMLError has __eq__ but no __hash__: only its value is ever kept or compared.
            code = error.value
        except pynvml.NVMLLibraryMismatchError:
            # Not an NVMLError; raised when only an unversioned symbol is missing.
            code = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
        raise self.refused(function, code)

    def raw(self, function: str, *args: Any) -> int:
        """Call a function of the library itself, for answers kept in buffers of our own; give its return value."""
        try:
            code: int = pynvml._nvmlGetFunctionPointer(function)(*args)
        except pynvml.NVMLError as error:
            return int(error.value)
        return code

    def refused(self, function: str, code: int) -> RefusedError:
        """Make the error for a refusal, and count it when it is of no expected class."""
        error = RefusedError(function, code)
        if error.trouble is Trouble.OTHER and code != NOT_FOUND:  # NOT_FOUND: an empty list or slot
            with self._lock:
                self._errors[function, error.reason] += 1
        return error

    @property
    def errors(self) -> dict[tuple[str, str], int]:
        """Give how often each (function, error name) failed unexpectedly since start."""
        with self._lock:
            return dict(self._errors)


def load_error() -> str:
    """Give the loader's own words why libnvidia-ml.so.1 cannot be loaded, which nvidia-ml-py hides; "" when it can."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        return str(error)
    return ""


def handle_key(handle: Handle) -> int:
    """Give a number that is the same for handles of the same device."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


# What follows is put together from several calls, or guards one; each takes the door and the handle.


def _memory_info(nvml: Nvml, handle: Handle, version: int | None = None) -> Any:
    """Unified-memory devices refuse this call, or answer with a total of 0 (seen by nvtop): both mean refused."""
    return _some("nvmlDeviceGetMemoryInfo", pynvml.nvmlDeviceGetMemoryInfo(handle, version))


def _protected_memory(nvml: Nvml, handle: Handle) -> Any:
    """Without confidential computing there is no protected memory, and so nothing that 0 bytes of it could mean."""
    function = "nvmlDeviceGetConfComputeProtectedMemoryUsage"
    return _some(function, getattr(pynvml, function)(handle))


def _some(function: str, info: Any) -> Any:
    if info.total == 0:
        raise RefusedError(function, NOT_SUPPORTED)
    return info


def _memory_kind(nvml: Nvml, handle: Handle) -> str:
    for args in ((pynvml.nvmlMemory_v2,), ()):
        try:
            nvml.call("nvmlDeviceGetMemoryInfo", handle, *args)
        except RefusedError as error:
            if error.trouble is not Trouble.ABSENT:
                raise
        else:
            return "dedicated"
    return "unified"


def _fabric_info(nvml: Nvml, handle: Handle) -> Any:
    """The newest structure the driver knows; version 2 lacks only the summary."""
    for structure in (pynvml.c_nvmlGpuFabricInfo_v3_t, pynvml.c_nvmlGpuFabricInfo_v2_t):
        info = structure()
        code = nvml.raw("nvmlDeviceGetGpuFabricInfoV", handle, ctypes.byref(info))
        if code == SUCCESS:
            if info.state == pynvml.NVML_GPU_FABRIC_STATE_NOT_SUPPORTED:
                code = NOT_SUPPORTED
                break
            return info
        if code != pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH:
            break
    raise nvml.refused("nvmlDeviceGetGpuFabricInfoV", code)


def _cuda_version(nvml: Nvml, _handle: Handle) -> str:
    # The _v2 function needs libcuda, which a container with only the utility capability lacks.
    version = pynvml.nvmlSystemGetCudaDriverVersion()
    return f"{version // 1000}.{version % 1000 // 10}"


_ARCHITECTURES: dict[int, str] = {
    value: name.removeprefix("NVML_DEVICE_ARCH_").capitalize()
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_DEVICE_ARCH_") and name != "NVML_DEVICE_ARCH_UNKNOWN"
}


def _architecture(nvml: Nvml, handle: Handle) -> str:
    number: int = pynvml.nvmlDeviceGetArchitecture(handle)
    return _ARCHITECTURES.get(number, str(number))


def _switch(function: str, pick: int | None) -> Callable[[Nvml, Handle], str]:
    """Make a composed call that says "enabled" or "disabled"."""

    def read(nvml: Nvml, handle: Handle) -> str:
        answer = getattr(pynvml, function)(handle)
        return "enabled" if (answer if pick is None else answer[pick]) else "disabled"

    return read


def _mig_profile(nvml: Nvml, handle: Handle) -> str:
    """The name of a MIG device ends in its profile; older drivers name the GPU alone, then the sizes tell."""
    profile = pynvml.nvmlDeviceGetName(handle).partition(" MIG ")[2]
    if profile:
        return str(profile)
    sizes = pynvml.nvmlDeviceGetAttributes_v2(handle)
    gigabytes = -(-sizes.memorySizeMB // 1024)  # rounded up, as NVIDIA names profiles
    part = (
        "" if sizes.computeInstanceSliceCount == sizes.gpuInstanceSliceCount else f"{sizes.computeInstanceSliceCount}c."
    )
    return f"{part}{sizes.gpuInstanceSliceCount}g.{gigabytes}gb"


def _driver_version(nvml: Nvml, _handle: Handle = None) -> str:
    """Asked for like a device's own facts, but the same for all."""
    return str(pynvml.nvmlSystemGetDriverVersion())


_COMPOSED: dict[str, Callable[..., Any]] = {
    "architecture": _architecture,
    "cuda_version": _cuda_version,
    "ecc_mode": _switch("nvmlDeviceGetEccMode", 0),
    "fabric_info": _fabric_info,
    "memory_kind": _memory_kind,
    "mig_mode": _switch("nvmlDeviceGetMigMode", 0),
    "mig_profile": _mig_profile,
    "nvmlDeviceGetConfComputeProtectedMemoryUsage": _protected_memory,
    "nvmlDeviceGetMemoryInfo": _memory_info,
    "nvmlSystemGetDriverVersion": _driver_version,
    "persistence_mode": _switch("nvmlDeviceGetPersistenceMode", None),
}
