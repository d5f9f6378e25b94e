"""What a model of GPU is made of, and what each architecture can answer.

Which fields an architecture leaves unanswered is from nvml.h where it says so, and unverified elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MIB = 1024 * 1024

# What a row of calls or fields may need of a device. A device that lacks it answers NOT_SUPPORTED.
_TURING = frozenset({"framebuffer", "power_limits", "energy", "bar1", "thresholds"})
_AMPERE = _TURING | {"power_average", "jpeg", "ofa", "pcie_bytes", "recovery", "confidential", "pcie_errors"}
_ADA = _AMPERE | {"margin"}
_HOPPER = _ADA | {"gpm"}
_BLACKWELL = _HOPPER - {"thresholds"}


@dataclass(frozen=True, slots=True)
class Architecture:
    """What all GPUs of one architecture have in common; `number` is nvmlDeviceArchitecture_t."""

    name: str
    number: int
    capability: tuple[int, int]
    features: frozenset[str]


TURING = Architecture("turing", 6, (7, 5), _TURING)
AMPERE = Architecture("ampere", 7, (8, 0), _AMPERE)
ADA = Architecture("ada", 8, (8, 9), _ADA)
HOPPER = Architecture("hopper", 9, (9, 0), _HOPPER)
BLACKWELL = Architecture("blackwell", 10, (10, 0), _BLACKWELL)


@dataclass(frozen=True, slots=True)
class MigProfile:
    """One size of MIG device: compute slices of seven, multiprocessors, memory."""

    name: str
    slices: int
    multiprocessors: int
    memory_mib: int


def sizes(*rows: tuple[str, int, int, int]) -> Mapping[str, MigProfile]:
    return {row[0]: MigProfile(*row) for row in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One kind of GPU: limits in W, °C, MHz, MiB; `adds` and `lacks` differ from what its architecture has.

    `ambient` and `hot` are the die's temperature without load and at `power_limit`.
    `loads` are the load patterns a node of such GPUs runs, in turn.
    `partition` is how a GPU of a `-mig` node is divided.
    """

    name: str
    architecture: Architecture
    pci_device: int
    memory_mib: int
    reserved_mib: int
    multiprocessors: int
    power_idle: int
    power_limit: int
    power_min: int
    power_max: int
    clock_idle: int
    clock_max: int
    clock_memory: int
    clock_video: int
    ambient: int
    hot: int
    gpu_max: int
    slowdown: int
    shutdown: int
    memory_max: int
    pcie_generation: int
    brand: int  # nvmlBrandType_t
    loads: tuple[str, ...]
    pstate_idle: int = 0
    pcie_width: int = 16
    fans: int = 0
    nvlinks: int = 0
    adds: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()
    mig: Mapping[str, MigProfile] = field(default_factory=dict)
    partition: tuple[str, ...] = ()

    @property
    def features(self) -> frozenset[str]:
        """Give everything a call or field may need that this GPU has."""
        return (self.architecture.features | self.adds) - self.lacks
