"""How one load pattern moves one GPU's readings: a table of one cycle, with running sums.

Readings stand on a grid of sample periods and repeat with the pattern, so that any moment is looked up rather than
stepped to: what is read does not depend on how often it is read, and nothing is computed while nobody asks.
All columns are whole numbers, so that running sums are exact.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable
from itertools import accumulate

from gpumon.gpu.simulate.architectures import Model
from gpumon.gpu.simulate.loads import GPM_METRICS, LOADS, MIXES, Phase

# The driver samples utilisation every 1/6 s to 1 s, depending on the product (nvml.h, nvmlUtilization_t).
STEPS_PER_SECOND = 6
# How fast a die and its memory follow the heat, in seconds: a heat sink under forced air.
LAG_SECONDS = 20.0
_LAG = 1.0 / (LAG_SECONDS * STEPS_PER_SECOND)

# Bits of nvmlClocksEventReasons.
GPU_IDLE, SW_POWER_CAP, HW_SLOWDOWN, SW_THERMAL, HW_THERMAL = 1, 4, 8, 32, 64


class Column:
    """One reading over a cycle, at any step of an endless repetition."""

    __slots__ = ("_cycle", "_sums", "_values")

    def __init__(self, values: Iterable[float]) -> None:
        self._values = array("q", (round(value) for value in values))
        self._sums = array("q", accumulate(self._values, initial=0))
        self._cycle = len(self._values)

    def at(self, step: int) -> int:
        """Give the value of one step."""
        return self._values[step % self._cycle]

    def before(self, step: int) -> int:
        """Give the sum of all steps from 0 up to but not including `step`; negative steps count down."""
        cycles, rest = divmod(step, self._cycle)
        return cycles * self._sums[-1] + self._sums[rest]

    def mean(self, start: int, end: int) -> float:
        """Give the mean of the steps from `start` up to but not including `end`; where they are one, its value."""
        return (self.before(end) - self.before(start)) / (end - start) if end > start else float(self.at(end))


class Course:
    """All readings of one model under one load.

    Percent `busy`, `memory_busy`, `encoder`, `decoder`, `jpeg`, `optical_flow`; mW `power`;
    1/1000 °C above ambient `heat` and `memory_heat`; MHz `clock`, `video_clock`; bits `reasons`;
    1 or 0 `power_capped`, `thermal`, `hw_thermal`; B/s `pcie_transmit`, `pcie_receive`, `nvlink_transmit`,
    `nvlink_receive`; 1/10000 `filled` (memory) and, by NVML's metric id, 1/100 % `gpm`.
    """

    def __init__(self, model: Model, load: str, seed: int) -> None:
        draw = random.Random(f"{seed}/{model.name}/{load}")  # noqa: S311 - a simulation, not a secret
        phases = [phase for phase in LOADS[load].phases for _ in range(phase.seconds * STEPS_PER_SECOND)]
        # Percent, whole, as NVML gives them; all else follows from how busy each step really was.
        busy = [max(0, min(100, phase.busy + draw.randint(-phase.spread, phase.spread))) for phase in phases]
        demand = [_demand(model, phase, percent, draw) for phase, percent in zip(phases, busy, strict=True)]
        power = [min(watts, model.power_limit) for watts in demand]
        rise = (model.hot - model.ambient) / model.power_limit
        heat = _follow([watts * rise for watts in power])
        capped = [watts > model.power_limit for watts in demand]
        thermal = [model.ambient + kelvin >= model.gpu_max for kelvin in heat]
        hw_thermal = [model.ambient + kelvin >= model.slowdown for kelvin in heat]

        self.steps = len(phases)
        self.busy = Column(busy)
        self.memory_busy = Column(_share(phases, busy, "dram"))
        self.encoder = Column(_jitter(draw, phase.encoder) for phase in phases)
        self.decoder = Column(_jitter(draw, phase.decoder) for phase in phases)
        self.jpeg = Column(_jitter(draw, phase.jpeg) for phase in phases)
        self.optical_flow = Column(0 for _ in phases)
        self.power = Column(watts * 1000 for watts in power)
        self.heat = Column(kelvin * 1000 for kelvin in heat)
        # Memory runs hotter than the die, the more so the more it moves.
        self.memory_heat = Column(kelvin * 1150 + 4000 for kelvin in heat)
        held = [
            (model.power_limit / watts if cap else 1.0) * (0.85 if hot else 1.0)
            for watts, cap, hot in zip(demand, capped, thermal, strict=True)
        ]
        span = model.clock_max - model.clock_idle
        self.clock = Column(
            model.clock_idle + span * factor if percent else model.clock_idle
            for percent, factor in zip(busy, held, strict=True)
        )
        self.video_clock = Column(
            model.clock_idle + (model.clock_video - model.clock_idle) * (factor if percent else 0.6)
            for percent, factor in zip(busy, held, strict=True)
        )
        self.power_capped, self.thermal, self.hw_thermal = Column(capped), Column(thermal), Column(hw_thermal)
        self.reasons = Column(
            (GPU_IDLE if not percent else 0)
            | (SW_POWER_CAP if cap else 0)
            | (SW_THERMAL if warm else 0)
            | (HW_THERMAL | HW_SLOWDOWN if hot else 0)
            for percent, cap, warm, hot in zip(busy, capped, thermal, hw_thermal, strict=True)
        )
        self.pcie_transmit = Column(_rates(draw, phases, lambda phase: phase.pcie_transmit))
        self.pcie_receive = Column(_rates(draw, phases, lambda phase: phase.pcie_receive))
        self.nvlink_transmit = Column(_rates(draw, phases, lambda phase: phase.nvlink))
        self.nvlink_receive = Column(_rates(draw, phases, lambda phase: phase.nvlink))
        self.filled = Column(phase.memory * 10000 for phase in phases)
        self.gpm = {
            number: Column(value * 100 for value in _share(phases, busy, name)) for name, number in GPM_METRICS.items()
        }


def _demand(model: Model, phase: Phase, percent: int, draw: random.Random) -> float:
    share = percent / phase.busy if phase.busy else 1.0
    watts = model.power_idle + (model.power_limit - model.power_idle) * phase.power * share
    return watts * draw.uniform(0.99, 1.01)


def _share(phases: list[Phase], busy: list[int], metric: str) -> list[float]:
    column = list(GPM_METRICS).index(metric)
    return [MIXES[phase.mix][column] * percent / 100 for phase, percent in zip(phases, busy, strict=True)]


def _jitter(draw: random.Random, percent: int) -> float:
    return min(100, percent * draw.uniform(0.7, 1.3))


def _rates(draw: random.Random, phases: list[Phase], rate: Callable[[Phase], float]) -> list[float]:
    return [rate(phase) * 1e6 * draw.uniform(0.8, 1.2) for phase in phases]


def _follow(targets: list[float]) -> list[float]:
    """Give a first-order lag behind `targets`, in the state that endless repetition settles in."""
    value = 0.0
    for target in targets:
        value += (target - value) * _LAG
    # One cycle maps a start x to x * r + value, so the settled start is value / (1 - r).
    value /= 1.0 - (1.0 - _LAG) ** len(targets)
    settled = []
    for target in targets:
        value += (target - value) * _LAG
        settled.append(value)
    return settled
