"""What can still be read of a corrupt database, moved into the new one; part of the archive's child process.

Ranges of keys are read whole where that works, and by ever smaller halves where it does not, down to a minute of rows
or to one record. Each range and the note that it was moved are one transaction, so that a kill moves nothing twice.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from gpumon.store.database import Transaction
from gpumon.store.schema import (
    DAY,
    HOUR,
    KIND_TABLES,
    RECORD_TABLES,
    SPAN,
    KindTable,
    RecordTable,
    Value,
    floor,
    seconds_of,
    text_of,
)

Row = tuple[Value, ...]

# A range of rows that cannot be read is halved until it is this long.
LEAST_SECONDS = 60.0
# What is read and moved at once.
STEP_SECONDS = 1 * HOUR
STEP_RECORDS = 1024


def pending(connection: sqlite3.Connection, database: Path) -> list[Path]:
    """Give the databases that were set aside and are not moved over yet."""
    done = {row[0] for row in connection.execute("SELECT file FROM salvaged WHERE source = ''")}
    aside = database.parent.glob(f"{database.name}.corrupt-*")
    return sorted(
        path for path in aside if path.name not in done and not path.name.endswith(("-wal", "-shm", "-journal"))
    )


def salvage(connection: sqlite3.Connection, aside: Path, now: float, retention_days: float) -> dict[str, int]:
    """Move over what can be read; gives the rows by table."""
    old = sqlite3.connect(f"{aside.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    moved: dict[str, int] = {}
    try:
        for kind in KIND_TABLES:
            moved[kind.name] = _readings(connection, old, aside.name, kind, _times(now, retention_days))
        for records in RECORD_TABLES:
            moved[records.name] = _records(connection, old, aside.name, records)
        _whole(connection, old, "archive_files")
        _whole(connection, old, "weekly_summaries")
    finally:
        old.close()
    with Transaction(connection):
        connection.execute("INSERT OR REPLACE INTO salvaged VALUES (?, '', '')", (aside.name,))
    return moved


def _times(now: float, retention_days: float) -> Iterator[tuple[str, str]]:
    """Give ranges of time that hold all rows there can be: by hours where they should be, and one before and after."""
    first = floor(text_of(now - (retention_days + 2) * DAY), HOUR)
    last = floor(text_of(now + DAY), HOUR)
    yield "", first
    while first < last:
        following = floor(text_of(_seconds(first) + STEP_SECONDS + 1), HOUR)
        yield first, following
        first = following
    yield last, "~"


def _readings(
    connection: sqlite3.Connection,
    old: sqlite3.Connection,
    file: str,
    kind: KindTable,
    ranges: Iterator[tuple[str, str]],
) -> int:
    names = _common(connection, old, kind.name, ("timestamp", "state"))
    if not names:
        return 0
    labels = _common(connection, old, kind.states, ("state", "until"))
    states = {row[0]: row for row in _by_number(old, f"SELECT {', '.join(labels)} FROM {kind.states}", "state")}
    numbers: dict[Value, int] = {}
    query = f"SELECT {', '.join(names)} FROM {kind.name} WHERE timestamp >= ? AND timestamp < ?"
    insert = f"INSERT OR IGNORE INTO {kind.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    moved = 0
    for low, high in ranges:
        if _is_done(connection, file, kind.name, low):
            continue
        rows = list(_read(old, query, low, high))
        with Transaction(connection):
            for row in rows:
                number = numbers.get(row[1])
                if number is None:
                    number = numbers[row[1]] = _new_state(connection, kind, labels, states.get(row[1]), high)
                moved += connection.execute(insert, (row[0], number, *row[2:])).rowcount
            spans = {(kind.name, floor(str(row[0]), SPAN)) for row in rows}
            connection.executemany("INSERT OR IGNORE INTO open_spans VALUES (?, ?)", spans)
            connection.execute("INSERT INTO salvaged VALUES (?, ?, ?)", (file, kind.name, low))
    return moved


def _new_state(
    connection: sqlite3.Connection, kind: KindTable, names: tuple[str, ...], state: Row | None, until: str
) -> int:
    """Copy a state under a new number; one that could not be read has no labels."""
    values = state[1:] if state else (until, *[None] * (len(names) - 2))
    query = f"INSERT INTO {kind.states} ({', '.join(names[1:])}) VALUES ({', '.join('?' * len(values))})"
    added = connection.execute(query, values).lastrowid
    assert added is not None
    return added


def _records(connection: sqlite3.Connection, old: sqlite3.Connection, file: str, records: RecordTable) -> int:
    names = _common(connection, old, records.name, (records.time,))
    if not names or _is_done(connection, file, records.name, ""):
        return 0
    rows = [row[1:] for row in _by_number(old, f"SELECT id, {', '.join(names)} FROM {records.name}", "id")]
    with Transaction(connection):
        insert = f"INSERT INTO {records.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        connection.executemany(insert, rows)
        connection.execute("INSERT INTO salvaged VALUES (?, ?, '')", (file, records.name))
    return len(rows)


def _whole(connection: sqlite3.Connection, old: sqlite3.Connection, table: str) -> None:
    """Copy a small table if it can be read; what is missing of the ledger is taken in from the archive itself."""
    try:
        rows = old.execute(f"SELECT * FROM {table}").fetchall()
        with Transaction(connection):
            for row in rows:
                connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    except sqlite3.DatabaseError:
        pass


def _common(
    connection: sqlite3.Connection, old: sqlite3.Connection, table: str, first: tuple[str, ...]
) -> tuple[str, ...]:
    """Give the columns that both databases have, `first` first; none where the old table cannot be read at all."""
    try:
        there = {row[1] for row in old.execute(f"PRAGMA table_info({table})")}
    except sqlite3.DatabaseError:
        return ()
    here = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    rest = tuple(name for name in here if name in there and name not in (*first, "id"))
    return (*first, *rest) if there.issuperset(first) else ()


def _is_done(connection: sqlite3.Connection, file: str, source: str, low: str) -> bool:
    query = "SELECT 1 FROM salvaged WHERE file = ? AND source = ? AND low = ?"
    return connection.execute(query, (file, source, low)).fetchone() is not None


def _read(old: sqlite3.Connection, query: str, low: str, high: str) -> Iterator[Row]:
    """Give the rows between two times that can be read."""
    try:
        yield from old.execute(query, (low, high)).fetchall()
    except sqlite3.DatabaseError:
        start, end = _seconds(low), _seconds(high)
        if start and end - start > LEAST_SECONDS:
            middle = text_of((start + end) / 2)
            yield from _read(old, query, low, middle)
            yield from _read(old, query, middle, high)


def _seconds(text: str) -> float:
    """Give the Unix time of a stored time; 0 for the ends of all time, whose ranges are not halved."""
    return seconds_of(text) if text not in ("", "~") else 0.0


def _by_number(old: sqlite3.Connection, query: str, key: str) -> Iterator[Row]:
    """Give the rows that can be read, by ranges of their number."""
    low, high = 0, STEP_RECORDS
    misses = 0
    while misses < 64:  # numbers are given in order: after so many empty or broken ranges there are no more
        found = list(_numbered(old, f"{query} WHERE {key} >= ? AND {key} < ?", low, high))
        misses = 0 if found else misses + 1
        yield from found
        low, high = high, high + STEP_RECORDS


def _numbered(old: sqlite3.Connection, query: str, low: int, high: int) -> Iterator[Row]:
    try:
        yield from old.execute(query, (low, high)).fetchall()
    except sqlite3.DatabaseError:
        if high - low > 1:
            middle = (low + high) // 2
            yield from _numbered(old, query, low, middle)
            yield from _numbered(old, query, middle, high)
