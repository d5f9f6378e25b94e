"""Checks of the NVIDIA driver: can its library be loaded, does it answer, and may this process ask it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from gpumon.check.finding import Finding, Status
from gpumon.gpu.nvml import Handle, Nvml, RefusedError, load_error
from gpumon.settings import Settings

# What to do when the driver refuses to open, by NVML's name of the refusal.
ADVICE = {
    "DRIVER_NOT_LOADED": "load the kernel module (modprobe nvidia), or give the container its GPUs (--gpus all)",
    "LIB_RM_VERSION_MISMATCH": "library and kernel module are of different versions: reboot or reload the module after "
    "a driver update, and create containers anew",
    "NO_PERMISSION": "allow this user to open /dev/nvidiactl and /dev/nvidia*",
    "UNKNOWN": "in a container that lost its devices (systemd was reloaded), create the container anew",
    "GPU_IS_LOST": "a GPU has fallen off the bus: see the kernel log, and reboot",
}
INSTALL = "install the NVIDIA driver, or give the container its GPUs (--gpus all, with the driver capability utility)"

# One call of each kind that is refused separately: memory, use, power, and processes.
PROBES = (
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetComputeRunningProcesses_v3",
)
MIG_PROBES = ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetComputeRunningProcesses_v3")
MIG_ADVICE = "run the container privileged, or with CAP_SYS_ADMIN and NVIDIA_MIG_MONITOR_DEVICES=all"

SKIPPED = Finding(Status.INFO, "not looked at without a driver")


def library(
    settings: Settings,
    nvml: Nvml | None = None,
    why_not_loaded: Callable[[], str] = load_error,
    dev: Path = Path("/dev"),
) -> Finding:
    """Say whether NVML's library loads and opens."""
    if not settings.gpu.enable_nvml:
        return Finding(Status.INFO, "not used: gpu.enable_nvml is false")
    if reason := why_not_loaded():
        missing = "libnvidia-ml.so.1: cannot open shared object file" in reason
        if missing and not (dev / "nvidiactl").exists():
            return Finding(Status.WARN, f"no NVIDIA driver ({reason})", f"right on a node without GPUs, else {INSTALL}")
        return Finding(Status.FAIL, f"there is a driver, but its library cannot be loaded ({reason})", INSTALL)
    nvml = nvml or Nvml()
    try:
        nvml.open()
        # The door takes the driver's version for one of a device's own facts, hence the handle.
        driver = nvml.call("nvmlSystemGetDriverVersion", None)
        version = nvml.call("nvmlSystemGetNVMLVersion")
    except RefusedError as error:
        return Finding(Status.FAIL, f"{error.function} answers {error.reason}", ADVICE.get(error.reason, ""))
    return Finding(Status.OK, f"driver {driver}, NVML {version}")


def gpus(settings: Settings, nvml: Nvml | None = None) -> Finding:
    """Say which GPUs the driver lists and which of them do not answer."""
    opened = _open(settings, nvml)
    if opened is None:
        return SKIPPED
    names: Counter[str] = Counter()
    lost: list[str] = []
    for index, handle in _handles(opened):
        try:
            names[str(opened.call("nvmlDeviceGetName", _known(handle)))] += 1
        except RefusedError as error:
            lost.append(f"GPU {index} answers {error.reason}")
    listed = ", ".join(f"{count} x {name}" for name, count in names.items())
    if lost:
        status = Status.WARN if names else Status.FAIL
        advice = "see the kernel log for its XID errors; reset the GPU or reboot"
        return Finding(status, ", ".join([*lost, listed] if listed else lost), advice)
    if not names:
        return Finding(Status.WARN, "the driver lists none", "give the container its GPUs (--gpus all)")
    return Finding(Status.OK, listed)


def readings(settings: Settings, nvml: Nvml | None = None) -> Finding:
    """Say whether this process may read the GPUs and their MIG devices."""
    opened = _open(settings, nvml)
    if opened is None:
        return SKIPPED
    denied: dict[str, None] = {}
    denied_mig: dict[str, None] = {}
    answered = 0
    for _, handle in _handles(opened):
        if isinstance(handle, RefusedError):
            continue
        answers = {probe: _refusal(opened, probe, handle) for probe in PROBES}
        denied.update(dict.fromkeys(probe for probe, reason in answers.items() if reason == "NO_PERMISSION"))
        answered += sum(reason == "" for reason in answers.values())
        for mig in _mig_handles(opened, handle):
            denied_mig.update(
                dict.fromkeys(probe for probe in MIG_PROBES if _refusal(opened, probe, mig) == "NO_PERMISSION")
            )
    if denied:
        status = Status.WARN if answered else Status.FAIL
        return Finding(status, f"no permission for {', '.join(denied)}", ADVICE["NO_PERMISSION"])
    if denied_mig:
        return Finding(Status.WARN, f"no permission on MIG devices for {', '.join(denied_mig)}", MIG_ADVICE)
    return Finding(Status.OK, "none is refused for want of permission")


def _open(settings: Settings, nvml: Nvml | None) -> Nvml | None:
    """Give the opened door; None where `library` has said why there is none."""
    if not settings.gpu.enable_nvml:
        return None
    opened = nvml or Nvml()
    try:
        opened.open()
    except RefusedError:
        return None
    return opened


def _handles(nvml: Nvml) -> Iterator[tuple[int, Handle | RefusedError]]:
    """Give each GPU's index with its handle, or with why it has none."""
    for index in range(nvml.call("nvmlDeviceGetCount")):
        try:
            yield index, nvml.call("nvmlDeviceGetHandleByIndex", index)
        except RefusedError as error:
            yield index, error


def _known(handle: Handle | RefusedError) -> Handle:
    if isinstance(handle, RefusedError):
        raise handle
    return handle


def _mig_handles(nvml: Nvml, handle: Handle) -> Iterator[Handle]:
    """Give the MIG devices of a GPU; none where it has no MIG or it is off."""
    try:
        slots = nvml.call("nvmlDeviceGetMaxMigDeviceCount", handle)
    except RefusedError:
        return
    for slot in range(slots):
        try:
            yield nvml.call("nvmlDeviceGetMigDeviceHandleByIndex", handle, slot)
        except RefusedError:
            continue  # an empty slot


def _refusal(nvml: Nvml, function: str, handle: Handle) -> str:
    """Give NVML's name for why a call was refused, "" where it was not."""
    try:
        nvml.call(function, handle)
    except RefusedError as error:
        return error.reason
    return ""
