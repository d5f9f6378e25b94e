"""What NVML answers in arrays about a simulated device: field values, samples, processes and their shares."""

from __future__ import annotations

from collections.abc import Mapping

import pynvml

from gpumon.gpu.simulate.binary import Refusal, fill, fill_rows, number, target
from gpumon.gpu.simulate.calls import Arguments, DeviceCall
from gpumon.gpu.simulate.device import Device, Instance
from gpumon.gpu.simulate.processes import SimulatedProcess

# 20 s of samples, which is about what drivers keep of utilisation; power and clocks are kept at the same rate.
SAMPLES_KEPT = 120
# By nvmlSamplingType_t: the column, what it needs, and whether it is gone while MIG mode is on.
_SAMPLED: Mapping[int, tuple[str, str | None, bool]] = {
    pynvml.NVML_TOTAL_POWER_SAMPLES: ("power", None, False),
    pynvml.NVML_GPU_UTILIZATION_SAMPLES: ("busy", None, True),
    pynvml.NVML_MEMORY_UTILIZATION_SAMPLES: ("memory_busy", None, True),
    pynvml.NVML_ENC_UTILIZATION_SAMPLES: ("encoder", None, True),
    pynvml.NVML_DEC_UTILIZATION_SAMPLES: ("decoder", None, True),
    pynvml.NVML_PROCESSOR_CLK_SAMPLES: ("clock", None, False),
    pynvml.NVML_JPG_UTILIZATION_SAMPLES: ("jpeg", "jpeg", True),
    pynvml.NVML_OFA_UTILIZATION_SAMPLES: ("optical_flow", "ofa", True),
}
_NOT_AVAILABLE = 0xFFFFFFFFFFFFFFFF
# nvmlProcessInfo_v1_t, _v2_t, and the layout that drivers 535.43 to 535.86 wrote for _v3.
_V1, _V2, _MISPLACED = "=I4xQ", "=I4xQII", "=I4xQIIQ"


def _samples(device: Device, _instance: Instance | None, step: int, arguments: Arguments) -> None:
    """Answer nvmlDeviceGetSamples: those newer than the time stamp given, oldest first, as many as have room."""
    kind, seen = number(arguments[0]), number(arguments[1])
    column, needs, undivided = _SAMPLED.get(kind, ("", "missing", False))
    if (needs and needs not in device.features) or (undivided and device.mig):
        raise Refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
    fill(arguments[2], "I", pynvml.NVML_VALUE_TYPE_UNSIGNED_INT)
    if arguments[4] is None:
        fill(arguments[3], "I", SAMPLES_KEPT)
        return
    room = number(target(arguments[3]))
    if not room:
        raise Refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    oldest = max(step - SAMPLES_KEPT + 1, device.step_of(seen))
    steps = [at for at in range(oldest, step + 1) if device.stamp(at) > seen][:room]
    if not steps:
        raise Refusal(pynvml.NVML_ERROR_NOT_FOUND)
    rows = [(device.stamp(at), device.at(column, at)) for at in steps]
    fill_rows(arguments[4], "=QI4x", 16, rows, room * 16)
    fill(arguments[3], "I", len(rows))


def _running(kind: str, form: str, misplaced: bool = False) -> DeviceCall:
    """Declare a list of processes of one kind; on a MIG device, of that device only."""

    def answer(device: Device, instance: Instance | None, step: int, arguments: Arguments) -> None:
        found = [
            process
            for process in device.processes(step)
            if process.kind == kind
            and (
                instance is None
                or (process.gpu_instance_id, process.compute_instance_id)
                == (instance.gpu_instance_id, instance.compute_instance_id)
            )
        ]
        _give(device, found, form, misplaced, arguments)

    return DeviceCall(fill=answer, part=True)


def _give(device: Device, found: list[SimulatedProcess], form: str, misplaced: bool, arguments: Arguments) -> None:
    room = number(target(arguments[0]))
    fill(arguments[0], "I", len(found))
    if room < len(found):
        raise Refusal(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    if not found:
        return
    stride = 16 if form is _V1 else 24
    rows: list[tuple[int, ...]] = []
    for process in found:
        memory = _NOT_AVAILABLE if process.used_memory_bytes is None else process.used_memory_bytes
        whole = (process.pid, memory, process.gpu_instance_id, process.compute_instance_id)
        rows.append(whole[:2] if form is _V1 else whole)
    if misplaced and device.misplaced_processes:
        # These drivers filled entries that are 8 bytes longer than the caller's, so that all but the first are garbage.
        fill_rows(arguments[1], _MISPLACED, 32, [(*row, 0) for row in rows], room * stride)
    else:
        fill_rows(arguments[1], form, stride, rows, room * stride)


def _detail(device: Device, _instance: Instance | None, step: int, arguments: Arguments) -> None:
    """Answer nvmlDeviceGetRunningProcessDetailList, version 1."""
    held = target(arguments[0])
    if held.version != pynvml.nvmlProcessDetailList_v1:
        raise Refusal(pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
    kinds = {0: "compute", 1: "graphics", 2: "mps"}
    found = [process for process in device.processes(step) if process.kind == kinds.get(held.mode)]
    room, held.numProcArrayEntries = held.numProcArrayEntries, len(found)
    if not found:
        return
    if room < len(found) or not held.procArray:
        raise Refusal(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    rows: list[tuple[int, ...]] = []
    for process in found:
        memory = _NOT_AVAILABLE if process.used_memory_bytes is None else process.used_memory_bytes
        rows.append((process.pid, memory, process.gpu_instance_id, process.compute_instance_id, 0))
    fill_rows(held.procArray, _MISPLACED, 32, rows, room * 32)


def _at_work(device: Device, step: int, seen: int) -> list[tuple[int, tuple[int, ...]]]:
    """Give the processes that did something in the last sample period, if that is newer than `seen`."""
    working = [] if device.stamp(step) <= seen else [row for row in device.shares(step).items() if any(row[1])]
    if not working:
        raise Refusal(pynvml.NVML_ERROR_NOT_FOUND)
    return working


def _utilization(device: Device, _instance: Instance | None, step: int, arguments: Arguments) -> None:
    """Answer nvmlDeviceGetProcessUtilization; asked for room only, it says what the driver's buffer holds."""
    room = number(target(arguments[1]))
    if arguments[0] is None:
        fill(arguments[1], "I", max(100, len(device.processes(step))))
        raise Refusal(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    working = _at_work(device, step, number(arguments[2]))
    rows = [(pid, device.stamp(step), *shares) for pid, shares in working]
    if room < len(rows):
        fill(arguments[1], "I", len(rows))
        raise Refusal(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    fill_rows(arguments[0], "=I4xQIIII", 32, rows, room * 32)
    fill(arguments[1], "I", len(rows))


def _utilization_info(device: Device, _instance: Instance | None, step: int, arguments: Arguments) -> None:
    """Answer nvmlDeviceGetProcessesUtilizationInfo, version 1."""
    held = target(arguments[0])
    if held.version != pynvml.ProcessesUtilizationInfo_v1:
        raise Refusal(pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
    room = held.processSamplesCount
    rows = [(device.stamp(step), pid, *shares, 0, 0) for pid, shares in _at_work(device, step, held.lastSeenTimeStamp)]
    held.processSamplesCount = len(rows)
    if room < len(rows) or not held.procUtilArray:
        raise Refusal(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    fill_rows(held.procUtilArray, "=QIIIIIII4x", 40, rows, room * 40)


def _accounting_pids(device: Device, _instance: Instance | None, _step: int, arguments: Arguments) -> None:
    """Answer nvmlDeviceGetAccountingPids; the count is in and out."""
    pids = [account.pid for account in device.accounts or ()]
    room = number(target(arguments[0]))
    fill(arguments[0], "I", len(pids))
    if room < len(pids):
        raise Refusal(pynvml.NVML_ERROR_INSUFFICIENT_SIZE)
    if pids:
        fill_rows(arguments[1], "=I", 4, [(pid,) for pid in pids], room * 4)


def _accounting_stats(device: Device, _instance: Instance | None, _step: int, arguments: Arguments) -> None:
    """Answer nvmlDeviceGetAccountingStats: percents, bytes, milliseconds, and the start in microseconds."""
    pid = number(arguments[0])
    account = next((account for account in device.accounts or () if account.pid == pid), None)
    if account is None:
        raise Refusal(pynvml.NVML_ERROR_NOT_FOUND)
    times = (round(account.seconds * 1000), round(account.started * 1e6), int(account.running))
    fill(arguments[1], "=IIQQQI", account.sm, account.memory, account.peak_memory_bytes, *times)


def _processes(version: str, form: str, misplaced: bool = False) -> dict[str, DeviceCall]:
    names = {"Compute": "compute", "Graphics": "graphics", "MPSCompute": "mps"}
    return {
        f"nvmlDeviceGet{name}RunningProcesses{version}": _running(kind, form, misplaced) for name, kind in names.items()
    }


LISTS: Mapping[str, DeviceCall] = {
    "nvmlDeviceGetSamples": DeviceCall(fill=_samples),
    **_processes("", _V1),
    **_processes("_v2", _V2),
    **_processes("_v3", _V2, misplaced=True),
    "nvmlDeviceGetAccountingPids": DeviceCall(fill=_accounting_pids),
    "nvmlDeviceGetAccountingStats": DeviceCall(fill=_accounting_stats),
    "nvmlDeviceGetRunningProcessDetailList": DeviceCall(fill=_detail, needs="gpm"),
    "nvmlDeviceGetProcessUtilization": DeviceCall(fill=_utilization, undivided=True),
    "nvmlDeviceGetProcessesUtilizationInfo": DeviceCall(fill=_utilization_info, undivided=True),
}
