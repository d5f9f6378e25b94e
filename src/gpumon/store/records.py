"""What happened, newest first: records and weekly summaries of any time, some at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpumon.store.database import read
from gpumon.store.job import Job
from gpumon.store.schema import TABLES, Value

# A row as it is stored, by column; times are texts.
Row = dict[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which rows of a record's table: from `start` to before `end`, newest first, `limit` of them at most.

    Times are texts as stored. `where` keeps rows with these values. `before` is the time and id of a row:
    rows of its time and with that id or a greater one are left out as well.
    """

    source: str
    start: str
    end: str
    limit: int
    where: Mapping[str, Value]
    before: tuple[str, int] | None = None


class Records:
    """Reads records off the loop, one question at a time."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._turn = asyncio.Semaphore(1)

    async def page(self, page: Page) -> list[Row]:
        """Give rows, newest first. sqlite3.Error: there is no database, or it cannot be read."""
        async with self._turn:
            return await asyncio.to_thread(recent, self._job, page)

    async def weeks(self, start: str, end: str, limit: int) -> list[Row]:
        """Give the rows of weekly summaries of weeks that began in a span, newest first. sqlite3.Error as in `page`."""
        query = "SELECT * FROM weekly_summaries WHERE week_start >= ? AND week_start < ? ORDER BY week_start DESC, subject, name LIMIT ?"
        async with self._turn:
            return await asyncio.to_thread(_fetch, self._job, query, (start, end, limit))


def recent(job: Job, page: Page) -> list[Row]:
    """Give the rows that the database holds."""
    table = TABLES[page.source]
    conditions, values = [f"{table.time} >= ?", f"{table.time} < ?"], [page.start, page.end]
    given: list[Value] = [*values]
    for name, value in page.where.items():
        conditions.append(f"{name} = ?")
        given.append(value)
    if page.before is not None:
        conditions.append(f"({table.time}, id) < (?, ?)")
        given += page.before
    query = (
        f"SELECT {', '.join(table.names())} FROM {page.source} WHERE {' AND '.join(conditions)} "
        f"ORDER BY {table.time} DESC, id DESC LIMIT ?"
    )
    return _fetch(job, query, (*given, page.limit))


def _fetch(job: Job, query: str, values: Sequence[Value]) -> list[Row]:
    connection = read(job.database)
    try:
        cursor = connection.execute(query, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]
    finally:
        connection.close()
