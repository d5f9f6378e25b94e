"""An alert with its threshold: what of an entity is compared with what."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass
from math import inf
from operator import itemgetter

from gpumon.catalog import EntityKind, Since
from gpumon.catalog.alert import Alert, Look, Measure

Labels = tuple[str, ...]
Values = tuple[float | None, ...]
Read = Callable[[Values], float | None]

# A window is kept in so many parts, however often gpumon reads: an alert may end that much of its window late.
WINDOW_PARTS = 60
# Things whose past values are kept, per alert; there are more only where labels come and go, as those of processes.
MOST_KNOWN = 5000


@dataclass(frozen=True, slots=True)
class Rule:
    """An alert and the number it compares with; `models` are other numbers for GPUs whose name a pattern matches."""

    alert: Alert
    threshold: float = 0.0
    models: tuple[tuple[str, float], ...] = ()

    def threshold_for(self, gpu_name: str) -> float:
        """Give the threshold for a GPU: that of the first pattern that its name matches, else the general one."""
        own = (number for pattern, number in self.models if matches(pattern, gpu_name))
        return next(own, self.threshold)


def matches(pattern: str, text: str) -> bool:
    """Say whether a pattern of the settings or the catalogue is found in a text, in any case."""
    return re.search(pattern, text, re.IGNORECASE) is not None


def reader(kind: EntityKind, measures: tuple[Measure, ...]) -> Read:
    """Give what takes the measure from an entity's values: the first of the measures that is known, else None."""
    reads = [_reader(kind, measure) for measure in measures]
    if len(reads) == 1:
        return reads[0]

    def first(values: Values) -> float | None:
        return next((number for read in reads if (number := read(values)) is not None), None)

    return first


def _reader(kind: EntityKind, measure: Measure) -> Read:
    at = [kind.index[column] for column in measure.columns]
    less = [kind.index[column] for column in measure.less]
    whole = None if measure.of is None else kind.index[measure.of]
    if len(at) == 1 and not less and whole is None:
        return itemgetter(at[0])  # most alerts are of one column, and this is the quickest way to it

    def read(values: Values) -> float | None:
        total = 0.0
        for i in at:
            if (value := values[i]) is None:
                return None
            total += value
        for i in less:
            if (value := values[i]) is None:
                return None
            total -= value
        if whole is None:
            return total
        of = values[whole]
        return 100 * total / of if of else None

    return read


class Window:
    """Amounts of the last `seconds`, and their sum."""

    __slots__ = ("_parts", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._parts: deque[tuple[float, float]] = deque()

    def add(self, now: float, amount: float) -> None:
        """Add an amount; to the last part, while that is young."""
        if self._parts and now - self._parts[-1][0] < self._seconds / WINDOW_PARTS:
            began, before = self._parts.pop()
            self._parts.append((began, before + amount))
        else:
            self._parts.append((now, amount))

    def sum(self, now: float) -> float:
        """Give the sum of what is not older than the window; exactly 0 for nothing."""
        while self._parts and now - self._parts[0][0] >= self._seconds:
            self._parts.popleft()
        return sum(amount for _, amount in self._parts)


class Past:
    """What is remembered of each thing, to tell the increase, mean or fall of its value.

    Nearly all things are as they were nearly always, and that is found out first.
    """

    __slots__ = ("_before", "_from_zero", "_known", "_look", "_now", "_seconds", "_windows")

    def __init__(self, alert: Alert) -> None:
        self._look = alert.look
        self._seconds = alert.window_seconds
        columns = {column for measure in alert.measures for column in measure.columns}
        # What gpumon itself counts began with it, so that the first value seen is news; of what a device counts it is not.
        self._from_zero = all(c.since is Since.GPUMON for c in alert.kind.columns if c.name in columns)
        self._known: dict[Labels, float] = {}
        self._windows: dict[Labels, Window] = {}
        self._before = self._now = inf

    def take(self, labels: Labels, value: float, now: float) -> float:
        """Take a thing's value of now, and give its increase, mean or fall."""
        if now != self._now:
            self._before, self._now = self._now, now
        if self._look is Look.FALL:
            return self._fall(labels, value)
        if self._look is Look.MEAN:
            # What is read now is taken for what was since the last time, which is not longer than the window.
            amount, whole = value * min(max(now - self._before, 0.0), self._seconds), self._seconds
        else:
            amount, whole = self._growth(labels, value), 1.0
        if amount <= 0 and not self._windows:
            return 0.0
        return self._sum(labels, amount, now) / whole

    def _fall(self, labels: Labels, value: float) -> float:
        highest = self._known.get(labels)
        if highest is not None and value <= highest:
            return highest - value
        self._known[labels] = value
        return 0.0

    def _growth(self, labels: Labels, value: float) -> float:
        """Give how much a counter grew; one that shrank has begun anew."""
        last = self._known.get(labels)
        if value == last:
            return 0.0
        self._known[labels] = value
        if last is None:
            return value if self._from_zero else 0.0
        return value - last

    def _sum(self, labels: Labels, amount: float, now: float) -> float:
        window = self._windows.get(labels)
        if amount > 0:
            if window is None:
                window = self._windows[labels] = Window(self._seconds)
            window.add(now, amount)
        if window is None:
            return 0.0
        total = window.sum(now)
        if not total:
            del self._windows[labels]
        return total

    @property
    def full(self) -> bool:
        """Say whether so much is remembered that it is time to `forget`."""
        return len(self._known) > MOST_KNOWN or len(self._windows) > MOST_KNOWN

    def forget(self, but: Container[Labels]) -> None:
        """Forget all things but these."""
        self._known = {labels: value for labels, value in self._known.items() if labels in but}
        self._windows = {labels: window for labels, window in self._windows.items() if labels in but}
