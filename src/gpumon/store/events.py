"""Events that two snapshots tell: devices lost and back, XIDs, memory faults, throttling."""

from __future__ import annotations

import json
from collections.abc import Iterator

from gpumon.catalog import Entity, Snapshot
from gpumon.catalog.events import CHANGES, EPISODES, Change, Episode
from gpumon.catalog.records import Event


class _Running:
    """An episode that goes on: when it began, and when its column was last not 0."""

    __slots__ = ("began", "seen")

    def __init__(self, began: float) -> None:
        self.began = began
        self.seen = began


class Watch:
    """Turns a run of snapshots into events, as the catalogue's rules say."""

    def __init__(self) -> None:
        self._last: dict[tuple[Change, tuple[str, ...]], float] = {}
        self._running: dict[tuple[Episode, tuple[str, ...]], _Running] = {}
        self._started = False

    def events(self, snapshot: Snapshot) -> list[Event]:
        """Give what happened since the snapshot before. Of the first, only what is out of order counts."""
        found: list[Event] = []
        for entity in snapshot.entities:
            for rule in _CHANGES.get(entity.kind, ()):
                found.extend(self._change(rule, entity, snapshot))
            for episode in _EPISODES.get(entity.kind, ()):
                found.extend(self._episode(episode, entity, snapshot.time))
        self._started = True
        return found

    def _change(self, rule: Change, entity: Entity, snapshot: Snapshot) -> Iterator[Event]:
        value = entity[rule.column]
        if value is None:
            return
        key = (rule, entity.labels)
        # What a device counted before gpumon started is no news; what is down at the start is.
        previous = self._last.get(key, rule.first if self._started or not rule.rises else None)
        self._last[key] = value
        if previous is None or value == previous or (value > previous) is not rule.rises:
            return
        labels = _labels(entity)
        message = rule.message.format(**labels, value=value, previous=previous)
        reason = _reason(rule, labels, snapshot)
        detail = {"value": value, "previous": previous}
        yield _event(rule.event, message + (f": {reason}" if reason else ""), snapshot.time, labels, detail)

    def _episode(self, rule: Episode, entity: Entity, time: float) -> Iterator[Event]:
        key = (rule, entity.labels)
        running = self._running.get(key)
        labels = _labels(entity)
        if entity[rule.column]:
            if running is None:
                running = self._running[key] = _Running(time)
                yield _event(f"{rule.event}_start", rule.message.format(**labels), time, labels, {})
            running.seen = time
        elif running is not None and time - running.seen >= rule.rest_seconds:
            del self._running[key]
            seconds = round(running.seen - running.began, 3)
            message = f"{rule.message.format(**labels)}: over after {seconds:.0f} s"
            yield _event(f"{rule.event}_end", message, time, labels, {"seconds": seconds})


_CHANGES = {kind: [rule for rule in CHANGES if rule.kind is kind] for kind in {rule.kind for rule in CHANGES}}
_EPISODES = {kind: [rule for rule in EPISODES if rule.kind is kind] for kind in {rule.kind for rule in EPISODES}}


def _labels(entity: Entity) -> dict[str, str]:
    return {label.name: value for label, value in zip(entity.kind.labels, entity.labels, strict=True)}


def _reason(rule: Change, labels: dict[str, str], snapshot: Snapshot) -> str:
    if rule.reason_from is None:
        return ""
    known = [entity for entity in snapshot.of(rule.reason_from) if entity.label("gpu_id") == labels["gpu_id"]]
    return known[0].label("reason") if known else ""


def _event(kind: str, message: str, time: float, labels: dict[str, str], detail: dict[str, float]) -> Event:
    gpu = labels.get("gpu_id", "")
    others = {name: value for name, value in labels.items() if not name.startswith("gpu_")}
    facts = others | detail
    return Event(
        timestamp=time,
        kind=kind,
        message=message,
        gpu_id=int(gpu) if gpu.isdigit() else None,
        gpu_uuid=labels.get("gpu_uuid"),
        subject=others.get("xid") or others.get("model"),
        detail=json.dumps(facts) if facts else None,
    )
