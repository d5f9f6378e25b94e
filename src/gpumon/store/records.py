"""What happened, newest first: records of any time from SQLite and, by a child process, from the archive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from gpumon.store import ledger
from gpumon.store.child import run_child
from gpumon.store.database import read
from gpumon.store.job import Job, reading
from gpumon.store.query import Unwanted, on_thread
from gpumon.store.schema import TABLES, Value

# A row as it is stored, by column; times are texts.
Row = dict[str, Value]

# Longer than a scan of millions of rows takes.
QUERY_SECONDS = 20.0
CHILD_SECONDS = 30.0

# Weeks stay in the database for good.
_WEEKS = """SELECT * FROM weekly_summaries WHERE week_start >= ? AND week_start < ?
    ORDER BY week_start DESC, subject, name LIMIT ?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which rows of a record's table: from `start` to before `end`, newest first, at most `limit` of them.

    Times are texts as stored. `where` keeps rows with these values. `before` is the time and id of a row:
    of its time, only rows with a lower id follow.
    """

    source: str
    start: str
    end: str
    limit: int
    where: Mapping[str, Value]
    before: tuple[str, int] | None = None

    @property
    def last(self) -> str:
        """Give the time after which there is nothing that is asked for."""
        return self.end if self.before is None else min(self.end, self.before[0])


class Records:
    """Reads records; never keeps the loop waiting. One query and one child process at a time, as in history.

    `children` is for those who share one.
    """

    def __init__(self, job: Job, children: asyncio.Semaphore | None = None) -> None:
        self._job = job
        self._queries = asyncio.Semaphore(1)
        self._children = children or asyncio.Semaphore(1)

    async def page(self, page: Page) -> list[Row]:
        """Give rows, newest first. Raises sqlite3.Error where there is no database, ChildError for the archive."""
        with ExitStack() as stack:
            async with self._queries:
                rows, files = await on_thread(lambda unwanted: self._recent(page, stack, unwanted))
            if files:
                request = json.dumps({"job": self._job.dumps(), "files": files, "page": asdict(page)})
                async with self._children:
                    rows += json.loads(await run_child("gpumon.store.pastrecords", request, CHILD_SECONDS))
        return newest(rows, page)

    async def weeks(self, start: str, end: str, limit: int) -> list[Row]:
        """Give the summaries of weeks that began in a span, newest first. Raises sqlite3.Error."""
        async with self._queries:
            return await on_thread(lambda unwanted: self._weeks((start, end, limit), unwanted))

    def _recent(self, page: Page, stack: ExitStack, unwanted: Unwanted) -> tuple[list[Row], list[str]]:
        """Ask the database, having seen to it that no file it names is deleted before it is read."""
        stack.enter_context(reading(self._job))
        return recent(self._job, page, unwanted)

    def _weeks(self, values: Sequence[Value], unwanted: Unwanted) -> list[Row]:
        connection = read(self._job.database, QUERY_SECONDS, unwanted)
        try:
            cursor = connection.execute(_WEEKS, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]
        finally:
            connection.close()


def newest(rows: Sequence[Row], page: Page) -> list[Row]:
    """Give the newest of some rows, in order, as many as are asked for."""
    time = TABLES[page.source].time
    return sorted(rows, key=lambda row: (row[time], row["id"]), reverse=True)[: page.limit]


def recent(job: Job, page: Page, unwanted: Unwanted = lambda: False) -> tuple[list[Row], list[str]]:
    """Give what the database holds, and the archive's files that may hold more; both of one moment."""
    table = TABLES[page.source]
    conditions = [f"{table.time} >= ?", f"{table.time} < ?", *(f"{name} = ?" for name in page.where)]
    given: list[Value] = [page.start, page.end, *page.where.values()]
    if page.before is not None:
        conditions.append(f"({table.time}, id) < (?, ?)")
        given += page.before
    names = table.names()
    query = (
        f"SELECT {', '.join(names)} FROM {page.source} WHERE {' AND '.join(conditions)} "
        f"ORDER BY {table.time} DESC, id DESC LIMIT ?"
    )
    connection = read(job.database, QUERY_SECONDS, unwanted)
    try:
        connection.execute("BEGIN")
        rows = [dict(zip(names, row, strict=True)) for row in connection.execute(query, (*given, page.limit))]
        # A page that is full needs only what is newer than its last row.
        oldest = str(rows[-1][table.time]) if len(rows) == page.limit else page.start
        live = ledger.live(connection, page.source)
        return rows, [file.path for file in live if file.last >= oldest and file.first <= page.last]
    finally:
        connection.close()
