"""Counters and histograms as what only grows: since when, what was added, and when one began anew."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from gpumon.catalog import Histogram

Value = TypeVar("Value", float, Histogram)


@dataclass(frozen=True, slots=True)
class Arithmetic(Generic[Value]):
    """How values that only grow are reckoned with: none counted yet, whether one began anew, and what was added."""

    nothing: Callable[[Value], Value]
    is_new: Callable[[Value, Value], bool]  # of the value before, and now
    difference: Callable[[Value, Value], Value]  # of the value now, and before


@dataclass(slots=True)
class Count(Generic[Value]):
    """What is known of one counter or histogram: since when it counts, what it was when last seen and last delivered."""

    start: int
    seen_at: int
    seen: Value
    delivered_at: int
    delivered: Value

    def deliver(self) -> None:
        """Let the next difference begin where it is now."""
        self.delivered_at, self.delivered = self.seen_at, self.seen


def _nothing(histogram: Histogram) -> Histogram:
    """Give a histogram with the same buckets and nothing in them."""
    return Histogram(histogram.bounds, (0.0,) * len(histogram.counts), 0.0)


def _is_new(before: Histogram, now: Histogram) -> bool:
    """Say whether it began anew: its buckets are others, or one of them lost something.

    The sum alone says nothing: it may fall where something below 0 is observed, and by rounding.
    """
    if before.counts == now.counts and before.bounds == now.bounds:
        return False  # of most histograms, nothing was observed since the last export
    return before.bounds != now.bounds or any(was > some for was, some in zip(before.counts, now.counts, strict=True))


def _difference(now: Histogram, before: Histogram) -> Histogram:
    """Give what was observed since; both have the same buckets."""
    counts = tuple(some - was for some, was in zip(now.counts, before.counts, strict=True))
    return Histogram(now.bounds, counts, now.sum - before.sum)


NUMBERS: Arithmetic[float] = Arithmetic(lambda _: 0.0, operator.gt, operator.sub)
HISTOGRAMS = Arithmetic(_nothing, _is_new, _difference)
