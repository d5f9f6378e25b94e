"""What NVML answers about identity, links, faults and MIG of a simulated device: one row per function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pynvml

from gpumon.gpu.simulate.binary import Refusal, fill, fill_text, fill_versioned, target
from gpumon.gpu.simulate.calls import Arguments, DeviceCall, numbers, record, text, uint
from gpumon.gpu.simulate.device import MOST_MIG_DEVICES, Device, Instance
from gpumon.gpu.simulate.readings import performance_state

_ECC_NAMES = {
    (error, scope): f"ecc_{'un' if error else ''}corrected_{'aggregate' if scope else 'volatile'}"
    for error in (0, 1)
    for scope in (0, 1)
}
# Fabric health of a sound GPU: "no trouble" (2) in each of the four two-bit checks.
_SOUND_FABRIC = 0b10101010
_FABRIC_COMPLETED = 3


def _pcie_generation(device: Device, step: int) -> int:
    return device.model.pcie_generation if performance_state(device, step) == 0 else 1


def _pcie_throughput(device: Device, step: int, counter: int) -> int:
    column = "pcie_transmit" if counter == pynvml.NVML_PCIE_UTIL_TX_BYTES else "pcie_receive"
    return device.at(column, step) // 1024


def _ecc_errors(device: Device, _step: int, error: int, scope: int, location: int | None = None) -> int:
    if (error, scope) not in _ECC_NAMES:
        raise Refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    # All errors are in device memory; the other locations have none.
    elsewhere = location not in (None, pynvml.NVML_MEMORY_LOCATION_DEVICE_MEMORY)
    return 0 if elsewhere else device.count(_ECC_NAMES[error, scope])


def _remapped(device: Device, _step: int) -> tuple[int, ...]:
    if device.instances:  # nvml.h: not while a divided GPU has instances
        raise Refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
    names = ("remapped_corrected", "remapped_uncorrected", "remap_pending", "remap_failure")
    return tuple(device.count(name) for name in names)


def _banks(device: Device, _step: int) -> tuple[int, ...]:
    touched = min(640, device.count("remapped_corrected") + device.count("remapped_uncorrected"))
    return 640 - touched, touched, 0, 0, 0


def _link(device: Device, link: int) -> int:
    if not device.model.nvlinks:
        raise Refusal(pynvml.NVML_ERROR_NOT_SUPPORTED)
    if link >= device.model.nvlinks:
        raise Refusal(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    return 0 if device.count("nvlink_down", link) else 1


def _fabric(device: Device, _instance: Instance | None, _step: int, arguments: Arguments) -> None:
    cluster = (bytes(range(16)), 0, 0, _FABRIC_COMPLETED, _SOUND_FABRIC)
    if target(arguments[0]).version == pynvml.nvmlGpuFabricInfo_v3:
        fill_versioned(arguments[0], pynvml.nvmlGpuFabricInfo_v3, "16sIIIIB", *cluster, 1)
    else:
        fill_versioned(arguments[0], pynvml.nvmlGpuFabricInfo_v2, "16sIIII", *cluster)


def _pci(device: Device, _step: int) -> tuple[Any, ...]:
    model = device.model
    short, full = f"0000:{device.bus:02X}:00.0", f"00000000:{device.bus:02X}:00.0"
    return short.encode(), 0, device.bus, 0, model.pci_device << 16 | 0x10DE, 0x16C110DE, full.encode()


def _name(device: Device, instance: Instance | None, _step: int, arguments: Arguments) -> None:
    fill_text(arguments[0], arguments[1], instance.name if instance else device.model.name)


def _uuid(device: Device, instance: Instance | None, _step: int, arguments: Arguments) -> None:
    fill_text(arguments[0], arguments[1], instance.uuid if instance else device.uuid)


def _is_part(_device: Device, instance: Instance | None, _step: int, arguments: Arguments) -> None:
    fill(arguments[0], "I", int(instance is not None))


def _instance_ids(attribute: str) -> DeviceCall:
    def answer(_device: Device, instance: Instance | None, _step: int, arguments: Arguments) -> None:
        fill(arguments[0], "I", getattr(instance, attribute))

    return DeviceCall(fill=answer, whole=False, part=True, needs="mig")


def _attributes(_device: Device, instance: Instance | None, _step: int, arguments: Arguments) -> None:
    assert instance is not None  # a row for MIG devices only
    size = instance.profile
    fill(
        arguments[0],
        "IIIIIIIIQ",
        size.multiprocessors,
        size.slices,
        size.slices,
        0,
        0,
        0,
        size.slices,
        size.slices,
        size.memory_mib,
    )


def supported_events(device: Device, _step: int) -> int:
    """Give the nvmlEventTypes a device can be watched for."""
    ecc = pynvml.nvmlEventTypeSingleBitEccError | pynvml.nvmlEventTypeDoubleBitEccError
    always = pynvml.nvmlEventTypeXidCriticalError | pynvml.nvmlEventTypePState | pynvml.nvmlEventTypeClock
    return int(always | (ecc if "ecc" in device.features else 0))


IDENTITY: Mapping[str, DeviceCall] = {
    "nvmlDeviceGetName": DeviceCall(fill=_name, part=True),
    "nvmlDeviceGetUUID": DeviceCall(fill=_uuid, part=True),
    "nvmlDeviceGetSerial": text(lambda device: device.serial, needs="serial"),
    "nvmlDeviceGetBoardPartNumber": text(lambda device: f"900-2G520-{device.serial[-4:]}-000", needs="serial"),
    "nvmlDeviceGetVbiosVersion": text(lambda device: f"96.00.{device.model.pci_device & 0xFF:02X}.00.01"),
    "nvmlDeviceGetIndex": uint(lambda device, _step: device.index),
    "nvmlDeviceGetMinorNumber": uint(lambda device, _step: device.slot),
    "nvmlDeviceGetPciInfo_v3": record("16sIIIII32s", _pci),
    "nvmlDeviceGetBrand": uint(lambda device, _step: device.model.brand),
    "nvmlDeviceGetArchitecture": uint(lambda device, _step: device.model.architecture.number),
    "nvmlDeviceGetCudaComputeCapability": uint(lambda device, _step: device.model.architecture.capability, outs=2),
    "nvmlDeviceGetNumaNodeId": uint(lambda device, _step: device.slot, needs="numa"),
    "nvmlDeviceGetPersistenceMode": uint(lambda _device, _step: 1),
    "nvmlDeviceGetAccountingMode": uint(lambda device, _step: int(device.accounts is not None)),
    "nvmlDeviceGetComputeMode": uint(lambda _device, _step: 0),
    "nvmlDeviceGetEccMode": uint(lambda _device, _step: (1, 1), outs=2, needs="ecc"),
    "nvmlDeviceGetTotalEccErrors": numbers("Q", _ecc_errors, needs="ecc"),
    "nvmlDeviceGetMemoryErrorCounter": numbers("Q", _ecc_errors, needs="ecc"),
    "nvmlDeviceGetRemappedRows": uint(_remapped, outs=4, needs="remap"),
    "nvmlDeviceGetRowRemapperHistogram": record("IIIII", _banks, needs="remap"),
    "nvmlDeviceGetRetiredPagesPendingStatus": uint(
        lambda device, _step: device.count("retired_pending"), needs="retire"
    ),
    "nvmlDeviceGetCurrPcieLinkGeneration": uint(_pcie_generation),
    "nvmlDeviceGetMaxPcieLinkGeneration": uint(lambda device, _step: device.model.pcie_generation),
    "nvmlDeviceGetCurrPcieLinkWidth": uint(lambda device, _step: device.model.pcie_width),
    "nvmlDeviceGetMaxPcieLinkWidth": uint(lambda device, _step: device.model.pcie_width),
    "nvmlDeviceGetPcieReplayCounter": uint(lambda device, _step: device.count("pcie_replays")),
    "nvmlDeviceGetPcieThroughput": uint(_pcie_throughput),
    "nvmlDeviceGetNvLinkState": uint(lambda device, _step, link: _link(device, link)),
    "nvmlDeviceGetNvLinkVersion": uint(lambda device, _step, link: _link(device, link) and 4),
    "nvmlDeviceGetGpuFabricInfoV": DeviceCall(fill=_fabric, needs="fabric"),
    "nvmlDeviceGetSupportedEventTypes": numbers("Q", supported_events),
    "nvmlDeviceGetMigMode": uint(lambda device, _step: (int(device.mig), int(device.mig)), outs=2, needs="mig"),
    "nvmlDeviceGetMaxMigDeviceCount": uint(lambda device, _step: MOST_MIG_DEVICES if device.model.mig else 0),
    "nvmlDeviceIsMigDeviceHandle": DeviceCall(fill=_is_part, part=True),
    "nvmlDeviceGetGpuInstanceId": _instance_ids("gpu_instance_id"),
    "nvmlDeviceGetComputeInstanceId": _instance_ids("compute_instance_id"),
    "nvmlDeviceGetAttributes_v2": DeviceCall(fill=_attributes, whole=False, part=True, needs="mig"),
}
