"""The ledger of the archive in the database: which files belong to it.

A row is in exactly one place: in its table, or in a file that the ledger calls live. One transaction moves it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gpumon.store.database import Transaction
from gpumon.store.schema import HOUR, KIND_TABLES, SPAN, TABLES, KindTable, Value, floor, seconds_of, text_of

_KINDS = {table.name: table for table in KIND_TABLES}


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of the archive; `first` and `last` are the times of its first and last row, as stored."""

    path: str
    source: str
    date: str
    first: str
    last: str
    rows: int
    bytes: int


Row = tuple[str, tuple[Value, ...]]  # the time of a row, and its key


def live(connection: sqlite3.Connection, source: str | None = None) -> list[Listed]:
    """Give the files of the archive, of one table or of all, in order of time."""
    query = "SELECT path, source, date, first, last, rows, bytes FROM archive_files WHERE state = 'live'"
    order = " ORDER BY first, path"
    if source is None:
        return [Listed(*row) for row in connection.execute(query + order)]
    return [Listed(*row) for row in connection.execute(f"{query} AND source = ?{order}", (source,))]


def doomed(connection: sqlite3.Connection) -> list[str]:
    """Give the paths of files that are to be deleted."""
    return [row[0] for row in connection.execute("SELECT path FROM archive_files WHERE state = 'doomed'")]


def move(connection: sqlite3.Connection, file: Listed, keys: Callable[[], Iterable[Row]], *, fresh: bool) -> None:
    """List a file and take its rows, named by `keys`, out of their table, in one transaction.

    `fresh`: the rows were read from the table by this process, which alone deletes rows.
    """
    with Transaction(connection):
        _forget(connection, file, keys, fresh=fresh)
        _list(connection, file)


def swap(connection: sqlite3.Connection, new: Listed, old: Sequence[Listed]) -> None:
    """List a file in place of those whose rows it took over, in one transaction."""
    with Transaction(connection):
        _list(connection, new)
        _doom(connection, [file.path for file in old])


def doom(connection: sqlite3.Connection, paths: Sequence[str]) -> None:
    """Take files out of the archive; they are deleted when nobody reads them."""
    with Transaction(connection):
        _doom(connection, paths)


def strike(connection: sqlite3.Connection, paths: Iterable[str]) -> None:
    """Forget files that are gone."""
    with Transaction(connection):
        connection.executemany("DELETE FROM archive_files WHERE path = ?", [(path,) for path in paths])


def _list(connection: sqlite3.Connection, file: Listed) -> None:
    values = (file.path, file.source, file.date, file.first, file.last, file.rows, file.bytes)
    connection.execute("INSERT OR REPLACE INTO archive_files VALUES (?, ?, ?, ?, ?, ?, ?, 'live')", values)


def _doom(connection: sqlite3.Connection, paths: Sequence[str]) -> None:
    connection.executemany("UPDATE archive_files SET state = 'doomed' WHERE path = ?", [(path,) for path in paths])


def _forget(connection: sqlite3.Connection, file: Listed, keys: Callable[[], Iterable[Row]], *, fresh: bool) -> None:
    """Delete exactly the rows that the file holds; rows of the same hours that came later stay."""
    time, kind = TABLES[file.source].time, _KINDS.get(file.source)
    within = f"{time} >= ? AND {time} <= ?"
    span = (file.first, file.last)
    count = connection.execute(f"SELECT count(*) FROM {file.source} WHERE {within}", span).fetchone()[0]
    if fresh and count == file.rows:  # rows are only ever added, so these are the same
        connection.execute(f"DELETE FROM {file.source} WHERE {within}", span)
    elif count:
        handle = "state" if kind else "id"
        found = connection.execute(f"SELECT {time}, {handle} FROM {file.source} WHERE {within}", span).fetchall()
        held = set(keys())
        identity = _identities(connection, kind) if kind else {}
        unknown = (None,) * len(kind.labels) if kind else ()
        there = [row for row in found if (row[0], identity.get(row[1], unknown) if kind else row[1:]) in held]
        connection.executemany(f"DELETE FROM {file.source} WHERE {time} = ? AND {handle} = ?", there)
    if kind:
        renew_rollups(connection, kind, file.first, file.last)


def _identities(connection: sqlite3.Connection, kind: KindTable) -> dict[int, tuple[Value, ...]]:
    rows = connection.execute(f"SELECT {', '.join(('state', *kind.labels))} FROM {kind.states}")
    return {row[0]: row[1:] for row in rows}


def renew_rollups(connection: sqlite3.Connection, kind: KindTable, first: str, last: str) -> None:
    """After rows between two times were deleted: drop their roll-ups, and open the spans that still have rows."""
    start, end = floor(first, SPAN), text_of(seconds_of(floor(last, SPAN)) + SPAN)
    span = (start, end)
    connection.execute(f"DELETE FROM {kind.rollup} WHERE timestamp >= ? AND timestamp < ?", span)
    left = connection.execute(
        f"SELECT DISTINCT timestamp FROM {kind.name} WHERE timestamp >= ? AND timestamp < ?", span
    )
    spans = {floor(row[0], SPAN) for row in left.fetchall()}
    connection.executemany("INSERT OR IGNORE INTO open_spans VALUES (?, ?)", [(kind.name, span) for span in spans])
    # A row's time is always before its state's `until`, so no row that is left names these.
    oldest = connection.execute(f"SELECT min(timestamp) FROM {kind.name}").fetchone()[0] or end
    connection.execute(f"DELETE FROM {kind.states} WHERE until <= ?", (oldest,))


def delete_before(connection: sqlite3.Connection, source: str, cutoff: str) -> int:
    """Delete a table's rows before a time, an hour per transaction; gives how many."""
    table = TABLES[source]
    kind = _KINDS.get(source)
    deleted = 0
    while (hour := oldest_hour(connection, source, cutoff)) is not None:
        end = min(text_of(seconds_of(hour) + HOUR), cutoff)
        with Transaction(connection):
            span = (hour, end)
            query = f"DELETE FROM {source} WHERE {table.time} >= ? AND {table.time} < ?"
            deleted += connection.execute(query, span).rowcount
            if kind:
                renew_rollups(connection, kind, hour, text_of(seconds_of(end) - 0.001))
    return deleted


def oldest_hour(connection: sqlite3.Connection, source: str, cutoff: str, start: str = "") -> str | None:
    """Give the hour of a table's oldest row from `start` on that is before `cutoff`; None where there is none."""
    time = TABLES[source].time
    query = f"SELECT min({time}) FROM {source} WHERE {time} >= ? AND {time} < ?"
    oldest = connection.execute(query, (start, cutoff)).fetchone()[0]
    return None if oldest is None else floor(oldest, HOUR)
