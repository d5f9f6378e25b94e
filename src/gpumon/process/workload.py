"""Divides what a GPU does among those who use it, so that the parts sum to what the device itself counts.

At each tick the growth of the device's busy time and energy is given out, all of it:
- energy up to idle power times time goes to "idle"; all of it does while the GPU was not busy
- the rest goes by the multiprocessor use that the driver sampled of each process, else to the only process there is,
  else by the shares of shortly before among those still there; what cannot be known goes to "unknown", without a pod
On a divided GPU (MIG) the first step is between instances, by their multiprocessors and how active these were.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from gpumon.catalog import GPU, MIG, MIG_INFO, Entity
from gpumon.gpuprocess import GpuProcess, GpuUse

K = TypeVar("K", bound=Hashable)

IDLE = "idle"

# Shares of shortly before stand in for so many ticks without samples; after that they say nothing any more.
SHARES_TICKS = 3
# A longer time between two readings of a GPU is one of which nobody knows who used it.
GAP_TICKS = 3
# An ended workload is shown for so long, so that its last values are scraped and pushed; its totals are kept longer.
SHOWN_SECONDS = 600.0
# Workloads whose totals are kept per GPU, so that one that comes back counts on from where it was.
MOST_WORKLOADS = 2000
# Idle power as a share of the default limit until the GPU was seen idle: 70 of 700 W (H100), 50 of 400 W (A100).
IDLE_SHARE = 0.1

_ENERGY = tuple(GPU.index[f"energy_{method}_joules_total"] for method in ("driver", "integrated"))
_BUSY = tuple(GPU.index[f"busy_{method}_seconds_total"] for method in ("samples", "polled"))
_LIMIT = GPU.index["power_limit_default_watts"]
_SM_ACTIVE = MIG.index["sm_active_ratio"]
_INSTANCE = next(i for i, label in enumerate(MIG.labels) if label.name == "gpu_instance_id")
_MULTIPROCESSORS = next(i for i, label in enumerate(MIG_INFO.labels) if label.name == "multiprocessors")


class Workload(NamedTuple):
    """Whose share it is: the labels of a workload."""

    category: str
    namespace: str = ""
    pod: str = ""
    container: str = ""
    job: str = ""


UNATTRIBUTED = Workload("unknown")
REST = Workload(IDLE)


class Holder(NamedTuple):
    """A process on the GPU, as the share goes to it; `key` tells processes apart where pids do not."""

    process: GpuProcess
    key: Hashable
    workload: Workload


@dataclass(slots=True)
class Total:
    """What was given to one workload since gpumon started."""

    busy_seconds: float = 0.0
    energy_joules: float = 0.0
    seen: float = 0.0  # monotonic seconds


class Growth:
    """How much a counter of the device grew since it was last read, whichever of its columns has it."""

    __slots__ = ("_columns", "_last")

    def __init__(self, columns: Sequence[int]) -> None:
        self._columns = columns
        self._last: tuple[int, float] | None = None

    def take(self, gpu: Entity) -> float | None:
        """Give the growth; None when it cannot be told: not read, read for the first time, or by another method."""
        column = next((column for column in self._columns if gpu.values[column] is not None), None)
        if column is None:
            return None
        value, last = gpu.values[column], self._last
        assert value is not None
        self._last = column, value
        if last is None or last[0] != column:
            return None
        # A counter that went back was started anew by the driver, and all that it shows is since then.
        return value - last[1] if value >= last[1] else value


class Shares:
    """The division of one GPU, over its whole life, also while it is away."""

    def __init__(self, interval: float) -> None:
        self.totals: dict[Workload, Total] = {}
        self.idle_watts: float | None = None  # lowest power seen while idle
        self._interval = interval
        self._energy = Growth(_ENERGY)
        self._busy = Growth(_BUSY)
        self._time: float | None = None
        self._weights: dict[Hashable, float] = {}
        self._weights_time = 0.0

    def divide(self, use: GpuUse, holders: Sequence[Holder]) -> dict[Hashable, tuple[float, float]]:
        """Give out what the device did since the last tick; also gives (busy seconds, joules) of each process by key."""
        for holder in holders:
            self._total(holder.workload, use.time)
        energy, busy = self._energy.take(use.gpu), self._busy.take(use.gpu)
        before, self._time = self._time, use.time
        if before is None:
            return {}
        seconds = use.time - before
        known = seconds <= (GAP_TICKS + 0.5) * self._interval
        weights = self._weigh(use, holders) if known else {}
        active = busy > 0 if busy is not None else bool(weights) or (bool(holders) and not _measured(use))
        resting = self._resting(use.gpu, energy, seconds, idle=not active and known)
        if energy is not None:
            self._total(REST, use.time).energy_joules += resting
            energy -= resting
        return self._give(use.time, holders, weights, busy or 0.0, energy or 0.0)

    def _give(
        self, time: float, holders: Sequence[Holder], weights: Mapping[Hashable, float], busy: float, energy: float
    ) -> dict[Hashable, tuple[float, float]]:
        """Give busy time and energy out by weights, of which 1 is all; what is left is nobody's known."""
        given: dict[Hashable, tuple[float, float]] = {}
        left = 1.0
        for holder in holders:
            weight = weights.get(holder.key, 0.0)
            if not weight or holder.key in given:
                continue
            left -= weight
            total = self._total(holder.workload, time)
            total.busy_seconds += busy * weight
            total.energy_joules += energy * weight
            given[holder.key] = busy * weight, energy * weight
        if left > 1e-9 and (busy or energy):  # what floating point leaves over is nothing
            total = self._total(UNATTRIBUTED, time)
            total.busy_seconds += busy * left
            total.energy_joules += energy * left
        return given

    def _resting(self, gpu: Entity, energy: float | None, seconds: float, *, idle: bool) -> float:
        """Give the part of the energy that the GPU takes for being there, and learn how much that is."""
        if energy is None or seconds <= 0:
            return 0.0
        watts = energy / seconds
        if idle:
            self.idle_watts = watts if self.idle_watts is None else min(self.idle_watts, watts)
            return energy
        limit = gpu.values[_LIMIT]
        estimate = self.idle_watts if self.idle_watts is not None else IDLE_SHARE * (limit or 0.0)
        return min(energy, estimate * seconds)

    def _weigh(self, use: GpuUse, holders: Sequence[Holder]) -> dict[Hashable, float]:
        """Give each process's part of the work, of 1 in all; less where a part is of nobody known."""
        if use.mig:
            return _weigh_instances(use, holders)
        work: dict[Hashable, float] = {}
        for holder in holders:
            if holder.process.work:
                work[holder.key] = work.get(holder.key, 0.0) + holder.process.work
        if work:
            self._weights, self._weights_time = work, use.time
            return _normal(work)
        keys = {holder.key for holder in holders if holder.process.contexts}
        if len(keys) == 1:
            return dict.fromkeys(keys, 1.0)
        if use.time - self._weights_time <= SHARES_TICKS * self._interval:
            return _normal({key: weight for key, weight in self._weights.items() if key in keys})
        return {}

    def entities(self, use: GpuUse, holders: Sequence[Holder]) -> Iterable[tuple[Workload, tuple[float | None, ...]]]:
        """Give the values of every workload to be shown: memory, processes, busy seconds, energy."""
        memory: dict[Workload, float | None] = {}
        keys: dict[Workload, set[Hashable]] = {}
        for holder in holders:
            if holder.process.contexts:
                keys.setdefault(holder.workload, set()).add(holder.key)
                held, more = memory.get(holder.workload, 0.0), holder.process.memory_bytes
                memory[holder.workload] = None if held is None or more is None else held + more
        counts_energy = any(use.gpu.values[column] is not None for column in _ENERGY)
        counts_busy = any(use.gpu.values[column] is not None for column in _BUSY)
        self._total(REST, use.time)
        used = use.gpu["memory_used"]
        whole = None if used is None or None in memory.values() else used - sum(held or 0 for held in memory.values())
        for workload, total in self.totals.items():
            if use.time - total.seen > SHOWN_SECONDS:
                continue
            energy = total.energy_joules if counts_energy else None
            busy = total.busy_seconds if counts_busy else None
            if workload == REST:
                yield workload, (None if whole is None else max(whole, 0.0), None, None, energy)
            else:
                yield workload, (memory.get(workload, 0.0), len(keys.get(workload, ())), busy, energy)
        self._forget()

    def _total(self, workload: Workload, time: float) -> Total:
        total = self.totals.get(workload)
        if total is None:
            total = self.totals[workload] = Total()
        total.seen = time
        return total

    def _forget(self) -> None:
        """Let go of the totals of workloads that ended longest ago, when there are very many."""
        if len(self.totals) > MOST_WORKLOADS:
            by_age = sorted(self.totals, key=lambda workload: self.totals[workload].seen)
            for workload in by_age[: MOST_WORKLOADS // 10]:
                del self.totals[workload]


def _measured(use: GpuUse) -> bool:
    """Say whether it is known what the MIG devices of a GPU do."""
    return any(readings.values[_SM_ACTIVE] is not None for readings, _ in use.mig)


def _weigh_instances(use: GpuUse, holders: Sequence[Holder]) -> dict[Hashable, float]:
    """Divide between MIG devices; within one, its only process has all, and of several none is known."""
    active: dict[int, float] = {}
    for readings, info in use.mig:
        share, size = readings.values[_SM_ACTIVE], info.labels[_MULTIPROCESSORS]
        if share is not None and size.isdigit():
            active[int(readings.labels[_INSTANCE])] = share * int(size)
    keys: dict[int | None, set[Hashable]] = {}
    for holder in holders:
        if holder.process.contexts:
            keys.setdefault(holder.process.gpu_instance_id, set()).add(holder.key)
    if not active and len(keys) == 1:  # no profiling counters, but only one instance that anybody uses
        active = {instance: 1.0 for instance in keys if instance is not None}
    weights: dict[Hashable, float] = {}
    for instance, weight in _normal(active).items():
        here = keys.get(instance, set())
        if len(here) == 1:
            (key,) = here
            weights[key] = weights.get(key, 0.0) + weight
    return weights


def _normal(weights: Mapping[K, float]) -> dict[K, float]:
    """Give the weights so that they sum to 1; empty when they are all 0."""
    total = sum(weights.values())
    return {key: weight / total for key, weight in weights.items()} if total > 0 else {}
