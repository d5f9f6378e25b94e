"""Readings of the past: for scripts by entity and bucket, for charts by column."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from gpumon.catalog import GPU, KINDS, EntityKind
from gpumon.export.exposition import STALE_TICKS
from gpumon.store.buckets import History, Series
from gpumon.store.child import ChildError
from gpumon.store.history import Reader, TooMuchError
from gpumon.store.schema import Value
from gpumon.web.api.answer import Content, document
from gpumon.web.api.query import BadRequestError, Moment, Names, Number, Text, parameter
from gpumon.web.api.snapshots import plain
from gpumon.web.api.times import iso

HOUR = 3600.0
GPU_LABEL = GPU.labels[0].name
PARTS = ("average", "minimum", "maximum")
# The kinds of which there is history, by name.
STORED = {kind.name: kind for kind in KINDS if kind.table is not None}
MOST_COLUMNS = 20
# Points times columns: an answer for eight GPUs is 2 MB at most, and takes 20 MB while it is made.
MOST_VALUES = 5000
# Of all entities together: 30 MB while the answer is made. More than 16 GPUs or 100 pods need.
MOST_ANSWER = 100_000
# A chart is some hundred pixels wide, and an hour has then a point every 10 s; what scripts get is longer to write.
CHART_POINTS, HISTORY_POINTS = 400, 120


class UnavailableError(Exception):
    """The past cannot be told now; the message says why."""


@contextmanager
def telling_why() -> Iterator[None]:
    """Turn what the store cannot do now into UnavailableError."""
    try:
        yield
    except sqlite3.Error as error:
        raise UnavailableError(f"history cannot be read: {error}") from None
    except ChildError as error:
        raise UnavailableError(f"the archive cannot be read: {error}") from None


HOURS = Number(0.01, 100_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A span of time: the last hours, or from a start to an end, which is now where it is left out."""

    hours: float | None = parameter(None, HOURS, "The last so many hours; 1 where no start is given.", example=1)
    start: float | None = parameter(None, Moment(), "Start, instead of hours.", example="2026-01-31T12:00:00Z")
    end: float | None = parameter(None, Moment(), "End; now where it is left out.", example="2026-01-31T13:00:00Z")

    def span(self, now: float, longest_days: float, hours: float = 1.0) -> tuple[float, float]:
        """Give start and end as Unix seconds. BadRequestError where they are no span, or one that is too long."""
        if self.hours is not None and self.start is not None:
            raise BadRequestError("hours and start are both given: allowed is one of them")
        end = now if self.end is None else self.end
        start = self.start if self.start is not None else end - (hours if self.hours is None else self.hours) * HOUR
        return checked(start, end, longest_days)


def checked(start: float, end: float, longest_days: float) -> tuple[float, float]:
    """Give a span that may be asked about. BadRequestError where it may not."""
    start = max(start, 0.0)  # the first time that can be stored
    if not start < end:
        raise BadRequestError(f"start is {iso(start)}: allowed is a time before the end, {iso(end)}")
    if end - start > longest_days * 24 * HOUR + 1:
        raise BadRequestError(
            f"hours (or start to end) span {(end - start) / 24 / HOUR:.1f} days: allowed are {longest_days:g}"
        )
    return start, end


_COLUMNS = Names(MOST_COLUMNS, f"up to {MOST_COLUMNS} names of columns of that kind, with commas between them")
_POINTS = Number(1, MOST_VALUES, whole=True)
_GPU = Number(0, 255, whole=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryQuery(Range):
    """Which readings of which entities."""

    kind: str = parameter(GPU.name, Text(choices=tuple(STORED)), "Kind of entity.", example=GPU.name)
    columns: tuple[str, ...] | None = parameter(None, _COLUMNS, "Readings, by column; the usual ones where left out.")
    gpu_id: int | None = parameter(None, _GPU, "Only of the GPU with this index.", example=0)
    points: int | None = parameter(None, _POINTS, f"Most points per entity; {HISTORY_POINTS} where left out.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartQuery(Range):
    """Which readings of one GPU."""

    gpu_id: int = parameter(0, _GPU, "Index of the GPU.", example=0)
    columns: tuple[str, ...] | None = parameter(None, _COLUMNS, "Readings, by column; the usual ones where left out.")
    points: int | None = parameter(
        None, _POINTS, f"Most points; {CHART_POINTS} where left out, or what so many columns allow."
    )


def usual(kind: EntityKind) -> tuple[str, ...]:
    """Give the columns that are meant where none is named: those with a name people know, else the first ones."""
    named = tuple(column.name for column in kind.columns if column.reading.column)
    return named or tuple(kind.index)[:5]


class Past:
    """Answers about readings of the past from the store. `interval` is that of the ticks."""

    def __init__(self, reader: Reader, longest_days: float, interval: float) -> None:
        self._reader = reader
        self._longest_days = longest_days
        self._interval = interval

    async def history(self, query: HistoryQuery, now: float) -> Content:
        """Give readings by entity and bucket."""
        kind = STORED[query.kind]
        start, end = query.span(now, self._longest_days)
        columns = query.columns or usual(kind)
        found = await self._ask(kind, columns, start, end, query.points or HISTORY_POINTS, query.gpu_id)
        whole = {"kind": kind.name, "start": iso(start), "end": iso(end), "step_seconds": found.width}
        return await asyncio.to_thread(_written, whole, found)

    async def chart(self, query: ChartQuery, now: float) -> Content:
        """Give one GPU's readings as columns of numbers, for plotting."""
        start, end = query.span(now, self._longest_days)
        columns = query.columns or usual(GPU)
        points = query.points or min(CHART_POINTS, MOST_VALUES // len(columns))
        found = await self._ask(GPU, columns, start, end, points, query.gpu_id)
        gap = STALE_TICKS * max(found.width, self._interval)
        head: dict[str, object] = {"gpu_id": query.gpu_id, "step_seconds": found.width}
        return await asyncio.to_thread(_drawn, head, found, columns, gap)

    async def _ask(
        self, kind: EntityKind, columns: tuple[str, ...], start: float, end: float, points: int, gpu_id: int | None
    ) -> History:
        """Ask the store. BadRequestError: the question is wrong; UnavailableError: it cannot be answered now."""
        unknown = [name for name in columns if name not in kind.index]
        if unknown:
            raise BadRequestError(f"columns has {unknown[0]}: allowed for {kind.name} are {', '.join(kind.index)}")
        if gpu_id is not None and all(label.name != GPU_LABEL for label in kind.labels):
            raise BadRequestError(f"gpu_id is given: allowed is none for {kind.name}, which is not of a GPU")
        if points * len(columns) > MOST_VALUES:
            most = MOST_VALUES // len(columns)
            raise BadRequestError(f"points is {points}: allowed are 1 to {most} with {len(columns)} columns")
        where: dict[str, Value] = {} if gpu_id is None else {GPU_LABEL: gpu_id}
        try:
            with telling_why():
                return await self._reader.history(
                    kind, columns, start, end, points=points, where=where, most_values=MOST_ANSWER
                )
        except TooMuchError:
            few = f"allowed is what gives {MOST_ANSWER} values or fewer in all"
            raise BadRequestError(f"points is {points}, for too many entities of {kind.name}: {few}") from None


def _written(head: dict[str, object], found: History) -> Content:
    """Write a history series by series, because all of its points as objects would take ten times as much memory."""
    text = document(head | {"series": []}).data[: -len("]}")]
    return Content(text + b",".join(document(_series(each)).data for each in found.series) + b"]}")


def _series(series: Series) -> dict[str, object]:
    points = []
    for i, time in enumerate(series.times):
        point: dict[str, object] = {"time": iso(time)}
        for name, buckets in series.columns.items():
            if buckets[i].average is not None:
                point[name] = {part: _number(getattr(buckets[i], part)) for part in PARTS}
        points.append(point)
    return {"labels": series.labels, "points": points}


def _drawn(head: dict[str, object], found: History, columns: Iterable[str], gap: float) -> Content:
    """Write a chart, column by column as in `_written`.

    After a reading that has none within `gap` seconds comes a time without readings, so that no line bridges it.
    A GPU that was exchanged has another UUID, so there may be several series; they are one line.
    """
    times = sorted({time for series in found.series for time in series.times})
    ends = [time + found.width for time, following in pairwise(times) if following - time > gap]
    times = sorted([*times, *ends])
    place = {time: i for i, time in enumerate(times)}
    text = document(head | {"times": [int(time) for time in times], "series": {}}).data[: -len("}}")]
    lines = (b'"%b":%b' % (name.encode(), document(_line(found, name, place)).data) for name in columns)
    return Content(text + b",".join(lines) + b"}}")


def _line(found: History, column: str, place: Mapping[float, int]) -> dict[str, list[float | None]]:
    line: dict[str, list[float | None]] = {part: [None] * len(place) for part in PARTS}
    for series in found.series:
        for time, bucket in zip(series.times, series.columns[column], strict=True):
            if bucket.average is not None:
                for part in PARTS:
                    line[part][place[time]] = _number(getattr(bucket, part))
    return line


def _number(value: float | None) -> float | None:
    """Give a mean in as many digits as mean something: those of bytes of a GPU's memory are twelve."""
    return None if value is None else plain(float(f"{value:.12g}"))
