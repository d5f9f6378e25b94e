"""What the driver tells of the processes on a GPU: made by the source `gpu`, used by the source `process`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gpumon.catalog import Entity


class GpuProcess(NamedTuple):
    """A process that holds a context on a GPU or on one MIG device of it, or did something there since the last tick.

    `contexts` are letters of "CGM" for compute, graphics and client of MPS; empty for one that is gone already.
    Utilisations are means in percent of the driver's samples since the last tick, None where it took none of the process.
    A named tuple, because hundreds are made per tick and a frozen dataclass takes four times as long to make.
    """

    pid: int
    contexts: str = ""
    memory_bytes: int | None = None  # None: not available
    gpu_instance_id: int | None = None
    compute_instance_id: int | None = None
    work: float = 0.0  # sum of the percents of multiprocessors over all samples, to divide by
    sm: float | None = None
    memory: float | None = None
    encoder: float | None = None
    decoder: float | None = None
    jpeg: float | None = None
    ofa: float | None = None


@dataclass(frozen=True, slots=True)
class AccountedProcess:
    """A process that has ended, as the driver's accounting mode remembers it."""

    pid: int
    started: float  # Unix seconds
    seconds: float
    busy_seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class GpuUse:
    """Who uses one GPU at one tick, beside the GPU's own readings.

    `processes` is None when the driver does not tell, and `reason` says why.
    `work_reason` says why the driver does not tell what each process does; empty when it does.
    """

    time: float  # monotonic seconds
    gpu: Entity
    info: Entity  # what the GPU is
    mig: tuple[tuple[Entity, Entity], ...]  # the readings of each MIG device, and what it is
    processes: tuple[GpuProcess, ...] | None
    reason: str = ""
    work_reason: str = ""
    ended: tuple[AccountedProcess, ...] = ()
