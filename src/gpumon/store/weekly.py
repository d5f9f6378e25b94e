"""Weekly summaries: what each GPU did and each model served in a week, from Monday 00:00 UTC. For child processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from gpumon.catalog.records import Event, LlmSession, ProcessEvent
from gpumon.catalog.summary import CATEGORIES, HOURS, WEEK, Over
from gpumon.store.both import rows_of
from gpumon.store.database import Transaction
from gpumon.store.parquet import Place
from gpumon.store.schema import DAY, seconds_of, text_of

WEEK_SECONDS = 7 * DAY
# 1970-01-01 was a Thursday.
_MONDAY = 4 * DAY
# Two rows further apart are not one stretch of observed time; `service.poll_interval_secs` is 300 at most.
GAP_SECONDS = 310.0
# A process that runs since longer ago than this has no start that is still looked for.
LONGEST_PROCESS_SECONDS = 30 * DAY


def week_of(time: float) -> float:
    """Give the start of the week a Unix time lies in."""
    return (time - _MONDAY) // WEEK_SECONDS * WEEK_SECONDS + _MONDAY


@dataclass(slots=True)
class GpuWeek:
    """One GPU's week, added up row by row."""

    gpu_id: int | None = None
    observed: float = 0.0
    last: float | None = None
    columns: list[ColumnWeek] = field(default_factory=lambda: [ColumnWeek(column.over) for column in WEEK])

    def add(self, time: float, readings: Sequence[Sequence[float | None]]) -> None:
        """Take a row's readings, for each column of the summary those of its columns."""
        since = time - self.last if self.last is not None else 0.0
        seconds = since if 0 < since <= GAP_SECONDS else 0.0
        self.last = time
        self.observed += seconds
        for column, values in zip(self.columns, readings, strict=True):
            column.add(values, seconds)


@dataclass(slots=True)
class ColumnWeek:
    """One number of a GPU's week; None while there was no reading for it."""

    over: Over
    total: float | None = None
    previous: list[float | None] = field(default_factory=list)

    def add(self, values: Sequence[float | None], seconds: float) -> None:
        """Take a row's readings, `seconds` after the one before."""
        if self.over is Over.TIME:
            # The earlier row says what was so until this one.
            if any(value is not None for value in values):
                was_so = any(self.previous)
                self.total = (self.total or 0.0) + (seconds if was_so else 0.0)
                self.previous = list(values)
            return
        value = next((value for value in values if value is not None), None)
        if value is None:
            return
        if self.over is Over.GREATEST:
            self.total = value if self.total is None else max(self.total, value)
        else:
            before = self.previous[0] if self.previous else None
            grown = 0.0 if before is None else (value - before if value >= before else value)
            self.total = (self.total or 0.0) + grown
            self.previous = [value]


def summarize(connection: sqlite3.Connection, place: Place, start: float) -> int:
    """Write the summaries of the week that begins at `start` anew; gives how many there are."""
    first, last = text_of(start), text_of(start + WEEK_SECONDS)
    common = {"week_start": first, "week_end": last}
    rows = [common | row for row in (*_gpus(connection, place, first, last), *_models(connection, place, first, last))]
    with Transaction(connection):
        connection.execute("DELETE FROM weekly_summaries WHERE week_start = ?", (first,))
        for row in rows:
            names = ", ".join(row)
            query = f"INSERT INTO weekly_summaries ({names}) VALUES ({', '.join('?' * len(row))})"
            connection.execute(query, tuple(row.values()))
    return len(rows)


def close_weeks(connection: sqlite3.Connection, place: Place, now: float) -> int:
    """Summarize the last week that is over, if that was not done; gives how many summaries were written."""
    start = week_of(now) - WEEK_SECONDS
    done = connection.execute("SELECT 1 FROM weekly_summaries WHERE week_start = ?", (text_of(start),)).fetchone()
    return 0 if done else summarize(connection, place, start)


def _gpus(connection: sqlite3.Connection, place: Place, first: str, last: str) -> Iterator[dict[str, Any]]:
    (kind,) = {column.kind for column in WEEK}
    assert kind.table is not None
    wanted = list(dict.fromkeys(name for column in WEEK for name in column.columns))
    weeks: dict[str, GpuWeek] = {}
    for rows in _dicts(rows_of(connection, place, kind.table, first, last, ("gpu_uuid", "gpu_id", *wanted))):
        groups = [list(zip(*(rows[name] for name in column.columns), strict=True)) for column in WEEK]
        for i, (time, uuid) in enumerate(zip(rows["timestamp"], rows["gpu_uuid"], strict=True)):
            week = weeks.get(uuid)
            if week is None:
                week = weeks[uuid] = GpuWeek(gpu_id=rows["gpu_id"][i])
            week.add(time / 1000, [group[i] for group in groups])
    xids = _xids(connection, place, first, last)
    hours = _hours(connection, place, first, last)
    for uuid, week in weeks.items():
        totals = {
            column.name: None if part.total is None else part.total * column.scale
            for column, part in zip(WEEK, week.columns, strict=True)
        }
        yield {
            "subject": "gpu",
            "name": uuid,
            "gpu_id": week.gpu_id,
            "hours_observed": week.observed * HOURS,
            **totals,
            "xid_errors": xids.get(uuid, 0),
            **{f"hours_{category}": hours.get((uuid, category), 0.0) * HOURS for category in CATEGORIES},
        }


def _xids(connection: sqlite3.Connection, place: Place, first: str, last: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for rows in _dicts(rows_of(connection, place, Event.table, first, last, ("kind", "gpu_uuid"))):
        for kind, uuid in zip(rows["kind"], rows["gpu_uuid"], strict=True):
            if kind == "xid" and uuid is not None:
                found[uuid] = found.get(uuid, 0) + 1
    return found


def _hours(connection: sqlite3.Connection, place: Place, first: str, last: str) -> dict[tuple[str, str], float]:
    """Give the seconds in which a category had at least one process on a GPU."""
    start, end = seconds_of(first), seconds_of(last)
    since = text_of(start - LONGEST_PROCESS_SECONDS)
    running: dict[tuple[int, str], tuple[float, str]] = {}
    stretches: dict[tuple[str, str], list[tuple[float, float]]] = {}
    columns = ("event", "pid", "category", "gpu_uuid", "duration_seconds")
    events = [
        event
        for rows in _dicts(rows_of(connection, place, ProcessEvent.table, since, last, columns))
        for event in zip(rows["timestamp"], *(rows[name] for name in columns), strict=True)
    ]
    for milliseconds, event, pid, category, uuid, duration in sorted(events, key=lambda event: event[0]):
        time = milliseconds / 1000
        begun = running.pop((pid, uuid), None)
        if begun is None and event == "end" and duration:
            begun = (time - duration, category)  # remembered by the driver alone
        if begun is not None:
            stretches.setdefault((uuid, begun[1]), []).append((begun[0], time))
        if event != "end":
            running[pid, uuid] = (time, category)
    for (_, uuid), (began, category) in running.items():
        stretches.setdefault((uuid, category), []).append((began, end))
    return {key: _covered(parts, start, end) for key, parts in stretches.items()}


def _covered(parts: Iterable[tuple[float, float]], start: float, end: float) -> float:
    """Give how many seconds between `start` and `end` lie in at least one of the parts."""
    total, reached = 0.0, start
    for began, ended in sorted(parts):
        lower, upper = max(began, reached), min(ended, end)
        if upper > lower:
            total += upper - lower
            reached = upper
    return total


def _models(connection: sqlite3.Connection, place: Place, first: str, last: str) -> Iterator[dict[str, Any]]:
    sums = ("prompt_tokens", "completion_tokens", "total_tokens")
    models: dict[str, dict[str, Any]] = {}
    waits: dict[str, list[float]] = {}
    columns = ("model", *sums, "time_to_first_token_ms")
    for rows in _dicts(rows_of(connection, place, LlmSession.table, first, last, columns)):
        for model, *tokens, wait in zip(*(rows[name] for name in columns), strict=True):
            row = models.setdefault(model, {"subject": "model", "name": model, "sessions": 0} | dict.fromkeys(sums, 0))
            row["sessions"] += 1
            for name, value in zip(sums, tokens, strict=True):
                row[name] += value or 0
            if wait is not None:
                waits.setdefault(model, []).append(wait)
    for model, row in models.items():
        ordered = sorted(waits.get(model, []))
        yield row | {
            "median_time_to_first_token_ms": _percentile(ordered, 0.5),
            "p95_time_to_first_token_ms": _percentile(ordered, 0.95),
        }


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    """Give the least value that at least this share of the values do not exceed."""
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else None


def _dicts(tables: Iterable[pa.Table]) -> Iterator[dict[str, list[Any]]]:
    """Give tables as lists by column, the time in milliseconds."""
    for rows in tables:
        yield rows.set_column(0, rows.column_names[0], rows.column(0).cast(pa.int64())).to_pydict()
