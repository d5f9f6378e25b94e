"""The archive's roll-ups: ten-minute mean, least and greatest beside each day's file, made from it and gone with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from gpumon.store.buckets import ARCHIVE_SPAN
from gpumon.store.parquet import Place, schema_of
from gpumon.store.schema import KIND_TABLES, StoredColumn, Table

SUFFIX = f"_{ARCHIVE_SPAN // 60}m"

_KINDS = {table.name: table for table in KIND_TABLES}


def rollup_name(name: str) -> str:
    """Give the name of the roll-up that belongs to a file."""
    first, rest = name.split("/", 1)
    return f"{first}{SUFFIX}/{rest}"


def readings_of(table: Table) -> tuple[StoredColumn, ...]:
    """Give the columns that are summed up: all but labels."""
    return tuple(column for column in table.columns if column.name not in table.key)


class Summary:
    """Sums rows up while they pass on their way to a file."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._shape = rollup_table(table)
        self._day: pa.Table | None = None

    def of(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Pass the tables on."""
        for rows in tables:
            if self._shape is not None:
                part = rolled_up(rows, self._table)
                # One table, because each has 600 columns, whose bookkeeping takes more memory than what is in them.
                self._day = part if self._day is None else pa.concat_tables([self._day, part]).combine_chunks()
            yield rows
            del rows

    def write(self, place: Place, name: str) -> int:
        """Write the roll-up that belongs to the file `name`; gives its bytes, 0 for records, which have none."""
        if self._shape is None or self._day is None:
            return 0
        return place.write(rollup_name(name), self._shape, [self._day])


def rollup_table(table: Table) -> Table | None:
    """Give the shape of a table's roll-up; None for records, which have none."""
    if table.name not in _KINDS:
        return None
    labels = tuple(column for column in table.columns if column.name in table.key)
    columns = [StoredColumn("samples", "INTEGER", "int64")]
    for column in readings_of(table):
        columns += [
            StoredColumn(column.name, "REAL", "float64"),
            StoredColumn(f"{column.name}_min", "REAL", column.arrow, column.counter),
            StoredColumn(f"{column.name}_max", "REAL", column.arrow, column.counter),
            StoredColumn(f"{column.name}_samples", "INTEGER", "int64"),
        ]
    return Table(table.name + SUFFIX, table.time, table.key, (*labels, *columns), "")


def rolled_up(rows: pa.Table, table: Table) -> pa.Table:
    """Sum up rows per span and entity; what lies in one span of two calls makes two rows, which add up."""
    span = pc.multiply(pc.divide(rows.column(table.time).cast(pa.int64()), ARCHIVE_SPAN * 1000), ARCHIVE_SPAN * 1000)
    rows = rows.set_column(0, table.time, span)
    functions = ("mean", "min", "max", "count")
    aggregates = [(column.name, function) for column in readings_of(table) for function in functions]
    groups = rows.group_by([table.time, *table.key], use_threads=False).aggregate([*aggregates, ([], "count_all")])
    samples = groups.column("count_all")
    summary = rollup_table(table)
    assert summary is not None
    columns = {name: groups.column(name) for name in (table.time, *table.key)} | {"samples": samples}
    for column in readings_of(table):
        count = groups.column(f"{column.name}_count")
        columns[column.name] = groups.column(f"{column.name}_mean")
        columns[f"{column.name}_min"] = groups.column(f"{column.name}_min")
        columns[f"{column.name}_max"] = groups.column(f"{column.name}_max")
        columns[f"{column.name}_samples"] = pc.if_else(pc.equal(count, samples), pa.scalar(None, pa.int64()), count)
    schema = schema_of(summary)
    return pa.table([columns[field.name].cast(field.type) for field in schema], schema=schema)
