"""Events that two snapshots tell: devices lost and back, XIDs, memory faults, throttling."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from gpumon.catalog import Entity, Snapshot
from gpumon.catalog.events import CHANGES, EPISODES, Change, Episode
from gpumon.catalog.records import Event, ProcessEvent, Record
from gpumon.store.incident import Holders, Incidents, nobody

Facts = dict[str, object]


class _Running:
    """An episode that goes on: when it began, and when its column was last not 0, by the monotonic clock."""

    __slots__ = ("began", "seen")

    def __init__(self, began: float) -> None:
        self.began = began
        self.seen = began


class Watch:
    """Turns a run of snapshots into events, as the catalogue's rules say."""

    def __init__(self, holders: Holders = nobody) -> None:
        self._incidents = Incidents(holders)
        self._last: dict[tuple[Change, tuple[str, ...]], float] = {}
        self._running: dict[tuple[Episode, tuple[str, ...]], _Running] = {}
        self._times: dict[tuple[str, tuple[str, ...]], float] = {}
        self._started = False

    def events(self, snapshot: Snapshot) -> list[Event]:
        """Give what happened since the snapshot before. Of the first, only what is out of order counts."""
        found: list[Event] = []
        for entity in snapshot.entities:
            for rule in _CHANGES.get(entity.kind, ()):
                found.extend(self._change(rule, entity, snapshot))
            for episode in _EPISODES.get(entity.kind, ()):
                found.extend(self._episode(episode, entity, snapshot))
        self._started = True
        self._incidents.remember(snapshot)
        return found

    def follow(self, records: Iterable[Record]) -> list[Event]:
        """Give what records of processes tell together with what happened before."""
        ends = (each for each in records if isinstance(each, ProcessEvent) and each.event == "end")
        return [event for event in map(self._incidents.ended, ends) if event is not None]

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
        detail: Facts = {"value": value, "previous": previous}
        reason = _reason(rule, labels, snapshot)
        advice = rule.advice
        if rule.explain is not None:
            explained = rule.explain(labels)
            reason, advice = explained.meaning, explained.advice
            detail["meaning"] = explained.meaning
        message += f": {reason}" if reason else ""
        if rule.since and (rule.since, entity.labels) in self._times:
            seconds = round(snapshot.monotonic - self._times[rule.since, entity.labels], 3)
            message += f" after {seconds:.0f} s"
            detail["seconds"] = seconds
        if rule.event in _SINCE:
            self._times[rule.event, entity.labels] = snapshot.monotonic
        if rule.fault:
            words, facts = self._incidents.around(labels["gpu_uuid"], snapshot.time)
            message += words
            detail |= facts
        event = _event(rule.event, message, snapshot.time, labels, detail, advice)
        if rule.fault:
            self._incidents.fault(event)
        yield event

    def _episode(self, rule: Episode, entity: Entity, snapshot: Snapshot) -> Iterator[Event]:
        key = (rule, entity.labels)
        running = self._running.get(key)
        labels, now = _labels(entity), snapshot.monotonic
        if entity[rule.column]:
            if running is None:
                running = self._running[key] = _Running(now)
                words, facts = self._incidents.readings(entity)
                message = rule.message.format(**labels) + words
                yield _event(f"{rule.event}_start", message, snapshot.time, labels, facts, rule.advice)
            running.seen = now
        elif running is not None and now - running.seen >= rule.rest_seconds:
            del self._running[key]
            seconds = round(running.seen - running.began, 3)
            message = f"{rule.message.format(**labels)}: over after {seconds:.0f} s"
            yield _event(f"{rule.event}_end", message, snapshot.time, labels, {"seconds": seconds})


# The events whose time is kept, because another is told with how long ago it was.
_SINCE = {rule.since for rule in CHANGES if rule.since}
_CHANGES = {kind: [rule for rule in CHANGES if rule.kind is kind] for kind in {rule.kind for rule in CHANGES}}
_EPISODES = {kind: [rule for rule in EPISODES if rule.kind is kind] for kind in {rule.kind for rule in EPISODES}}


def _labels(entity: Entity) -> dict[str, str]:
    return {label.name: value for label, value in zip(entity.kind.labels, entity.labels, strict=True)}


def _reason(rule: Change, labels: dict[str, str], snapshot: Snapshot) -> str:
    if rule.reason_from is None:
        return ""
    known = [entity for entity in snapshot.of(rule.reason_from) if entity.label("gpu_id") == labels["gpu_id"]]
    return known[0].label("reason") if known else ""


def _event(kind: str, message: str, time: float, labels: dict[str, str], detail: Facts, advice: str = "") -> Event:
    gpu = labels.get("gpu_id", "")
    others = {name: value for name, value in labels.items() if not name.startswith("gpu_")}
    facts = others | detail | ({"advice": advice} if advice else {})
    return Event(
        timestamp=time,
        kind=kind,
        message=message,
        gpu_id=int(gpu) if gpu.isdigit() else None,
        gpu_uuid=labels.get("gpu_uuid"),
        subject=others.get("xid") or others.get("model"),
        detail=json.dumps(facts) if facts else None,
    )
