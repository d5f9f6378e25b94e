"""Who holds memory of a simulated GPU, and how much of its work each one does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gpumon.gpu.simulate.architectures import MIB
from gpumon.gpu.simulate.loads import LOADS

# NVML's "does not apply" for instance ids.
NO_INSTANCE = 0xFFFFFFFF
# Linux gives no pid above this (PID_MAX_LIMIT), so no real process is ever mistaken for a simulated one.
FIRST_PID = 2**22 + 1
# The driver gives memory to processes in pages of this size.
PAGE = 2 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedProcess:
    """A process on a GPU. `kind` is the list it is in: compute, graphics or mps.

    `used_memory_bytes` None is "not available". Percentages None follow the GPU's load, shared by memory.
    """

    pid: int
    name: str = "python"
    kind: str = "compute"
    used_memory_bytes: int | None = 0
    sm: int | None = None
    memory: int | None = None
    encoder: int | None = None
    decoder: int | None = None
    gpu_instance_id: int = NO_INSTANCE
    compute_instance_id: int = NO_INSTANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedAccount:
    """What accounting mode remembers of a process. `started` is Unix seconds; `sm` and `memory` are mean percents."""

    pid: int
    started: float
    seconds: float
    sm: int = 0
    memory: int = 0
    peak_memory_bytes: int = 0
    running: bool = False


@dataclass(frozen=True, slots=True)
class Client:
    """A process of the load pattern, and the bytes it fills when all of its share is filled."""

    process: SimulatedProcess
    bytes: float

    def held(self, filled: float) -> int:
        """Give the bytes it holds, in whole pages, while `filled` of what there is for it is filled."""
        return round(self.bytes * filled / PAGE) * PAGE


def clients(load: str, homes: Mapping[tuple[int, int], int], slot: int, real_pids: Sequence[int]) -> tuple[Client, ...]:
    """Give the processes of a load pattern: one set for each home, which is instance ids and bytes of memory."""
    met: list[Client] = []
    for (gpu_instance, compute_instance), capacity in homes.items():
        for row in LOADS[load].clients:
            number = len(met)
            process = SimulatedProcess(
                pid=real_pids[number] if number < len(real_pids) else FIRST_PID + 1000 * slot + number,
                name=row.name,
                kind=row.kind,
                gpu_instance_id=gpu_instance,
                compute_instance_id=compute_instance,
            )
            met.append(Client(process, capacity * row.share))
    return tuple(met)


def fill(met: Sequence[Client], filled: float) -> tuple[SimulatedProcess, ...]:
    """Give the processes with the memory they hold while `filled` of what there is for them is filled."""
    return tuple(replace(client.process, used_memory_bytes=client.held(filled)) for client in met)


def shares(processes: Sequence[SimulatedProcess], whole: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Divide percent of multiprocessors, memory, encoder and decoder among processes by their memory, by pid."""
    total = sum(process.used_memory_bytes or 1 for process in processes)
    divided = {}
    for process in processes:
        part = (process.used_memory_bytes or 1) / total
        own = (process.sm, process.memory, process.encoder, process.decoder)
        divided[process.pid] = tuple(
            round(percent * part) if given is None else given for percent, given in zip(whole, own, strict=True)
        )
    return divided
