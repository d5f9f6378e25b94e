"""Parquet files: their schema and encodings, written whole and read back. Only child processes import this.

Encodings were chosen by measuring a day of a node (docs/storage.md): whole numbers that grow take least as differences,
other numbers that grow as they are, everything else as a dictionary; zstd over all.
"""

from __future__ import annotations

import gc
import json
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from gpumon import __version__
from gpumon.store.database import MIGRATIONS
from gpumon.store.job import Job
from gpumon.store.schema import Table

# Rows in a row group, about: half a GPU's day at 2 s. The whole day would be 4 % smaller and take 40 MB more memory.
GROUP_ROWS = 21_600
# Columns read at once to compare them with what was written.
COLUMNS = 16
# Level 9 makes files 1 % smaller than 3, for three times the time.
ZSTD_LEVEL = 3

TIME = pa.timestamp("ms", tz="UTC")
TYPES = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string()}

# Rows, and for each column its nulls and the sum of its bits (of text: how often each value).
Fingerprint = tuple[int, tuple[tuple[int, Any], ...]]


class DamagedError(Exception):
    """What was read back is not what was written."""


def schema_of(table: Table) -> pa.Schema:
    """Give a table's Arrow schema, the time first."""
    fields = [pa.field(column.name, TYPES[column.arrow]) for column in table.columns]
    return pa.schema([pa.field(table.time, TIME), *fields])


def encodings(table: Table) -> dict[str, Any]:
    """Give pyarrow's options for a table's columns."""
    delta = [c.name for c in table.columns if c.arrow == "int64" and (c.counter or c.name == "id")]
    plain = [c.name for c in table.columns if c.arrow == "float64" and c.counter]
    return {
        "use_dictionary": [c.name for c in table.columns if c.name not in delta + plain],
        "column_encoding": dict.fromkeys([table.time, *delta], "DELTA_BINARY_PACKED") | dict.fromkeys(plain, "PLAIN"),
        # Those of readings would double the size of the footer, and few ask for readings of a size.
        "write_statistics": [table.time, *table.key],
    }


class Place:
    """Where the archive lies: a folder, or a prefix of an object store; names are relative to it, with slashes."""

    def __init__(self, job: Job) -> None:
        self._metadata = {"gpumon.cluster": job.cluster, "gpumon.node": job.node}
        self._folder: Path | None = None
        if "://" in job.archive_dir:
            self._files, root = pafs.FileSystem.from_uri(job.archive_dir)
            self._root = posixpath.join(root, f"cluster={job.cluster}", f"node={job.node}")
            if isinstance(self._files, pafs.LocalFileSystem):
                self._folder = Path(self._root)
        else:
            self._files, self._root = pafs.LocalFileSystem(), job.archive_dir
            self._folder = Path(job.archive_dir)

    def names(self) -> set[str]:
        """Give the files that are there, of this node; what a killed child left half-written is deleted.

        An OSError says that the place cannot be reached.
        """
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            for half in self._folder.glob("table=*/date=*/.*"):
                half.unlink()
        selector = pafs.FileSelector(self._root, recursive=True, allow_not_found=True)
        found = (info.path for info in self._files.get_file_info(selector) if info.type == pafs.FileType.File)
        return {posixpath.relpath(path, self._root) for path in found if path.endswith(".parquet")}

    def write(
        self,
        name: str,
        table: Table,
        tables: Iterable[pa.Table],
        *,
        schema: pa.Schema | None = None,
        replaces: Iterable[str] = (),
    ) -> int:
        """Write one row group per table given and read everything back; gives the bytes written.

        A file is there whole or not at all: in a folder it is synced under another name before it takes its own, in an
        object store it appears when it is complete.
        """
        schema = schema or schema_of(table)
        metadata = self._metadata | {
            "gpumon.version": __version__,
            "gpumon.schema": str(len(MIGRATIONS)),
            "gpumon.table": table.name,
            "gpumon.replaces": json.dumps(list(replaces)),
        }
        path = self.path(name)
        target = (
            path if self._folder is None else posixpath.join(posixpath.dirname(path), f".{posixpath.basename(path)}")
        )
        written: list[Fingerprint] = []
        if self._folder is not None:
            self._make_folder(Path(path).parent)
        with (
            self._files.open_output_stream(target) as stream,
            pq.ParquetWriter(
                stream,
                schema,
                compression="zstd",
                compression_level=ZSTD_LEVEL,
                store_schema=False,
                write_page_checksum=True,
                **encodings(table),
            ) as writer,
        ):
            writer.add_key_value_metadata(metadata)
            for rows in tables:
                writer.write_table(rows, row_group_size=max(1, rows.num_rows))
                written.append(fingerprint(rows))
                del rows  # before the next is made: there is memory for one
        try:
            self._verify(target, written)
        except (DamagedError, pa.ArrowInvalid) as error:
            self._files.delete_file(target)  # its rows are still where they came from
            raise DamagedError(f"{target} was not stored as it was written: {error}") from error
        if self._folder is not None:
            _sync(Path(target))
            Path(target).rename(path)
            _sync(Path(path).parent)
        return int(self._files.get_file_info(path).size)

    def _verify(self, target: str, written: list[Fingerprint]) -> None:
        with self._files.open_input_file(target) as stream:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            if [_stored(file, group) for group in range(file.num_row_groups)] != written:
                raise DamagedError(f"{target} was read back differently from what was written")

    def open(self, name: str) -> pq.ParquetFile:
        """Open a file; FileNotFoundError where it is not."""
        gc.collect(1)  # a footer and its schema hold each other, some MB for each file that was open before
        return pq.ParquetFile(self._files.open_input_file(self.path(name)), page_checksum_verification=True)

    def path(self, name: str) -> str:
        """Give the full path of a name."""
        return posixpath.join(self._root, name)

    def size(self, name: str) -> int:
        """Give the bytes of a file; 0 where there is none."""
        return int(self._files.get_file_info(self.path(name)).size or 0)

    def put_aside(self, name: str) -> None:
        """Rename a file that is no Parquet, so that it is no longer looked at, and not lost either."""
        self._files.move(self.path(name), self.path(name) + ".damaged")

    def delete(self, name: str) -> None:
        """Delete a file, and its folder when that is empty then. One that is not there is no error."""
        try:
            self._files.delete_file(self.path(name))
        except FileNotFoundError:
            return
        if self._folder is not None:
            for folder in list(Path(self.path(name)).parents)[:2]:
                try:
                    folder.rmdir()
                except OSError:
                    break

    def _make_folder(self, folder: Path) -> None:
        missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for made in missing:
            _sync(made.parent)


def replaced_by(file: pq.ParquetFile) -> list[str]:
    """Give the names of the files whose rows this one took over."""
    return [str(name) for name in json.loads((file.metadata.metadata or {}).get(b"gpumon.replaces", b"[]"))]


def fingerprint(rows: pa.Table) -> Fingerprint:
    """Give what tells rows from others that are not the same; pages have checksums beside."""
    return rows.num_rows, tuple((column.null_count, _sum_of_bits(column)) for column in rows.columns)


def _stored(file: pq.ParquetFile, group: int) -> Fingerprint:
    """Give the fingerprint of a row group, a few columns in memory at a time."""
    names = file.schema_arrow.names
    parts = [
        fingerprint(file.read_row_group(group, columns=names[first : first + COLUMNS], use_threads=False))
        for first in range(0, len(names), COLUMNS)
    ]
    return parts[0][0], tuple(column for _, columns in parts for column in columns)


def _sum_of_bits(column: pa.ChunkedArray) -> Any:
    if column.type == pa.string():
        return {count["values"]: count["counts"] for count in column.value_counts().to_pylist()}
    return pc.sum(pa.chunked_array([chunk.view(pa.int64()) for chunk in column.chunks], pa.int64())).as_py()


def union(table: Table, files: Iterable[pq.ParquetFile]) -> pa.Schema:
    """Give the table's schema, and after it the columns that only older files have."""
    schema = schema_of(table)
    for file in files:
        for column in file.schema_arrow:
            if column.name not in schema.names:
                schema = schema.append(column)
    return schema


def conform(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give rows in this schema: columns that an older gpumon did not have are null, types are cast."""
    if rows.schema.equals(schema):
        return rows
    columns = [
        rows.column(field.name).cast(field.type)
        if field.name in rows.column_names
        else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def merged(files: Callable[[], Iterable[pq.ParquetFile]], table: Table, schema: pa.Schema) -> Iterator[pa.Table]:
    """Give the rows of files in pieces of one value of the key's first column, each sorted by key and time.

    A GPU's readings lie together: they compress best, and a query for one GPU reads only them.
    Keeps one piece in memory, and decodes each row group once for each value in it. `files` opens them anew, one when
    it is its turn: a file's footer takes 1 kB for each column of a row group.
    """
    first = table.key[0] if table.key not in ((), ("id",)) else None
    for value in _values(files(), first):
        waiting: list[pa.Table] = []
        for file in files():
            for group in range(file.num_row_groups):
                if _may_hold(file, group, first, value):
                    waiting.append(conform(_only(file.read_row_group(group, use_threads=False), first, value), schema))
                if sum(part.num_rows for part in waiting) >= GROUP_ROWS:
                    yield in_order(pa.concat_tables(_taken(waiting)), table)
        if waiting:
            yield in_order(pa.concat_tables(_taken(waiting)), table)


def _values(files: Iterable[pq.ParquetFile], first: str | None) -> list[Any]:
    if first is None:
        return [None]
    columns = [file.read(columns=[first], use_threads=False).column(first) for file in files]
    return sorted({value for column in columns for value in column.unique().to_pylist()}, key=str)


def _may_hold(file: pq.ParquetFile, group: int, first: str | None, value: Any) -> bool:
    if first is None or value is None:
        return True
    statistics = file.metadata.row_group(group).column(file.schema_arrow.get_field_index(first)).statistics
    return statistics is None or not statistics.has_min_max or statistics.min <= value <= statistics.max


def _only(rows: pa.Table, first: str | None, value: Any) -> pa.Table:
    """Give the rows with this value, copied: a slice would keep all the others in memory."""
    if first is None:
        return rows
    column = rows.column(first)
    return rows.filter(pc.is_null(column) if value is None else pc.equal(column, value))


def _taken(waiting: list[pa.Table]) -> list[pa.Table]:
    """Give the list's contents and empty it: no piece stays in memory longer than it is used."""
    taken = waiting[:]
    waiting.clear()
    return taken


def in_order(rows: pa.Table, table: Table) -> pa.Table:
    """Give rows sorted by key and time, so that each entity's readings lie together."""
    order = pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in (*table.key, table.time)])
    sorted_already = order.equals(pa.array(range(rows.num_rows), pa.uint64()))
    return rows if sorted_already else rows.take(order)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
