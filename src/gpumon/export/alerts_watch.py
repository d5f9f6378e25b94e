"""The state of every alert: snapshots in, beginnings and ends out. Time comes with the snapshots; nothing is waited for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from gpumon.catalog import AGE, ALERT, Entity, EntityKind, Snapshot
from gpumon.catalog.alert import Alert, Guard, Look
from gpumon.export.alerts_rule import MOST_KNOWN, Labels, Past, Rule, matches, reader

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
    or not known any more; what is missing has no `threshold` either.
    """

    alert: Alert
    labels: Mapping[str, str]
    words: Mapping[str, str]
    value: float | None
    threshold: float | None
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
            return f"{self.summary}: {how} after {self.seconds:.0f} s"
        numbers = _fill(self.alert.numbers, {**self.words, "value": self.value, "threshold": self.threshold})
        return f"{self.summary}: {numbers}" if numbers else self.summary

    @property
    def seconds(self) -> float:
        """Give how long an alert that ended was active; 0 where the clock on the wall was set back meanwhile."""
        return max(0.0, (self.started if self.ended is None else self.ended) - self.started)

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


@dataclass(slots=True)
class Turn:
    """One look at a snapshot: room for so many conditions of the alert, what was found, and how many were left out."""

    snapshot: Snapshot
    room: int
    found: list[Incident] = field(default_factory=list)
    left_out: int = 0


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
        self._models = bool(rule.models)
        self._thresholds: dict[str, float] = {}
        self._known: dict[Labels, float] = {}  # for `absent`: when a value was known last

    def look(self, entities: Sequence[Entity], snapshot: Snapshot, room: int) -> Turn:
        """Take the entities of the alert's kind, and give what began and ended."""
        turn = Turn(snapshot, room)
        now, read, past, states = snapshot.monotonic, self._read, self._past, self.states
        for entity in [_sum(entities)] if self.alert.together and entities else entities:
            value = read(entity.values)
            if value is None or not -inf < value < inf:  # what is not finite was no reading
                continue
            labels = entity.labels
            if past is not None:
                value = past.take(labels, value, now)
            if self.alert.absent:
                if labels in self._known or len(self._known) < MOST_KNOWN:
                    self._known[labels] = now
                else:
                    turn.left_out += 1
                excess = 0.0
            else:
                excess = self._sign * (value - (self._threshold(labels) if self._models else self._rule.threshold))
            if excess > 0 or (states and labels in states):
                self._judge(labels, value, excess, turn)
        self._unknown(turn)
        if past is not None and past.full:
            past.forget({entity.labels for entity in entities})
        return turn

    def _judge(self, labels: Labels, value: float, excess: float, turn: Turn) -> None:
        """Take a value that is beyond the threshold, or was a moment ago."""
        state = self.states.get(labels)
        if excess > 0 and (words := self._words(labels, turn.snapshot, known=state is not None)) is not None:
            self._hold(labels, state, value, words, turn)
        elif state is not None:
            still = excess <= 0 and -excess < self.alert.hysteresis
            self._rest(labels, state, value, turn, still=still)

    def _threshold(self, labels: Labels) -> float:
        name = "" if self._name_at is None else labels[self._name_at]
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
        self, labels: Labels, state: State | None, value: float | None, words: Mapping[str, str], turn: Turn
    ) -> None:
        """Note that the condition holds, and begin the alert when it has for long enough."""
        now = turn.snapshot.monotonic
        if state is None:
            if len(self.states) >= turn.room:
                turn.left_out += 1
                return
            state = self.states[labels] = State(since=now, seen=now)
        state.seen, state.calm = now, None
        began = state.incident is None and now - state.since >= self.alert.for_seconds
        if state.incident is None and not began:
            return
        started = turn.snapshot.time if state.incident is None else state.incident.started
        state.incident = Incident(
            alert=self.alert,
            labels=dict(zip(self._names, labels, strict=False)),
            words=words,
            value=value,
            threshold=None if self.alert.absent else self._threshold(labels),
            started=started,
        )
        if began:
            turn.found.append(state.incident)

    def _rest(self, labels: Labels, state: State, value: float | None, turn: Turn, *, still: bool) -> None:
        """Note that the condition does not hold; `still` while the value is too near the threshold to be sure."""
        now = turn.snapshot.monotonic
        state.seen = now
        if state.incident is None:
            del self.states[labels]
            return
        state.calm = None if still else now if state.calm is None else state.calm
        if state.calm is None or now - state.calm < self.alert.clear_seconds:
            return
        del self.states[labels]
        turn.found.append(replace(state.incident, value=value, ended=turn.snapshot.time))

    def _unknown(self, turn: Turn) -> None:
        """See to what is not known at this time."""
        now = turn.snapshot.monotonic
        if self.alert.absent:
            for labels, known in list(self._known.items()):
                if known == now:
                    continue
                if now - known > ABSENT_SECONDS:
                    del self._known[labels]
                elif (words := self._words(labels, turn.snapshot, known=labels in self.states)) is not None:
                    self._hold(labels, self.states.get(labels), None, words, turn)
        for labels, state in list(self.states.items()) if self.states else ():
            if now - state.seen > UNKNOWN_SECONDS:
                del self.states[labels]
                if state.incident is not None:
                    turn.found.append(replace(state.incident, value=None, ended=turn.snapshot.time))


def _sum(entities: Sequence[Entity]) -> Entity:
    """Give one entity without labels, whose values are the sums of those that are known."""
    columns = zip(*(entity.values for entity in entities), strict=True)
    known = [[value for value in column if value is not None] for column in columns]
    return Entity(entities[0].kind, (), tuple(sum(values) if values else None for values in known))


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
            turn = each.look(found[each.alert.kind], snapshot, MOST_STATES - used + before)
            self.left_out += turn.left_out
            self.started[each.alert.severity] += sum(incident.ended is None for incident in turn.found)
            changes += turn.found
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
