"""What happens to processes on GPUs: starts, ends with totals, changes of category; for the history."""

from __future__ import annotations

from collections import deque

from gpumon.catalog.records import ProcessEvent
from gpumon.gpuprocess import AccountedProcess, GpuUse
from gpumon.process.tracked import OnGpu, Tracked

# Events that nobody takes are given up, the oldest first.
MOST_EVENTS = 10_000
# Processes that ended are remembered for so many more, so that the driver's own memory of them is not told again.
MOST_ENDED = 4_000
# The driver and the kernel do not agree on the moment a process started.
SAME_START_SECONDS = 2.0


class EventLog:
    """Events that are not yet taken, oldest first."""

    def __init__(self) -> None:
        self._events: deque[ProcessEvent] = deque(maxlen=MOST_EVENTS)
        self._ended: deque[tuple[int, float]] = deque(maxlen=MOST_ENDED)

    def drain(self) -> tuple[ProcessEvent, ...]:
        """Give the events since the last call."""
        events = tuple(self._events)
        self._events.clear()
        return events

    def start(self, one: Tracked, uuid: str, now: float, memory_bytes: int | None) -> None:
        """Tell that a process took up a GPU."""
        self._tell("start", one, uuid, one.gpus[uuid], now, memory_bytes)

    def end(self, one: Tracked, uuid: str, on: OnGpu, now: float) -> None:
        """Tell that a process let go of a GPU, and what it did there."""
        self._tell("end", one, uuid, on, now, on.peak_memory_bytes)
        if one.facts is not None:
            self._ended.append((one.pid, one.facts.started))

    def change(self, one: Tracked, now: float, previous: str) -> None:
        """Tell that a process turned out to be of another category."""
        for uuid, on in one.gpus.items():
            self._tell("change", one, uuid, on, now, on.peak_memory_bytes, previous)

    def accounted(self, process: AccountedProcess, use: GpuUse, now: float, tracked: Tracked | None) -> None:
        """Tell of a process that the driver remembers, unless it was seen while it lived."""
        known = [started for pid, started in self._ended if pid == process.pid]
        if tracked is not None and tracked.facts is not None:
            known.append(tracked.facts.started)
        # A context is made after its process has started, and by a pid that is not used again so soon.
        if any(started - SAME_START_SECONDS <= process.started <= now for started in known):
            return
        event = ProcessEvent(
            timestamp=process.started + process.seconds,
            event="end",
            pid=process.pid,
            category="unknown",
            gpu_memory_mb=process.peak_memory_bytes / 1e6,
            gpu_id=int(use.gpu.labels[0]),
            gpu_uuid=use.gpu.labels[2],
            duration_seconds=process.seconds,
            gpu_seconds=process.busy_seconds,
        )
        self._events.append(event)

    def _tell(
        self,
        event: str,
        one: Tracked,
        uuid: str,
        on: OnGpu,
        now: float,
        memory_bytes: int | None,
        previous: str | None = None,
    ) -> None:
        ended = event == "end"
        namespace, pod, container = one.where
        made = ProcessEvent(
            timestamp=now,
            event=event,
            pid=one.pid,
            category=one.classification.category,
            gpu_memory_mb=None if memory_bytes is None else memory_bytes / 1e6,
            gpu_id=on.gpu_id,
            gpu_uuid=uuid,
            process_name=one.name or None,
            namespace=namespace or None,
            pod=pod or None,
            container=container or None,
            job=one.workload.job or None,
            duration_seconds=now - on.since if ended else None,
            gpu_seconds=on.busy_seconds if ended else None,
            energy_joules=on.energy_joules if ended else None,
            previous_category=previous,
            command_line=one.command_line or None,
        )
        self._events.append(made)
