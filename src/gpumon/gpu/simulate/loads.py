"""What GPUs are kept busy with: load patterns as rows.

A pattern is a cycle of phases; `gpumon.gpu.simulate.course` turns it into readings that fit together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# GPM metrics in the order in which a phase's mix and a course's columns keep them, with NVML's ids.
GPM_METRICS = {
    "graphics": 1,
    "sm": 2,
    "occupancy": 3,
    "integer": 4,
    "tensor": 5,
    "dram": 10,
    "fp64": 11,
    "fp32": 12,
    "fp16": 13,
}

# Percent of each of GPM_METRICS while the GPU is fully busy with one kind of work.
MIXES: Mapping[str, tuple[float, ...]] = {
    "none": (0, 0, 0, 0, 0, 0, 0, 0, 0),
    "matrix": (100, 93, 34, 9, 64, 46, 0.1, 11, 8),
    "reduce": (100, 38, 21, 6, 0, 31, 0, 7, 9),
    "prefill": (100, 91, 31, 11, 57, 38, 0, 9, 10),
    "decode": (100, 71, 42, 12, 14, 79, 0, 6, 9),
    "frames": (100, 82, 47, 24, 3, 52, 0.2, 58, 6),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of a pattern: how long, how busy in percent (± spread), and with what.

    `power` is the share of the way from idle power to the limit; above 1 the power cap holds the clocks down.
    Rates are MB/s of the whole GPU; `nvlink` is one direction's. `memory` is the share of memory that is filled.
    """

    seconds: int
    busy: int
    mix: str
    power: float
    spread: int = 0
    memory: float
    pcie_transmit: float = 0.1
    pcie_receive: float = 0.1
    nvlink: float = 0.0
    encoder: int = 0
    decoder: int = 0
    jpeg: int = 0


@dataclass(frozen=True, slots=True)
class Client:
    """A process that a pattern runs: its name, NVML's list it is in, its share of the filled memory."""

    name: str
    kind: str
    share: float


@dataclass(frozen=True, slots=True)
class Load:
    """A pattern: its phases in turn, over and over, and the processes that make it."""

    phases: tuple[Phase, ...]
    clients: tuple[Client, ...]


_STEP = Phase(
    seconds=3, busy=98, spread=2, mix="matrix", power=1.01, memory=0.86, pcie_transmit=90, pcie_receive=420, nvlink=22e3
)
_REDUCE = Phase(
    seconds=1, busy=92, spread=4, mix="reduce", power=0.62, memory=0.86, pcie_transmit=60, pcie_receive=90, nvlink=190e3
)
_CHECKPOINT = Phase(
    seconds=5, busy=4, spread=3, mix="reduce", power=0.12, memory=0.86, pcie_transmit=9e3, pcie_receive=20
)
_PREFILL = Phase(
    seconds=1, busy=96, spread=3, mix="prefill", power=0.86, memory=0.84, pcie_transmit=20, pcie_receive=160
)
_DECODE = Phase(
    seconds=4,
    busy=81,
    spread=15,
    mix="decode",
    power=0.52,
    memory=0.86,
    pcie_transmit=35,
    pcie_receive=40,
    decoder=6,
    jpeg=3,
)
_LONG_DECODE = Phase(
    seconds=6, busy=88, spread=10, mix="decode", power=0.56, memory=0.91, pcie_transmit=35, pcie_receive=40
)
_LULL = Phase(seconds=3, busy=0, mix="none", power=0.04, memory=0.82)
_PLAY = Phase(
    seconds=30,
    busy=93,
    spread=7,
    mix="frames",
    power=0.78,
    memory=0.46,
    pcie_transmit=240,
    pcie_receive=1900,
    encoder=24,
)
_FIGHT = Phase(
    seconds=15,
    busy=99,
    spread=1,
    mix="frames",
    power=0.97,
    memory=0.52,
    pcie_transmit=320,
    pcie_receive=2600,
    encoder=31,
)
_MENU = Phase(
    seconds=10,
    busy=34,
    spread=12,
    mix="frames",
    power=0.31,
    memory=0.45,
    pcie_transmit=60,
    pcie_receive=240,
    encoder=18,
)

LOADS: Mapping[str, Load] = {
    "idle": Load((Phase(seconds=30, busy=0, mix="none", power=0.0, memory=0.0),), ()),
    "training": Load((_STEP, _REDUCE) * 14 + (_CHECKPOINT,), (Client("python", "compute", 1.0),)),
    "serving": Load(
        (_PREFILL, _DECODE, _PREFILL, _LONG_DECODE, _LULL, _PREFILL, _DECODE, _PREFILL, _DECODE, _LULL, _LULL),
        (Client("ollama", "compute", 0.94), Client("python", "compute", 0.06)),
    ),
    "gaming": Load(
        (_MENU, _PLAY, _FIGHT, _PLAY, _PLAY, _FIGHT),
        (Client("game", "graphics", 0.9), Client("Xorg", "graphics", 0.04), Client("obs", "graphics", 0.06)),
    ),
}
