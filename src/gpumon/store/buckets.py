"""What history is made of: sums over spans of time that can be added up, wherever they come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gpumon.store.schema import SPAN, Value

# A chart has no more pixels; an answer of this many points for 8 GPUs and 4 readings is 5 MB of JSON.
MOST_POINTS = 5000

# Seconds summed up in one row of the archive's roll-ups: 90 days are 13,000 of each GPU, a twentieth of the archive.
ARCHIVE_SPAN = 600

Sums = tuple[float | None, int, float | None, float | None]  # sum, how many, least, greatest
Part = tuple[int, tuple[Value, ...], tuple[Sums, ...]]  # number of the bucket, labels, sums of each column


@dataclass(frozen=True, slots=True)
class Bucket:
    """One reading in one span of time; all None where there was none."""

    average: float | None
    minimum: float | None
    maximum: float | None


@dataclass(frozen=True, slots=True)
class Series:
    """The history of one entity: start of each bucket as Unix seconds, and for each column its buckets."""

    labels: dict[str, Value]
    times: tuple[float, ...]
    columns: dict[str, tuple[Bucket, ...]]


@dataclass(frozen=True, slots=True)
class History:
    """Readings of a time range; buckets start at multiples of `width` seconds: the outer ones may reach beyond it."""

    width: int
    series: tuple[Series, ...]


def width_of(start: float, end: float, points: int) -> int:
    """Give the least width in seconds with at most so many buckets, one that the roll-ups can serve where it can be."""
    width = max(1, math.ceil((end - start) / max(1, points - 1)))  # one more for the outer ones
    for step in (ARCHIVE_SPAN, SPAN):
        if width >= step:
            return -(-width // step) * step
    return width


def assemble(parts: Iterable[Part], labels: Sequence[str], columns: Sequence[str], width: int) -> History:
    """Add up parts of the same bucket and entity, and order them."""
    found: dict[tuple[Value, ...], dict[int, list[Sums]]] = {}
    for number, names, sums in parts:
        buckets = found.setdefault(names, {})
        known = buckets.get(number)
        buckets[number] = list(sums) if known is None else [_add(a, b) for a, b in zip(known, sums, strict=True)]
    series = []
    for names in sorted(found, key=lambda names: [(value is None, str(value).rjust(8)) for value in names]):
        buckets = dict(sorted(found[names].items()))
        series.append(
            Series(
                labels=dict(zip(labels, names, strict=True)),
                times=tuple(float(number * width) for number in buckets),
                columns={name: tuple(_bucket(sums[i]) for sums in buckets.values()) for i, name in enumerate(columns)},
            )
        )
    return History(width, tuple(series))


def _add(a: Sums, b: Sums) -> Sums:
    if not a[1] or not b[1]:
        return a if a[1] else b
    return (a[0] or 0.0) + (b[0] or 0.0), a[1] + b[1], _chosen(a[2], b[2], min), _chosen(a[3], b[3], max)


def _chosen(a: float | None, b: float | None, choose: Callable[[float, float], float]) -> float | None:
    return choose(a, b) if a is not None and b is not None else (b if a is None else a)


def _bucket(sums: Sums) -> Bucket:
    total, count, least, greatest = sums
    return Bucket(None if not count or total is None else total / count, least, greatest)
