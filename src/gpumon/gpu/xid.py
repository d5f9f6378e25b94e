"""XIDs, NVIDIA's error reports: each counted once, though NVML's events and the kernel log both tell of it."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gpumon.catalog.xids import UNKNOWN_XID, XIDS

Source = Literal["nvml", "kmsg"]
_OTHER: dict[Source, Source] = {"nvml": "kmsg", "kmsg": "nvml"}

# The kernel log is read at once, but lags a little when much is written; events are fetched every 4 s.
WINDOW_SECONDS = 10.0
# Sightings of one code on one device that still wait for the other source's: a storm in the kernel log of 2 s.
_MOST_UNPAIRED = 4096
# More than any machine has GPUs; addresses beyond belong to GPUs that gpumon may not see.
_MOST_STRANGERS = 64
RECENT_EVENTS = 64

# As NVML (00000000:3B:00.0), the kernel log (0000:3b:00) and /proc (0000:3b:00.0) write it.
_PCI = re.compile(r"([0-9a-fA-F]{1,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})(?:\.([0-7]))?")


def pci_address(text: str) -> str | None:
    """Give a PCI address in NVML's form, 00000000:3B:00.0, whichever form it comes in; None when it is none.

    A missing function is function 0, the only one a GPU is driven by.
    """
    match = _PCI.fullmatch(text.strip())
    if match is None:
        return None
    domain, bus, device, function = match.groups("0")
    return f"{int(domain, 16):08X}:{bus}:{device}.{function}".upper()


@dataclass(frozen=True, slots=True)
class XidEvent:
    """One XID: Unix seconds, UUID of the GPU (its PCI address while that is all that is known), code."""

    time: float
    device: str
    code: int

    @property
    def meaning(self) -> str:
        """Give what the code means, in a few words."""
        return XIDS.get(self.code, UNKNOWN_XID).meaning

    @property
    def advice(self) -> str:
        """Give what to do about it, in a few words."""
        return XIDS.get(self.code, UNKNOWN_XID).advice


class _Tally:
    """The count of one code on one device, and the sightings that only one source has had so far."""

    __slots__ = ("count", "last_time", "unpaired")

    def __init__(self) -> None:
        self.count = 0
        self.last_time = 0.0
        self.unpaired: dict[Source, deque[float]] = {
            "nvml": deque(maxlen=_MOST_UNPAIRED),
            "kmsg": deque(maxlen=_MOST_UNPAIRED),
        }

    def see(self, source: Source, time: float) -> bool:
        """Count a sighting, unless it is the second one of an XID counted already; say whether it was counted."""
        for times in self.unpaired.values():
            # Also what lies in the future: the clock was set back.
            while times and abs(times[0] - time) > WINDOW_SECONDS:
                times.popleft()
        if self._pair(source, time):
            return False
        self.unpaired[source].append(time)
        self.count += 1
        self.last_time = max(self.last_time, time)
        return True

    def _pair(self, source: Source, time: float) -> bool:
        """Take the other source's oldest sighting of the same XID away, if there is one."""
        others = self.unpaired[_OTHER[source]]
        for other in others:
            if abs(other - time) <= WINDOW_SECONDS:
                others.remove(other)
                return True
        return False

    def absorb(self, tally: _Tally) -> None:
        """Add another count of the same code on the same device; what each had from one source only may be one XID."""
        self.count += tally.count
        self.last_time = max(self.last_time, tally.last_time)
        for source, times in tally.unpaired.items():
            left = [time for time in times if not self._pair(source, time)]
            self.count -= len(times) - len(left)
            self.unpaired[source] = deque(sorted((*self.unpaired[source], *left)), maxlen=_MOST_UNPAIRED)


class XidLog:
    """Every XID since start, by GPU, across re-initialisations of the driver. May be used from any thread.

    What is seen at a PCI address before a GPU is known there is kept for it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uuids: dict[str, str] = {}  # by PCI address
        self._tallies: dict[str, dict[int, _Tally]] = {}  # by UUID, or PCI address of a stranger; then by code
        self._recent: deque[XidEvent] = deque(maxlen=RECENT_EVENTS)

    def register(self, uuid: str, pci: str) -> None:
        """Tell at which PCI address a GPU is; to be called whenever the GPU is opened."""
        address = pci_address(pci)
        if address is None:
            return
        with self._lock:
            self._uuids[address] = uuid
            strange = self._tallies.pop(address, {})
            known = self._tallies.setdefault(uuid, {})
            for code, tally in strange.items():
                if code in known:
                    known[code].absorb(tally)
                else:
                    known[code] = tally

    def seen(self, device: str, code: int, time: float, source: Source) -> None:
        """Take one sighting of an XID; `device` is a UUID or a PCI address in any form, `time` Unix seconds.

        Two sightings by different sources within 10 s are one XID, two by the same source are two.
        """
        address = pci_address(device)
        with self._lock:
            key = device if address is None else self._uuids.get(address, address)
            if key not in self._tallies and not self._make_room(stranger=key == address):
                return
            tally = self._tallies.setdefault(key, {}).setdefault(code, _Tally())
            if tally.see(source, time):
                self._recent.append(XidEvent(time, key, code))

    def _make_room(self, *, stranger: bool) -> bool:
        return not stranger or sum(pci_address(key) is not None for key in self._tallies) < _MOST_STRANGERS

    def counts(self, uuid: str) -> Mapping[int, int]:
        """Give how many XIDs a GPU has had since start, by code."""
        with self._lock:
            return {code: tally.count for code, tally in self._tallies.get(uuid, {}).items()}

    def last_times(self, uuid: str) -> Mapping[int, float]:
        """Give Unix seconds of a GPU's last XID of each code."""
        with self._lock:
            return {code: tally.last_time for code, tally in self._tallies.get(uuid, {}).items()}

    def last_time(self, uuid: str) -> float | None:
        """Give Unix seconds of a GPU's last XID, None when it had none."""
        return max(self.last_times(uuid).values(), default=None)

    def recent(self) -> tuple[XidEvent, ...]:
        """Give the last XIDs of all GPUs, at most 64, oldest first."""
        with self._lock:
            return tuple(
                XidEvent(event.time, self._uuids.get(event.device, event.device), event.code) for event in self._recent
            )
