"""History: readings of any time range from SQLite and, by a child process, from the archive."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace

from gpumon.catalog import EntityKind
from gpumon.store import ledger
from gpumon.store.buckets import MOST_POINTS, History, Part, assemble, width_of
from gpumon.store.child import run_child
from gpumon.store.database import read
from gpumon.store.job import Job, reading
from gpumon.store.query import Unwanted, on_thread
from gpumon.store.schema import KIND_TABLES, SPAN, KindTable, Value, seconds_of, text_of

# Longer than 90 days of 8 GPUs take; a query that does not end would hold up all after it.
CHILD_SECONDS = 60.0
QUERY_SECONDS = 30.0
# SQLite holds the rows that it groups, at 0.15 kB each, so a long range is asked for in pieces. So much time of rows,
# or of so many times as much of roll-ups, has 90,000 where there are most: 144 links of eight GPUs.
PIECE_SECONDS = 1200
ROLLED_PIECE_SECONDS = PIECE_SECONDS * 60

# SQLite's faster function is there from 3.38 on.
_EPOCH = (
    "unixepoch(m.timestamp)"
    if sqlite3.sqlite_version_info >= (3, 38)
    else "CAST(strftime('%s', m.timestamp) AS INTEGER)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which readings of which entities, from when to when, in buckets of how many seconds."""

    source: str
    columns: tuple[str, ...]
    where: dict[str, Value]
    start: float
    end: float
    width: int
    most_values: int | None = None


class TooMuchError(ValueError):
    """The answer would take more memory than whoever asks allows."""


def check_size(parts: int, question: Question) -> None:
    """Raise TooMuchError where so many parts of an answer are more than is allowed."""
    if question.most_values is not None and parts * len(question.columns) > question.most_values:
        raise TooMuchError


class Reader:
    """Answers questions about the past; never keeps the loop waiting. One query and one child process at a time.

    Who asks for what only the database has does not wait for a child. `children` is for those who share one.
    """

    def __init__(self, job: Job, children: asyncio.Semaphore | None = None) -> None:
        self._job = job
        self._queries = asyncio.Semaphore(1)
        self._children = children or asyncio.Semaphore(1)

    async def history(
        self,
        kind: EntityKind,
        columns: Sequence[str],
        start: float,
        end: float,
        *,
        points: int = 1000,
        where: Mapping[str, Value] | None = None,
        most_values: int | None = None,
    ) -> History:
        """Give average, minimum and maximum of readings between two Unix times, in at most `points` buckets.

        `where` keeps the entities with these labels. ValueError says what is wrong with the question, TooMuchError (one
        of them) that the answer has more than `most_values` values, each of which takes 0.3 kB of memory for a moment;
        sqlite3.Error says that there is no database, ChildError that the archive could not be read.
        """
        question = replace(ask(kind, columns, start, end, points=points, where=where), most_values=most_values)
        table = _table(kind)
        with ExitStack() as stack:
            async with self._queries:
                files, parts = await on_thread(lambda unwanted: self._recent(question, stack, unwanted))
            if files:
                parts += await self._past(files, question)
        return assemble(parts, table.labels, question.columns, question.width)

    def _recent(self, question: Question, stack: ExitStack, unwanted: Unwanted) -> tuple[list[str], list[Part]]:
        """Ask the database, having seen to it that no file it names is deleted before it is read."""
        stack.enter_context(reading(self._job))
        return recent(self._job, question, unwanted)

    async def _past(self, files: list[str], question: Question) -> list[Part]:
        request = json.dumps({"job": self._job.dumps(), "files": files, "question": asdict(question)})
        async with self._children:
            answer = await run_child("gpumon.store.past", request, CHILD_SECONDS)
        parts = json.loads(answer)
        if parts is None:
            raise TooMuchError
        return [(number, tuple(labels), tuple(tuple(sums) for sums in all_sums)) for number, labels, all_sums in parts]


def ask(
    kind: EntityKind,
    columns: Sequence[str],
    start: float,
    end: float,
    *,
    points: int = 1000,
    where: Mapping[str, Value] | None = None,
) -> Question:
    """Give a question that can be answered; ValueError says what is wrong with it."""
    table = _table(kind)
    unknown = [name for name in columns if name not in kind.index] + [
        name for name in where or {} if name not in table.labels
    ]
    if unknown or not columns:
        raise ValueError(
            f"{kind.name} has no {', '.join(unknown) or 'nothing'}; it has {', '.join((*table.labels, *kind.index))}"
        )
    if not 1 <= points <= MOST_POINTS:
        raise ValueError(f"points is {points}; 1 to {MOST_POINTS} are allowed")
    if not start < end:
        raise ValueError(f"the range ends at {end}, not after its start {start}")
    width = width_of(start, end, points)
    return Question(
        source=table.name,
        columns=tuple(columns),
        where=dict(where or {}),
        start=start // width * width,
        end=-(-end // width) * width,
        width=width,
    )


def _table(kind: EntityKind) -> KindTable:
    for table in KIND_TABLES:
        if table.kind is kind:
            return table
    raise ValueError(f"{kind.name} is not stored; {', '.join(table.kind.name for table in KIND_TABLES)} are")


def recent(job: Job, question: Question, unwanted: Unwanted = lambda: False) -> tuple[list[str], list[Part]]:
    """Give the archive's files for the question, and what the database answers, both of one moment."""
    table = next(table for table in KIND_TABLES if table.name == question.source)
    connection = read(job.database, QUERY_SECONDS, unwanted)
    try:
        connection.execute("BEGIN")
        start, end = text_of(question.start), text_of(question.end)
        files = [file.path for file in ledger.live(connection, table.name) if file.last >= start and file.first < end]
        if question.width % SPAN:
            return files, _sums(connection, table, question, rolled=False)
        parts = _sums(connection, table, question, rolled=True)
        for (span,) in connection.execute("SELECT start FROM open_spans WHERE source = ?", (table.name,)).fetchall():
            parts += _sums(connection, table, question, rolled=False, span=span)
        return files, parts
    finally:
        connection.close()


def _sums(
    connection: sqlite3.Connection, table: KindTable, question: Question, *, rolled: bool, span: str | None = None
) -> list[Part]:
    """Sum up rows, or roll-ups, by bucket and state; `span` is the start of the one span of rows that is meant."""
    start, end = question.start, question.end
    if span is not None:
        from_seconds = seconds_of(span)
        start, end = max(start, from_seconds), min(end, from_seconds + SPAN)
    weight = "m.samples" if rolled else "1"
    sums = ", ".join(_column_sums(table, name, weight, rolled=rolled) for name in question.columns)
    ids = {table.labels[i] for i in table.ids}  # these are in the rows too, where they keep others out sooner
    conditions = "".join(f" AND {'m' if name in ids else 's'}.{name} = ?" for name in question.where)
    query = (
        f"SELECT {_EPOCH} / {question.width}, {', '.join(f's.{name}' for name in table.labels) or 'NULL'}, {sums} "
        f"FROM {table.rollup if rolled else table.name} AS m CROSS JOIN {table.states} AS s ON s.state = m.state "
        f"WHERE m.timestamp >= ? AND m.timestamp < ?{conditions} GROUP BY 1, m.state"
    )
    labels = max(1, len(table.labels))
    parts: list[Part] = []
    for piece in _pieces(start, end, question.width, ROLLED_PIECE_SECONDS if rolled else PIECE_SECONDS):
        for row in connection.execute(query, (*map(text_of, piece), *question.where.values())):
            values = row[1 + labels :]
            each = tuple(
                (values[i], values[i + 1] or 0, values[i + 2], values[i + 3]) for i in range(0, len(values), 4)
            )
            parts.append((row[0], row[1 : 1 + len(table.labels)], each))
            check_size(len(parts), question)
    return parts


def _pieces(start: float, end: float, width: int, most: int) -> Iterator[tuple[float, float]]:
    """Give a range in pieces of `most` seconds, or less so that they are whole buckets where buckets are shorter."""
    step = most // width * width or most
    while start < end:
        yield start, min(start + step, end)
        start += step


def _column_sums(table: KindTable, name: str, weight: str, *, rolled: bool) -> str:
    if name in table.slow_names():  # one value per state, as often as it has rows
        count = f"sum(CASE WHEN s.{name} IS NOT NULL THEN {weight} END)"
        return f"sum(s.{name} * {weight}), {count}, min(s.{name}), max(s.{name})"
    if not rolled:
        return f"sum(m.{name}), count(m.{name}), min(m.{name}), max(m.{name})"
    samples = f"coalesce(m.{name}_samples, m.samples)"
    return (
        f"sum(m.{name} * {samples}), sum(CASE WHEN m.{name} IS NOT NULL THEN {samples} END), "
        f"min(m.{name}_min), max(m.{name}_max)"
    )
