"""What is said of processes as entities: by category, by what is missing, and one by one where that is wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from gpumon.catalog import FACTS_DENIED, GPU_PROCESS, PROCESS_CATEGORY, PROCESS_LIMIT, SHARE_REASON, Entity
from gpumon.gpuprocess import GpuProcess, GpuUse
from gpumon.process.rules import CATEGORIES
from gpumon.process.tracked import Tracked

# A GPU at one tick with its processes, each with what is known of it: None for one that is gone and was never met.
Listed = Sequence[tuple[GpuUse, Sequence[tuple[GpuProcess, Tracked | None]]]]


def categories(listed: Listed) -> Iterator[Entity]:
    """Give count and memory of every category; nothing while no GPU tells its processes."""
    if not any(use.processes is not None for use, _ in listed):
        return
    pids: dict[str, set[int]] = {category: set() for category in CATEGORIES}
    memory: dict[str, float | None] = dict.fromkeys(CATEGORIES, 0.0)
    for _, here in listed:
        for process, one in here:
            if process.contexts and one is not None:
                category = one.classification.category
                pids[category].add(one.pid)
                held, more = memory[category], process.memory_bytes
                memory[category] = None if held is None or more is None else held + more
    for category in CATEGORIES:
        yield Entity(PROCESS_CATEGORY, (category,), (len(pids[category]), memory[category]))


def missing(listed: Listed, tracked: Iterable[Tracked]) -> Iterator[Entity]:
    """Give what the kernel and the driver do not tell, with the reason."""
    denied = Counter(fact for one in tracked for fact in one.denied)
    for fact, count in sorted(denied.items()):
        yield Entity(FACTS_DENIED, (fact,), (count,))
    for use, _ in listed:
        if use.processes is None:
            yield Entity(SHARE_REASON, (*use.gpu.labels, "processes", use.reason), (1,))
        elif use.work_reason:
            yield Entity(SHARE_REASON, (*use.gpu.labels, "work", use.work_reason), (1,))


def single(listed: Listed, limit: int) -> Iterator[Entity]:
    """Give the processes with the most memory on each GPU, and how many were left out."""
    left_out = 0
    for use, here in listed:
        there = [(process, one) for process, one in here if one is not None and process.contexts]
        there.sort(key=lambda pair: (-(pair[0].memory_bytes or 0), pair[0].pid))
        left_out += max(len(there) - limit, 0)
        for process, one in there[:limit]:
            yield _single(use, process, one)
    yield Entity(PROCESS_LIMIT, (), (limit, left_out))


def _single(use: GpuUse, process: GpuProcess, one: Tracked) -> Entity:
    instance = "" if process.gpu_instance_id is None else str(process.gpu_instance_id)
    facts, stat = one.facts, one.stat
    user = "" if facts is None else facts.user
    labels = (*use.gpu.labels, instance, str(one.pid), one.name, user, one.classification.category, *one.where)
    from_proc = (
        None if stat is None else stat.cpu_seconds,
        None if stat is None else stat.resident_bytes,
        None if facts is None else facts.started,
    )
    return Entity(GPU_PROCESS, labels, (process.memory_bytes, *process[6:], *from_proc))
