"""The source of who uses the GPUs: joins what the driver lists with /proc, and divides each device among workloads."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from typing import Protocol

from gpumon.catalog import ATTRIBUTION, WORKLOAD, Entity
from gpumon.catalog import GPU as GPU_KIND
from gpumon.catalog.records import ProcessEvent
from gpumon.crew import Crew
from gpumon.gpuprocess import GpuProcess, GpuUse
from gpumon.process import series
from gpumon.process.classify import Classifier
from gpumon.process.events import EventLog
from gpumon.process.examine import Answer, Examiner, Question
from gpumon.process.proc import Proc
from gpumon.process.tracked import OnGpu, ProcessRecord, Tracked, brief, record
from gpumon.process.workload import UNATTRIBUTED, Holder, Shares
from gpumon.settings import Processes as ProcessSettings
from gpumon.source import SourceReading

_TENSOR, _DRAM = GPU_KIND.index["tensor_active_ratio"], GPU_KIND.index["dram_active_ratio"]

# Reading what a process has loaded costs about a millisecond: no more than so many at a tick, the others wait for the next.
MOST_EXPENSIVE = 4
# Looking at twenty processes takes a few milliseconds; one that takes longer than this hangs, and is not waited for.
EXAMINE_SECONDS = 0.25

# The first digits of a container's id are what people and tools call it by.
SHORT_ID = 12

Here = list[tuple[GpuProcess, Tracked | None]]


class Places(Protocol):
    """Who knows where processes run: names of pods and containers, jobs on GPUs."""

    def put(self, tracked: Iterable[Tracked], uses: tuple[GpuUse, ...]) -> None:
        """Set `where` and `job` of every process, as far as they are known."""

    def entities(self, uses: tuple[GpuUse, ...]) -> Iterable[Entity]:
        """Give what is said of the names themselves."""


class ProcessSource:
    """Every process on the node's GPUs. To be read after the GPUs at the same tick; belongs to the event loop."""

    name = "process"

    def __init__(
        self,
        settings: ProcessSettings,
        uses: Callable[[], tuple[GpuUse, ...]],
        *,
        interval: float,
        proc: Proc | None = None,
        places: Iterable[Places] = (),
        classifier: Classifier | None = None,
        simulated_name: Callable[[int], str | None] | None = None,
    ) -> None:
        self._settings = settings
        self._uses = uses
        self._interval = interval
        self.proc = self._proc = proc or Proc(settings.proc_root, keep_command_lines=settings.command_lines)
        self._places = tuple(places)
        self._examiner = Examiner(self._proc, classifier or Classifier(), simulated_name)
        self._crew = Crew(name="process")
        self._simulated = simulated_name is not None
        self._events = EventLog()
        self._tracked: dict[int, Tracked] = {}
        self._shares: dict[str, Shares] = {}
        self._begun: set[str] = set()  # GPUs whose processes were listed before
        self._new: list[tuple[Tracked, str]] = []  # with the GPU, not told of yet
        self._listed: list[tuple[GpuUse, Here]] = []

    async def read(self, now: float, timeout: float) -> SourceReading:
        """Join and divide what the GPUs told at this tick; takes a few milliseconds for hundreds of processes."""
        mode, reason = self._mode()
        entities = [Entity(ATTRIBUTION, (mode, reason), (1,))]
        uses = self._uses() if mode != "none" else ()
        self._join(uses, now)
        if uses:
            await self._examine(now, uses[0].time, timeout)
        tracked = self._tracked.values()
        for one in tracked:
            one.where = ("", "", one.container.id[:SHORT_ID])
        for places in self._places:
            places.put(tracked, uses)
            entities += places.entities(uses)
        for one in tracked:
            one.settle()
        for use, here in self._listed:
            entities += self._divide(use, here)
        entities += series.categories(self._listed)
        entities += series.missing(self._listed, tracked)
        if self._settings.per_process_metrics and mode != "none":
            entities += series.single(self._listed, self._settings.per_process_limit)
        self._part(uses, now)
        return SourceReading(tuple(entities), success=all(use.processes is not None for use in uses))

    async def stop(self) -> None:
        """Close what is kept open, and end the threads."""
        self._crew.stop()
        self._proc.close()

    def drain_events(self) -> tuple[ProcessEvent, ...]:
        """Give the process events since the last call, oldest first."""
        return self._events.drain()

    def records(self) -> Iterator[ProcessRecord]:
        """Give every process on a GPU as it was at the last tick."""
        on: dict[int, tuple[Tracked, list[tuple[str, GpuProcess]]]] = {}
        for use, here in self._listed:
            for process, one in here:
                if one is not None and process.contexts:
                    on.setdefault(one.pid, (one, []))[1].append((use.gpu.labels[2], process))
        for one, gpus in on.values():
            yield record(one, tuple(gpus))

    def holders(self, uuid: str) -> Iterator[dict[str, str | int | float]]:
        """Give what is known of each process on a GPU, also of one that does not answer any more, to be told with it."""
        return (brief(one, uuid) for one in self._tracked.values() if uuid in one.gpus)

    def tracked(self) -> tuple[Tracked, ...]:
        """Give every process that is on a GPU, as it was left by the last tick; to be read and not changed."""
        return tuple(self._tracked.values())

    def _mode(self) -> tuple[str, str]:
        """Say how the driver's pids are joined with processes, and what is missing."""
        root = self._proc.root
        if self._simulated:
            return "host", "the GPUs are simulated"
        if self._proc.sees_host():
            return ("host" if root == "/proc" else "host_proc"), ""
        if root != "/proc":
            return "none", f"processes.proc_root is {root}, which is not the host's /proc"
        how = "run with --pid=host (docker) or hostPID: true (Kubernetes)"
        return "none", f"only the container's own pids are seen: {how}, or set processes.proc_root to the host's /proc"

    # Who is there.

    def _join(self, uses: tuple[GpuUse, ...], now: float) -> None:
        """Put together each GPU's processes with what is known of them, and take notice of new ones."""
        self._proc.begin_tick()
        contexts: dict[int, str] = {}
        for use in uses:
            for process in use.processes or ():
                if process.contexts:
                    contexts[process.pid] = contexts.get(process.pid, "") + process.contexts
        for pid, letters in contexts.items():
            self._meet(pid, letters, now)
        self._listed = []
        for use in uses:
            here = [(process, self._tracked.get(process.pid)) for process in use.processes or ()]
            self._listed.append((use, here))
            if use.processes is not None:
                self._notice(use, here, now)

    async def _examine(self, now: float, time: float, timeout: float) -> None:
        """Find out what new processes are, and look again at those that are not sure."""
        room = MOST_EXPENSIVE
        jobs: list[tuple[Hashable, Callable[[], Answer]]] = []
        for one in self._tracked.values():
            if time < one.review_at or not one.contexts or self._crew.busy_since(one.key) is not None:
                continue
            thorough = one.person is not None and room > 0
            if one.waits and not thorough:
                continue
            room -= thorough
            behaviour = one.watch.words()
            question = Question(one.pid, one.stat, one.person, one.contexts, behaviour, thorough)
            jobs.append((one.key, partial(self._examiner.examine, question)))
        answers = await self._crew.run(jobs, min(timeout, EXAMINE_SECONDS))
        for one in self._tracked.values():
            answer, before = answers.get(one.key), one.classification.category
            if isinstance(answer, Exception):
                one.denied = (type(answer).__name__,)  # costs this process, and shows
            elif answer is not None:
                if one.learn(answer, time):
                    self._events.change(one, now, before)
            elif one.person is None:
                one.denied = ("cmdline",)  # it hangs, and whoever reads it hangs with it
        self._tell_new(now)

    def _meet(self, pid: int, letters: str, now: float) -> None:
        """Take notice of a process that the driver lists; one of another start is another process."""
        stat = self._proc.stat(pid, keep=True)
        one = self._tracked.get(pid)
        if one is not None and stat is not None and (one.stat is None or one.stat.ticks != stat.ticks):
            self._end(one, tuple(one.gpus), now)
            one = None
        if one is None:
            one = self._tracked[pid] = Tracked(pid, stat)
        elif stat is not None:
            one.stat = stat
        one.contexts = "".join(sorted(set(letters)))

    def _notice(self, use: GpuUse, here: Here, now: float) -> None:
        """Note what each process of a GPU holds there."""
        uuid = use.gpu.labels[2]
        for process, one in here:
            if one is None or not process.contexts:
                continue
            on = one.gpus.get(uuid)
            if on is None:
                on = one.gpus[uuid] = OnGpu(int(use.gpu.labels[0]), now)
                if uuid in self._begun:  # who was there before gpumon did not start now
                    self._new.append((one, uuid))
            if process.memory_bytes is not None:
                on.peak_memory_bytes = max(on.peak_memory_bytes or 0, process.memory_bytes)
        self._begun.add(uuid)

    def _tell_new(self, now: float) -> None:
        """Tell who started, once it is known what it is."""
        for one, uuid in self._new:
            self._events.start(one, uuid, now, one.gpus[uuid].peak_memory_bytes)
        self._new.clear()

    # Who is not there any more.

    def _part(self, uses: tuple[GpuUse, ...], now: float) -> None:
        """End what the driver does not list any more, after it was given its last share."""
        present: dict[str, set[int]] = {}
        for use in uses:
            if use.processes is not None:
                present[use.gpu.labels[2]] = {process.pid for process in use.processes if process.contexts}
        listed: set[int] = set().union(*present.values())
        for one in list(self._tracked.values()):
            left = [uuid for uuid in one.gpus if uuid in present and one.pid not in present[uuid]]
            if len(left) < len(one.gpus) and one.pid not in listed:
                # The rest of its GPUs are down, and cannot tell: the kernel does.
                stat = self._proc.stat(one.pid) if one.stat is not None else None
                if one.stat is not None and (stat is None or stat.ticks != one.stat.ticks):
                    left = list(one.gpus)
            if left:
                self._end(one, left, now)
        for use in uses:
            for accounted in use.ended:
                self._events.accounted(accounted, use, now, self._tracked.get(accounted.pid))

    def _end(self, one: Tracked, uuids: Iterable[str], now: float) -> None:
        for uuid in uuids:
            self._events.end(one, uuid, one.gpus.pop(uuid), now)
        if not one.gpus and self._tracked.get(one.pid) is one:
            del self._tracked[one.pid]
            self._proc.forget(one.pid)

    # What each did.

    def _divide(self, use: GpuUse, here: Here) -> Iterator[Entity]:
        """Divide a GPU among its processes, and give every workload's share."""
        uuid = use.gpu.labels[2]
        shares = self._shares.get(uuid)
        if shares is None:
            shares = self._shares[uuid] = Shares(self._interval)
        holders = [
            Holder(process, process.pid, UNATTRIBUTED) if one is None else Holder(process, one.key, one.workload)
            for process, one in here
        ]
        given = shares.divide(use, holders)
        workers = sum(1 for process, _ in here if process.work)
        for key, known in {one.key: one for _, one in here if one is not None}.items():
            on = known.gpus.get(uuid)
            if on is not None and key in given:
                on.busy_seconds += given[key][0]
                on.energy_joules += given[key][1]
        for process, one in here:
            if one is not None:
                one.watch.add(self._interval, process.sm, process.encoder)
                if process.work and workers == 1:
                    one.watch.add_profile(self._interval, use.gpu.values[_TENSOR], use.gpu.values[_DRAM])
        if use.processes is not None:
            for workload, values in shares.entities(use, holders):
                yield Entity(WORKLOAD, (use.gpu.labels[0], uuid, *workload), values)
