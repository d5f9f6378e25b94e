"""The state of every alert: snapshots in, beginnings and ends out. Time comes with the snapshots; nothing is waited for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gpumon.catalog import AGE, ALERT, Entity, EntityKind, Snapshot
from gpumon.catalog.alert import Alert, Guard, Look
from gpumon.export.alerts_rule import Labels, Past, Rule, matches, reader

# What is not known changes nothing for so long; then an alert ends that nobody can confirm any more. A device that was
# re-initialised, or a reading that is made every 30 s, is back by then.
UNKNOWN_SECONDS = 60.0
# Conditions that hold at a time. A node of 16 GPUs with everything wrong has some 300; what a rule of the settings may
# find among processes or pods has no bound.
MOST_STATES = 1000
# Whatever was known of a thing for `absent` is forgotten after a day: it will not come back.
ABSENT_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """An alert of one thing as it was at a moment; times are Unix seconds, `ended` is None while it is active.

    `labels` are those of the thing; `words` are all that a message may use. `value` is None where something is missing,
    or not known any more.
    """

    alert: Alert
    labels: Mapping[str, str]
    words: Mapping[str, str]
    value: float | None
    threshold: float
    started: float
    ended: float | None = None

    @property
    def summary(self) -> str:
        """Say what is wrong with what."""
        return _fill(self.alert.summary, self.words)

    @property
    def message(self) -> str:
        """Say what is wrong in words with numbers, or that it is over."""
        if self.ended is not None:
            how = "over" if self.value is not None or self.alert.absent else "not known any more"
            return f"{self.summary}: {how} after {self.ended - self.started:.0f} s"
        numbers = _fill(self.alert.numbers, {**self.words, "value": self.value, "threshold": self.threshold})
        return f"{self.summary}: {numbers}" if numbers else self.summary

    @property
    def advice(self) -> str:
        """Say what to do."""
        return self.alert.advice if self.alert.explain is None else self.alert.explain(self.labels).advice

    @property
    def subject(self) -> str:
        """Give what it is about besides a GPU, as in xid=79; empty for nothing else."""
        names = [label.name for label in self.alert.kind.labels if not label.name.startswith("gpu_")]
        return ",".join(f"{name}={self.labels[name]}" for name in names if self.labels.get(name))


def _fill(text: str, words: Mapping[str, object]) -> str:
    try:
        return text.format(**words)
    except (ValueError, TypeError, KeyError):  # a number that is missing; texts of the settings were tried at the start
        return text


@dataclass(slots=True)
class State:
    """A condition that holds, or held until a moment ago: since when, and what was seen last. Monotonic seconds."""

    since: float
    seen: float
    incident: Incident | None = None  # once it has held for long enough
    calm: float | None = None  # since when it does not hold any more, by the hysteresis


class Watched:
    """One alert over all things it looks at."""

    def __init__(self, rule: Rule) -> None:
        alert = rule.alert
        self.alert = alert
        self.states: dict[Labels, State] = {}
        self._rule = rule
        self._read = reader(alert.kind, alert.measures)
        self._past = None if alert.look is Look.NOW else Past(alert)
        self._sign = -1.0 if alert.below is not None else 1.0
        self._names = tuple(label.name for label in alert.kind.labels)
        self._name_at = self._names.index("gpu_name") if "gpu_name" in self._names else None
        self._thresholds: dict[str, float] = {}
        self._known: dict[Labels, float] = {}  # for `absent`: when a value was known last

    def look(self, entities: Sequence[Entity], snapshot: Snapshot, room: int) -> Iterator[Incident | None]:
        """Take the entities of the alert's kind; give what began and ended, and None for each left out for want of room."""
        now = snapshot.monotonic
        for labels, value in self._values(entities):
            if value is None:
                continue
            if self._past is not None:
                value = self._past.take(labels, value, now)
            if self.alert.absent:
                self._known[labels] = now
                beyond, excess = False, 0.0
            else:
                excess = self._sign * (value - self._threshold(labels))
                beyond = excess > 0
            state = self.states.get(labels) if self.states else None
            if beyond and (words := self._words(labels, snapshot, known=state is not None)) is not None:
                yield from self._hold(labels, state, value, words, snapshot, room)
            elif state is not None:
                calm = not beyond and -excess < self.alert.hysteresis
                yield from self._rest(labels, state, value, snapshot, still=calm)
        yield from self._unknown(snapshot, room)
        if self._past is not None and self._past.full:
            self._past.forget({entity.labels for entity in entities})

    def _values(self, entities: Sequence[Entity]) -> Iterator[tuple[Labels, float | None]]:
        if not self.alert.together:
            for entity in entities:
                yield entity.labels, self._read(entity.values)
            return
        known = [value for entity in entities if (value := self._read(entity.values)) is not None]
        yield (), sum(known) if known else None

    def _threshold(self, labels: Labels) -> float:
        if self._name_at is None or not self._rule.models:
            return self._rule.threshold
        name = labels[self._name_at]
        if name not in self._thresholds:
            self._thresholds[name] = self._rule.threshold_for(name)
        return self._thresholds[name]

    def _words(self, labels: Labels, snapshot: Snapshot, *, known: bool) -> Mapping[str, str] | None:
        """Give the words a message may use; None where the alert is not meant for this thing, or not now."""
        words = dict(zip(self._names, labels, strict=False))  # those of all together have none
        if not known and not _meant(self.alert, words):
            return None
        if self.alert.explain is not None:
            words["meaning"] = self.alert.explain(words).meaning
        guard = self.alert.guard
        if guard is None:
            return words
        other = _guarding(guard, words.get("gpu_id", ""), snapshot)
        return None if other is None else {**_named(other), **words}

    def _hold(
        self,
        labels: Labels,
        state: State | None,
        value: float | None,
        words: Mapping[str, str],
        snapshot: Snapshot,
        room: int,
    ) -> Iterator[Incident | None]:
        """Note that the condition holds, and begin the alert when it has for long enough."""
        now = snapshot.monotonic
        if state is None:
            if len(self.states) >= room:
                yield None
                return
            state = self.states[labels] = State(since=now, seen=now)
        state.seen, state.calm = now, None
        began = state.incident is None and now - state.since >= self.alert.for_seconds
        if state.incident is None and not began:
            return
        started = snapshot.time if state.incident is None else state.incident.started
        state.incident = Incident(
            alert=self.alert,
            labels=dict(zip(self._names, labels, strict=False)),
            words=words,
            value=value,
            threshold=self._threshold(labels),
            started=started,
        )
        if began:
            yield state.incident

    def _rest(
        self, labels: Labels, state: State, value: float | None, snapshot: Snapshot, *, still: bool
    ) -> Iterator[Incident]:
        """Note that the condition does not hold; `still` while the value is too near the threshold to be sure."""
        now = snapshot.monotonic
        state.seen = now
        if state.incident is None:
            del self.states[labels]
            return
        state.calm = None if still else now if state.calm is None else state.calm
        if state.calm is None or now - state.calm < self.alert.clear_seconds:
            return
        del self.states[labels]
        yield replace(state.incident, value=value, ended=snapshot.time)

    def _unknown(self, snapshot: Snapshot, room: int) -> Iterator[Incident | None]:
        """See to what is not known at this time."""
        now = snapshot.monotonic
        if self.alert.absent:
            for labels, known in list(self._known.items()):
                if known == now:
                    continue
                if now - known > ABSENT_SECONDS:
                    del self._known[labels]
                elif (words := self._words(labels, snapshot, known=labels in self.states)) is not None:
                    yield from self._hold(labels, self.states.get(labels), None, words, snapshot, room)
        for labels, state in list(self.states.items()) if self.states else ():
            if now - state.seen > UNKNOWN_SECONDS:
                del self.states[labels]
                if state.incident is not None:
                    yield replace(state.incident, value=None, ended=snapshot.time)


def _meant(alert: Alert, words: Mapping[str, str]) -> bool:
    return all(matches(pattern, words.get(label, "")) for label, pattern in alert.where.items()) and not any(
        matches(pattern, words.get(label, "")) for label, pattern in alert.unless.items()
    )


def _guarding(guard: Guard, gpu_id: str, snapshot: Snapshot) -> Entity | None:
    """Give the entity of the same GPU by which a guard holds; None where it does not, or nobody knows."""
    for entity in snapshot.of(guard.kind):
        if entity.label("gpu_id") == gpu_id:
            value = entity[guard.column]
            excluded = any(matches(pattern, entity.label(label)) for label, pattern in guard.unless.items())
            if value is not None and value > guard.above and not excluded:
                return entity
    return None


def _named(entity: Entity) -> dict[str, str]:
    return {label.name: text for label, text in zip(entity.kind.labels, entity.labels, strict=True)}


class Watch:
    """All alerts."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._watched = tuple(Watched(rule) for rule in rules)
        self._kinds = frozenset(watched.alert.kind for watched in self._watched)
        self.left_out = 0
        self.started: Counter[str] = Counter()

    def take(self, snapshot: Snapshot) -> list[Incident]:
        """Give what began and ended with a snapshot."""
        found: dict[EntityKind, list[Entity]] = {kind: [] for kind in self._kinds}
        for entity in snapshot.entities:
            if entity.kind in found:
                found[entity.kind].append(entity)
        if AGE in found:
            found[AGE].append(Entity(AGE, (), (0.0,)))  # it is told when it is new
        return self._look(found, snapshot, self._watched)

    def take_age(self, seconds: float, time: float, monotonic: float) -> list[Incident]:
        """Give what began and ended because the newest snapshot is so old; says nothing of other readings."""
        snapshot = Snapshot(time, monotonic, 0, (Entity(AGE, (), (seconds,)),))
        watched = [watched for watched in self._watched if watched.alert.kind is AGE]
        return self._look({AGE: list(snapshot.entities)}, snapshot, watched)

    def active(self) -> Iterator[Incident]:
        """Give the alerts that are active, with their values of now."""
        for watched in self._watched:
            for state in watched.states.values():
                if state.incident is not None:
                    yield state.incident

    def entities(self) -> Iterator[Entity]:
        """Give the alerts that are active, for the next snapshot."""
        return (entity(incident) for incident in self.active())

    def _look(
        self, found: Mapping[EntityKind, list[Entity]], snapshot: Snapshot, watched: Iterable[Watched]
    ) -> list[Incident]:
        changes = []
        used = sum(len(each.states) for each in self._watched)
        for each in watched:
            before = len(each.states)
            for change in each.look(found[each.alert.kind], snapshot, MOST_STATES - used + before):
                if change is None:
                    self.left_out += 1
                    continue
                changes.append(change)
                if change.ended is None:
                    self.started[change.alert.severity] += 1
            used += len(each.states) - before
        return changes


def entity(incident: Incident) -> Entity:
    """Give an active alert as an entity."""
    alert, gpu = incident.alert, [incident.labels.get(name, "") for name in ("gpu_id", "gpu_name", "gpu_uuid")]
    return Entity(
        ALERT,
        (alert.name, alert.severity, *gpu, incident.subject),
        (1.0, incident.value, incident.threshold, incident.started),
    )
