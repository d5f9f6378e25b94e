"""Writing a table's rows to a file: `gpumon export`. Runs in a process of its own, which may import pyarrow."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from gpumon.store.both import count, rows_of
from gpumon.store.database import read
from gpumon.store.job import Job, reading
from gpumon.store.parquet import ZSTD_LEVEL, Place, encodings, schema_of
from gpumon.store.schema import TABLES, Table, text_of

Progress = Callable[[int, int], None]  # rows written, rows there are about


class Sink(Protocol):
    """Takes rows, then is closed."""

    def write(self, rows: pa.Table) -> None:
        """Write rows."""

    def close(self) -> None:
        """End the file."""


class Csv:
    """Comma-separated values with a header; times as SQLite has them, a missing reading is empty."""

    def __init__(self, stream: IO[bytes], table: Table) -> None:
        schema = schema_of(table)
        self._time = table.time
        self._writer = pyarrow.csv.CSVWriter(stream, schema.set(0, pa.field(table.time, pa.string())))

    def write(self, rows: pa.Table) -> None:
        """Write rows."""
        self._writer.write_table(_with_text_times(rows, self._time))

    def close(self) -> None:
        """End the file."""
        self._writer.close()


class JsonLines:
    """One JSON object per row and line; a missing reading is left out."""

    def __init__(self, stream: IO[bytes], table: Table) -> None:
        self._stream = stream
        self._time = table.time

    def write(self, rows: pa.Table) -> None:
        """Write rows."""
        for row in _with_text_times(rows, self._time).to_pylist():
            present = {name: value for name, value in row.items() if value is not None}
            self._stream.write(json.dumps(present).encode() + b"\n")

    def close(self) -> None:
        """Nothing is left to write."""


class Parquet:
    """A Parquet file like those of the archive."""

    def __init__(self, stream: IO[bytes], table: Table) -> None:
        options: dict[str, Any] = encodings(table)
        self._writer = pq.ParquetWriter(
            stream, schema_of(table), compression="zstd", compression_level=ZSTD_LEVEL, **options
        )

    def write(self, rows: pa.Table) -> None:
        """Write rows."""
        if rows.num_rows:
            self._writer.write_table(rows)

    def close(self) -> None:
        """Write the footer."""
        self._writer.close()


FORMATS: dict[str, Callable[[IO[bytes], Table], Sink]] = {"csv": Csv, "parquet": Parquet, "jsonl": JsonLines}


def export(
    job: Job, source: str, start: float, end: float, form: str, stream: IO[bytes], progress: Progress = lambda *_: None
) -> int:
    """Write the rows of a table between two Unix times; gives how many.

    Archived rows come day by day and entity by entity, the database's in order of time.
    ValueError names an unknown table or format; sqlite3.Error says that there is no database.
    """
    if source not in TABLES:
        raise ValueError(f"there is no table {source}; there are {', '.join(TABLES)}")
    if form not in FORMATS:
        raise ValueError(f"there is no format {form}; there are {', '.join(FORMATS)}")
    first, last = text_of(start), text_of(end)
    written = 0
    with ExitStack() as stack:
        stack.enter_context(reading(job))
        connection = read(job.database)
        stack.callback(connection.close)
        connection.execute("BEGIN")
        total = count(connection, source, first, last)
        sink = FORMATS[form](stream, TABLES[source])
        for rows in rows_of(connection, Place(job), source, first, last):
            sink.write(rows)
            written += rows.num_rows
            progress(written, max(total, written))
        sink.close()
    return written


def _with_text_times(rows: pa.Table, time: str) -> pa.Table:
    texts = pc.strftime(rows.column(time).cast(pa.timestamp("ms")), format="%Y-%m-%d %H:%M:%S")
    return rows.set_column(0, time, texts)
