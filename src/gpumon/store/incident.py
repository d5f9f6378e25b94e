"""What is known around a fault of a GPU: what it did before, who was on it, and whose work ended soon after."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gpumon.catalog import GPU, Entity, Snapshot
from gpumon.catalog.events import BEFORE, ENDED_AFTER_FAULT
from gpumon.catalog.records import Event, ProcessEvent

Fact = str | int | float
# The processes on a GPU, by its UUID: of each what it is and where it runs.
Holders = Callable[[str], Iterable[Mapping[str, Fact]]]

# XIDs are told up to 4 s late and looked at with the next tick; a process they end may be gone by then.
ENDED_SECONDS = 15.0
# A process that meets an error gets this long to write what it still can.
AFTERWARDS_SECONDS = 60.0
# A GPU shared by more is told by number.
MOST_PROCESSES = 16
MOST_NAMED = 3


def nobody(_: str) -> Iterable[Mapping[str, Fact]]:
    """Give no process, where processes are not read."""
    return ()


@dataclass(frozen=True, slots=True)
class Known:
    """A GPU's readings at a time."""

    time: float
    gpu: Entity


class Incidents:
    """Remembers, for each GPU, its last readings, its last fault, and who left it lately."""

    def __init__(self, holders: Holders = nobody) -> None:
        self._holders = holders
        self._known: dict[str, Known] = {}
        self._faults: dict[str, Event] = {}
        self._ended: deque[ProcessEvent] = deque(maxlen=4 * MOST_PROCESSES)

    def remember(self, snapshot: Snapshot) -> None:
        """Take a snapshot, once what happened until then is told."""
        for gpu in snapshot.of(GPU):
            self._known[gpu.label("gpu_uuid")] = Known(snapshot.time, gpu)

    def around(self, uuid: str, time: float) -> tuple[str, dict[str, object]]:
        """Give what was so before a fault, in words to follow it and as facts."""
        words, facts = self._before(uuid, time)
        processes = [*(dict(each) for each in self._holders(uuid)), *self._left(uuid, time)]
        if processes:
            words += f"; on it {_named(processes)}"
            facts["processes"] = processes[:MOST_PROCESSES]
            if len(processes) > MOST_PROCESSES:
                facts["further_processes"] = len(processes) - MOST_PROCESSES
        return words, facts

    def fault(self, event: Event) -> None:
        """Note a fault, so that what ends soon after can be told with it."""
        if event.gpu_uuid is None:
            return
        last = self._faults.get(event.gpu_uuid)
        recent = last is not None and event.timestamp - last.timestamp <= AFTERWARDS_SECONDS
        # That the device is gone says less than the XID it is gone by.
        if last is None or not recent or not last.subject or event.subject:
            self._faults[event.gpu_uuid] = event

    def ended(self, process: ProcessEvent) -> Event | None:
        """Take the end of a process; give an event where its GPU had a fault not long before."""
        self._ended.append(process)
        fault = self._faults.get(process.gpu_uuid or "")
        if fault is None or not 0 <= process.timestamp - fault.timestamp <= AFTERWARDS_SECONDS:
            return None
        seconds = round(process.timestamp - fault.timestamp, 1)
        facts = _facts(process) | {"fault": fault.kind, "fault_seconds_before": seconds}
        told = json.loads(fault.detail or "{}")
        return Event(
            timestamp=process.timestamp,
            kind=ENDED_AFTER_FAULT,
            message=f"{_named([_facts(process)])} ended {seconds:g} s after: {fault.message.split(';')[0]}",
            gpu_id=process.gpu_id,
            gpu_uuid=process.gpu_uuid,
            subject=process.pod or process.process_name,
            detail=json.dumps(facts | {name: told[name] for name in ("xid", "advice") if name in told}),
        )

    @staticmethod
    def readings(gpu: Entity) -> tuple[str, dict[str, object]]:
        """Give what a GPU reads now, in words to follow what happened and as facts."""
        words, values = _told(gpu)
        return (f"; {words}" if words else ""), {"readings": values}

    def _before(self, uuid: str, time: float) -> tuple[str, dict[str, object]]:
        known = self._known.get(uuid)
        if known is None:
            return "", {}
        words, values = _told(known.gpu)
        seconds = max(0.0, round(time - known.time, 1))  # the clock on the wall may have been set back
        facts: dict[str, object] = {"readings_before": values, "readings_seconds_before": seconds}
        return (f"; {seconds:g} s before {words}" if words else ""), facts

    def _left(self, uuid: str, time: float) -> Iterable[dict[str, Fact]]:
        for process in self._ended:
            if process.gpu_uuid == uuid and 0 <= time - process.timestamp <= ENDED_SECONDS:
                yield _facts(process) | {"ended_seconds_before": round(time - process.timestamp, 1)}


def _told(gpu: Entity) -> tuple[str, dict[str, float]]:
    known = ((said.column, gpu[said.column]) for said in BEFORE)
    values = {name: value for name, value in known if value is not None and math.isfinite(value)}
    said = (each for each in BEFORE if each.words and each.column in values)
    return ", ".join(each.words.format(values[each.column] * each.scale) for each in said), values


def _facts(process: ProcessEvent) -> dict[str, Fact]:
    found = {
        "pid": process.pid,
        "name": process.process_name,
        "category": process.category,
        "namespace": process.namespace,
        "pod": process.pod,
        "container": process.container,
        "job": process.job,
        "memory_used_bytes": None if process.gpu_memory_mb is None else round(process.gpu_memory_mb * 1e6),
    }
    return {name: value for name, value in found.items() if value}


def _named(processes: list[dict[str, Fact]]) -> str:
    """Name the first processes in a sentence, with pod or job."""
    names = []
    for each in processes[:MOST_NAMED]:
        place = "/".join(str(each[key]) for key in ("namespace", "pod") if key in each)
        where = [f"pid {each['pid']}"]
        where += [f"pod {place}"] if place else [f"container {each['container']}"] if "container" in each else []
        where += [f"job {each['job']}"] if "job" in each else []
        names.append(f"{each.get('name', 'a process')} ({', '.join(where)})")
    more = len(processes) - MOST_NAMED
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
