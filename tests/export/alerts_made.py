"""Snapshots in which an alert's condition holds, or nearly, made from the alert's own row."""

from __future__ import annotations

from collections.abc import Iterable

from gpumon.catalog import Entity, EntityKind, Snapshot
from gpumon.catalog.alert import Alert, Look
from gpumon.export.alerts_rule import Rule
from gpumon.export.alerts_watch import Incident, Watch

START = 1_700_000_000.0
TICK = 2.0
# Labels that some alerts look at; others are "x".
LABELS = {"gpu_id": "0", "gpu_name": "NVIDIA H100", "gpu_uuid": "GPU-1", "xid": "79", "source": "process"}


def entity(kind: EntityKind, labels: dict[str, str] | None = None, **columns: float | None) -> Entity:
    """Give an entity with only these columns known."""
    texts = LABELS | (labels or {})
    values = [None] * len(kind.columns)
    for name, value in columns.items():
        values[kind.index[name]] = value  # type: ignore[call-overload]
    return Entity(kind, tuple(texts.get(label.name, "x") for label in kind.labels), tuple(values))


class Course:
    """Lets time pass over one alert, with a value that the test gives at each tick."""

    def __init__(self, rule: Rule) -> None:
        self.alert = rule.alert
        self.rule = rule
        self.watch = Watch([rule])
        self.seconds = 0.0
        self.begun: list[tuple[float, Incident]] = []
        self.ended: list[tuple[float, Incident]] = []

    def go(self, seconds: float, *values: float | None) -> None:
        """Tick for so long, over these values in turn."""
        for i in range(round(seconds / TICK)):
            self.tick(values[i % len(values)])

    def tick(self, value: float | None) -> None:
        """Take one snapshot, TICK seconds after the one before."""
        snapshot = Snapshot(START + self.seconds, self.seconds, 1, tuple(made(self.alert, value)))
        for incident in self.watch.take(snapshot):
            (self.begun if incident.ended is None else self.ended).append((self.seconds, incident))
        self.seconds += TICK

    @property
    def counts(self) -> tuple[int, int]:
        """Give how many alerts began and ended."""
        return len(self.begun), len(self.ended)


def made(alert: Alert, value: float | None) -> Iterable[Entity]:
    """Give entities of which an alert reads this value, and what its guard wants."""
    measure = alert.measures[0]
    columns: dict[str, float | None] = dict.fromkeys((*measure.columns, *measure.less), 0.0)
    columns[measure.columns[0]] = value
    if measure.of is not None:
        columns[measure.of] = 100.0
    labels = {"xid": {"gpu_xid_application": "31", "gpu_xid_contained": "94"}.get(alert.name, "79")}
    yield entity(alert.kind, labels, **columns)
    if alert.guard is not None:
        yield entity(alert.guard.kind, {"reason": "GPU_IS_LOST"}, **{alert.guard.column: alert.guard.above + 1})


def beyond(rule: Rule) -> float:
    """Give a value at which the alert's condition holds."""
    if rule.alert.look is Look.MEAN:
        return 1.0
    return rule.threshold + (1 if rule.alert.below is None else -1)


def well(rule: Rule) -> float:
    """Give a value that is on the right side by more than the hysteresis."""
    if rule.alert.look is Look.MEAN:
        return 0.0
    distance = rule.alert.hysteresis + 1
    return rule.threshold - distance if rule.alert.below is None else rule.threshold + distance
