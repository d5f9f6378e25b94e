"""The driver as a whole: opening and closing it, what it lists, and when it has to be opened anew. Runs on a thread of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gpumon.gpu.device import Device
from gpumon.gpu.events import EventWatcher
from gpumon.gpu.nvml import LIBRARY_NOT_FOUND, UNKNOWN, VERSION_MISMATCH, Nvml, RefusedError, load_error
from gpumon.gpu.xid import XidLog

# After this many refusals with UNKNOWN in a row, by a driver that had been open in this process, it will not come back:
# a container that lost its devices' cgroup permission answers so for ever (nvidia-container-toolkit #48).
UNKNOWN_LIMIT = 3


class DriverError(Exception):
    """The driver cannot be opened now; `reason` is NVML's word, the message says more."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DriverLostError(Exception):
    """The driver cannot be opened in this process again; the message says what to do."""


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """What the driver says of itself when it is opened."""

    count: int
    nvml_version: str
    devices: frozenset[str]


class Driver:
    """Opens and closes NVML and waits for its events. Methods block; call them on the driver's thread."""

    def __init__(self, nvml: Nvml, xids: XidLog, devices_path: Path) -> None:
        self.nvml = nvml
        self._xids = xids
        self._devices_path = devices_path
        self._watcher: EventWatcher | None = None
        self._was_open = False
        self._unknowns = 0

    def open(self) -> DriverFacts:
        """Initialise NVML and list the GPUs. Raises DriverError, or DriverLostError when only a new process can help."""
        try:
            self.nvml.open()
            facts = self.look()
        except RefusedError as error:
            raise self._refused(error) from error
        self._was_open = True
        self._unknowns = 0
        self._watch()
        return facts

    def _refused(self, error: RefusedError) -> DriverError | DriverLostError:
        if error.code == VERSION_MISMATCH:
            return DriverLostError(
                "the NVIDIA driver and its library libnvidia-ml are of different versions: "
                "restart gpumon (in a container, create it anew) so that it loads the library of the running driver"
            )
        self._unknowns = self._unknowns + 1 if error.code == UNKNOWN and self._was_open else 0
        if self._unknowns >= UNKNOWN_LIMIT:
            return DriverLostError(
                "the NVIDIA driver was open and now answers UNKNOWN to every attempt: this process has lost access to "
                "the devices (in a container, after a reload of systemd); restart gpumon or create its container anew"
            )
        detail = load_error() if error.code == LIBRARY_NOT_FOUND else ""
        return DriverError(error.reason, detail or f"{error.function} answered {error.reason}")

    def look(self) -> DriverFacts:
        """Give what the driver lists now. NVML itself lists what there was when it was opened; the kernel lists more."""
        try:
            devices = frozenset(entry.name for entry in self._devices_path.iterdir())
        except OSError:
            devices = frozenset()
        try:
            version = str(self.nvml.call("nvmlSystemGetNVMLVersion"))
        except RefusedError:
            version = ""
        return DriverFacts(int(self.nvml.call("nvmlDeviceGetCount")), version, devices)

    def close(self, devices: Iterable[Device]) -> None:
        """Give back all that the driver holds for this process; refusals do not matter any more."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher = None
        for device in devices:
            device.free()
        try:
            self.nvml.close()
        except RefusedError:
            pass

    def _watch(self) -> None:
        self._watcher = EventWatcher(self.nvml, self._xids)
        self._watcher.start()

    def watch(self, device: Device) -> None:
        """Take notice of a device's XIDs from now on; called on the thread that reads the device, once it is open."""
        self._xids.register(device.uuid, device.pci_bus_id)
        if self._watcher is None:
            return
        try:
            self._watcher.watch(device.uuid, device.handle)
        except RefusedError:
            pass  # the door has counted it; XIDs come from the kernel log alone
