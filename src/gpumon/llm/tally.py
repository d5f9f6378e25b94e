"""Counters of things that come and go, added up so that what was counted stays counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping

Counts = Mapping[str, float]


class Tally:
    """Adds up the counters of children under the name of what they are children of."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, ...], dict[str, float]] = {}
        self._last: dict[Hashable, dict[str, float]] = defaultdict(dict)

    def add(self, key: tuple[str, ...], child: Hashable, counts: Counts) -> None:
        """Take what a child counts now: what it has more than last time, or all of it after it began anew."""
        last, totals = self._last[child], self._totals.setdefault(key, defaultdict(float))
        for name, count in counts.items():
            before = last.get(name, 0.0)
            totals[name] += count - before if count >= before else count
            last[name] = count

    def keep(self, children: set[Hashable]) -> None:
        """Forget the children that are gone; what they counted stays."""
        for child in self._last.keys() - children:
            del self._last[child]

    def totals(self) -> Mapping[tuple[str, ...], Counts]:
        """Give what was counted under each key."""
        return self._totals
