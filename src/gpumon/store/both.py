"""Every row of a table between two times, each once, from the archive and from the database. For child processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from gpumon.store import ledger
from gpumon.store.extract import extract
from gpumon.store.parquet import Place, conform, schema_of
from gpumon.store.schema import HOUR, TABLES, seconds_of, text_of


def rows_of(
    connection: sqlite3.Connection,
    place: Place,
    source: str,
    start: str,
    end: str,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.Table]:
    """Give a table's rows in pieces: the archive's by day, entity and time, then the database's by time.

    Call within a read transaction, holding the readers' lock: then no row is missed and none comes twice.
    """
    table = TABLES[source]
    names = table.names() if columns is None else (table.time, *columns)
    schema = pa.schema([schema_of(table).field(name) for name in names])
    for file in ledger.live(connection, source):
        if file.last >= start and file.first < end:
            opened = place.open(file.path)
            present = [name for name in names if name in opened.schema_arrow.names]
            for group in range(opened.num_row_groups):
                rows = conform(opened.read_row_group(group, columns=present, use_threads=False), schema)
                yield rows if file.first >= start and file.last < end else _between(rows, start, end)
    hour = ledger.oldest_hour(connection, source, end, start)
    while hour is not None:
        until = text_of(seconds_of(hour) + HOUR)
        yield extract(connection, source, max(hour, start), min(until, end), names[1:])
        hour = ledger.oldest_hour(connection, source, end, until)


def count(connection: sqlite3.Connection, source: str, start: str, end: str) -> int:
    """Give about how many rows that will be: files that reach beyond the range are counted whole."""
    archived = sum(file.rows for file in ledger.live(connection, source) if file.last >= start and file.first < end)
    time = TABLES[source].time
    query = f"SELECT count(*) FROM {source} WHERE {time} >= ? AND {time} < ?"
    return archived + int(connection.execute(query, (start, end)).fetchone()[0])


def _between(rows: pa.Table, start: str, end: str) -> pa.Table:
    time = rows.column(0).cast(pa.int64())
    first, last = round(seconds_of(start) * 1000), round(seconds_of(end) * 1000)
    return rows.filter(pc.and_(pc.greater_equal(time, first), pc.less(time, last)))
