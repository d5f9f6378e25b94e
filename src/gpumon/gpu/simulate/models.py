"""The GPUs a simulated node can have, one row each, and what each architecture can answer.

Figures are from data sheets and from what nvidia-smi prints on such cards; they are typical, not exact.
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


def _sizes(*rows: tuple[str, int, int, int]) -> Mapping[str, MigProfile]:
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


_SERVER = frozenset({"ecc", "serial", "remap"})
_HBM = _SERVER | {"memory_temperature", "mig", "nvlink"}

MODELS: Mapping[str, Model] = {
    "h100": Model(
        name="NVIDIA H100 80GB HBM3",
        architecture=HOPPER,
        pci_device=0x2330,
        memory_mib=81559,
        reserved_mib=551,
        multiprocessors=132,
        power_idle=70,
        power_limit=700,
        power_min=200,
        power_max=700,
        clock_idle=345,
        clock_max=1980,
        clock_memory=2619,
        clock_video=1545,
        ambient=27,
        hot=66,
        gpu_max=85,
        slowdown=87,
        shutdown=92,
        memory_max=95,
        pcie_generation=5,
        nvlinks=18,
        brand=14,
        loads=("training", "training", "serving", "training", "idle", "serving", "training", "training"),
        adds=_HBM | {"fabric", "nvlink4"},
        mig=_sizes(
            ("1g.10gb", 1, 16, 9984),
            ("1g.20gb", 1, 26, 20096),
            ("2g.20gb", 2, 32, 20096),
            ("3g.40gb", 3, 60, 40448),
            ("4g.40gb", 4, 64, 40448),
            ("7g.80gb", 7, 132, 81152),
        ),
        partition=("3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"),
    ),
    "a100": Model(
        name="NVIDIA A100-SXM4-80GB",
        architecture=AMPERE,
        pci_device=0x20B2,
        memory_mib=81920,
        reserved_mib=617,
        multiprocessors=108,
        power_idle=60,
        power_limit=400,
        power_min=100,
        power_max=400,
        clock_idle=210,
        clock_max=1410,
        clock_memory=1593,
        clock_video=1275,
        ambient=28,
        hot=64,
        gpu_max=85,
        slowdown=89,
        shutdown=92,
        memory_max=95,
        pcie_generation=4,
        nvlinks=12,
        brand=14,
        loads=("training", "training", "training", "serving"),
        adds=_HBM | {"nvlink4"},
        # GA100 is Ampere, but has no averaged power (nvml.h, NVML_FI_DEV_POWER_AVERAGE).
        lacks=frozenset({"power_average"}),
        mig=_sizes(
            ("1g.10gb", 1, 14, 9728),
            ("2g.20gb", 2, 28, 19968),
            ("3g.40gb", 3, 42, 40192),
            ("4g.40gb", 4, 56, 40192),
            ("7g.80gb", 7, 98, 80384),
        ),
        partition=("3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"),
    ),
    "b200": Model(
        name="NVIDIA B200",
        architecture=BLACKWELL,
        pci_device=0x2901,
        memory_mib=183359,
        reserved_mib=717,
        multiprocessors=148,
        power_idle=140,
        power_limit=1000,
        power_min=200,
        power_max=1000,
        clock_idle=120,
        clock_max=1965,
        clock_memory=3996,
        clock_video=1965,
        ambient=27,
        hot=68,
        gpu_max=85,
        slowdown=90,
        shutdown=95,
        memory_max=95,
        pcie_generation=5,
        nvlinks=18,
        brand=14,
        loads=("training", "training", "serving", "training"),
        adds=_HBM | {"fabric", "nvlink5"},
        mig=_sizes(
            ("1g.23gb", 1, 18, 23552),
            ("2g.45gb", 2, 36, 46080),
            ("3g.90gb", 3, 70, 91136),
            ("4g.90gb", 4, 72, 91136),
            ("7g.180gb", 7, 148, 182528),
        ),
        partition=("3g.90gb", "2g.45gb", "1g.23gb", "1g.23gb"),
    ),
    "gh200": Model(
        name="NVIDIA GH200 480GB",
        architecture=HOPPER,
        pci_device=0x2342,
        memory_mib=97871,
        reserved_mib=593,
        multiprocessors=132,
        power_idle=80,
        power_limit=900,
        power_min=100,
        power_max=900,
        clock_idle=345,
        clock_max=1980,
        clock_memory=2619,
        clock_video=1545,
        ambient=28,
        hot=63,
        gpu_max=85,
        slowdown=87,
        shutdown=92,
        memory_max=95,
        pcie_generation=5,
        brand=14,
        loads=("serving",),
        adds=_SERVER | {"memory_temperature", "numa"},
    ),
    "l40s": Model(
        name="NVIDIA L40S",
        architecture=ADA,
        pci_device=0x26B9,
        memory_mib=46068,
        reserved_mib=605,
        multiprocessors=142,
        power_idle=36,
        power_limit=350,
        power_min=100,
        power_max=350,
        clock_idle=210,
        clock_max=2520,
        clock_memory=9001,
        clock_video=1965,
        pstate_idle=8,
        ambient=30,
        hot=88,  # a passive card in a narrow slot: it reaches its limit, and throttles
        gpu_max=83,
        slowdown=91,
        shutdown=94,
        memory_max=95,
        pcie_generation=4,
        brand=14,
        loads=("serving", "serving", "training", "idle"),
        adds=_SERVER,
    ),
    "rtx4090": Model(
        name="NVIDIA GeForce RTX 4090",
        architecture=ADA,
        pci_device=0x2684,
        memory_mib=24564,
        reserved_mib=346,
        multiprocessors=128,
        power_idle=18,
        power_limit=450,
        power_min=150,
        power_max=600,
        clock_idle=210,
        clock_max=3105,
        clock_memory=10501,
        clock_video=2415,
        pstate_idle=8,
        ambient=32,
        hot=74,
        gpu_max=84,
        slowdown=97,
        shutdown=100,
        memory_max=95,
        pcie_generation=4,
        fans=2,
        brand=5,
        loads=("gaming",),
        lacks=frozenset({"confidential"}),
    ),
    "t4": Model(
        name="Tesla T4",
        architecture=TURING,
        pci_device=0x1EB8,
        memory_mib=15360,
        reserved_mib=446,
        multiprocessors=40,
        power_idle=9,
        power_limit=70,
        power_min=60,
        power_max=70,
        clock_idle=300,
        clock_max=1590,
        clock_memory=5001,
        clock_video=1470,
        pstate_idle=8,
        ambient=34,
        hot=78,
        gpu_max=85,
        slowdown=93,
        shutdown=96,
        memory_max=95,
        pcie_generation=3,
        brand=2,
        loads=("serving",),
        adds=frozenset({"ecc", "serial", "retire"}),
    ),
    "gb10": Model(
        name="NVIDIA GB10",
        architecture=BLACKWELL,
        pci_device=0x2E12,
        memory_mib=122880,  # the system's; NVML does not answer it
        reserved_mib=0,
        multiprocessors=48,
        power_idle=4,
        power_limit=100,
        power_min=0,
        power_max=100,
        clock_idle=208,
        clock_max=3003,
        clock_memory=0,
        clock_video=3003,
        pstate_idle=8,
        ambient=36,
        hot=80,
        gpu_max=95,
        slowdown=97,
        shutdown=100,
        memory_max=95,
        pcie_generation=1,
        pcie_width=1,
        brand=14,
        loads=("serving",),
        # Its memory is the system's; what else it lacks is unverified, and leaves every fallback something to do.
        lacks=frozenset(
            {"framebuffer", "power_limits", "bar1", "gpm", "confidential", "pcie_bytes", "margin", "energy"}
        ),
    ),
}
