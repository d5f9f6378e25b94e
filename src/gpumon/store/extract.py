"""Rows of the database as Arrow tables. Only child processes import this."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from gpumon.store.parquet import TIME, schema_of
from gpumon.store.schema import KIND_TABLES, TABLES, KindTable, seconds_of

# Rows fetched at once: Python objects of this many rows exist at a time, few enough for the processor's cache.
FETCH_ROWS = 512

_KINDS = {table.name: table for table in KIND_TABLES}


def extract(
    connection: sqlite3.Connection, source: str, start: str, end: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """Give a table's rows from `start` to before `end`, the time and these columns or all, in order of time.

    Ask for an hour at a time: the whole answer is in memory.
    """
    table = TABLES[source]
    schema = schema_of(table)
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in (table.time, *columns)])
    kind = _KINDS.get(source)
    if kind is None:
        return _records(connection, source, start, end, schema)
    return _readings(connection, kind, start, end, schema)


def _records(connection: sqlite3.Connection, source: str, start: str, end: str, schema: pa.Schema) -> pa.Table:
    table = TABLES[source]
    query = f"SELECT {', '.join(schema.names)} FROM {source} WHERE {table.time} >= ? AND {table.time} < ? ORDER BY 1"
    chunks = _fetch(connection, query, (start, end), list(schema))
    return pa.table(
        [pa.chunked_array(parts, field.type) for parts, field in zip(chunks, schema, strict=True)], schema=schema
    )


def _readings(connection: sqlite3.Connection, kind: KindTable, start: str, end: str, schema: pa.Schema) -> pa.Table:
    """What is the same in all rows of a state is looked up once, and spread over its rows by Arrow."""
    of_state = [name for name in (*kind.labels, *kind.slow_names()) if name in schema.names]
    found = connection.execute(f"SELECT {', '.join(('state', *of_state))} FROM {kind.states}").fetchall()
    states = {row[0]: dict(zip(of_state, row[1:], strict=True)) for row in found}
    for state, same in _unchanged(connection, kind, start, end, schema.names).items():
        states.setdefault(state, {}).update(same)
        of_state += [name for name in same if name not in of_state]
    place = {state: i for i, state in enumerate(states)}
    names = (kind.table.time, "state", *(n for n in kind.tick_names() if n in schema.names and n not in of_state))
    query = f"SELECT {', '.join(names)} FROM {kind.name} WHERE timestamp >= ? AND timestamp < ? ORDER BY timestamp"
    fields = [pa.field("state", pa.int64()) if name == "state" else schema.field(name) for name in names]
    chunks = _fetch(connection, query, (start, end), fields)
    columns = {field.name: pa.chunked_array(parts, field.type) for parts, field in zip(chunks, fields, strict=True)}
    indices = pa.array([place.get(number) for number in columns.pop("state").to_pylist()], pa.int32())
    for name in of_state:
        columns[name] = _array([state.get(name) for state in states.values()], schema.field(name)).take(indices)
    return pa.table([columns[field.name] for field in schema], schema=schema)


def _unchanged(
    connection: sqlite3.Connection, kind: KindTable, start: str, end: str, names: Sequence[str]
) -> dict[int, dict[str, Any]]:
    """Give, by state, the readings that were the same in every row of the range, by its roll-ups.

    Half the columns of a GPU are, and reading them would be half the archive's work. Nothing where roll-ups are missing.
    """
    ticks = [name for name in kind.tick_names() if name in names]
    sums = "".join(f", min({n}_min), max({n}_max), sum(coalesce({n}_samples, samples))" for n in ticks)
    within = "WHERE timestamp >= ? AND timestamp < ?"
    query = f"SELECT state, sum(samples){sums} FROM {kind.rollup} {within} GROUP BY state"
    rolled = connection.execute(query, (start, end)).fetchall()
    (rows,) = connection.execute(f"SELECT count(*) FROM {kind.name} {within}", (start, end)).fetchone()
    if sum(row[1] for row in rolled) != rows:
        return {}
    same = [
        i
        for i in range(len(ticks))
        if all(row[4 + 3 * i] == 0 or (row[2 + 3 * i] == row[3 + 3 * i] and row[4 + 3 * i] == row[1]) for row in rolled)
    ]
    return {row[0]: {ticks[i]: row[2 + 3 * i] for i in same} for row in rolled}


def _fetch(
    connection: sqlite3.Connection, query: str, span: tuple[str, str], fields: Sequence[pa.Field]
) -> list[list[pa.Array]]:
    """Give the columns of an answer, each in pieces."""
    chunks: list[list[pa.Array]] = [[] for _ in fields]
    cursor = connection.execute(query, span)
    while rows := cursor.fetchmany(FETCH_ROWS):
        for values, field, pieces in zip(zip(*rows, strict=True), fields, chunks, strict=True):
            pieces.append(_array(values, field))
    return chunks


def _array(values: Sequence[Any], field: pa.Field) -> pa.Array:
    if field.type == TIME:
        known = {text: round(seconds_of(text) * 1000) for text in set(values)}
        return pa.array([known[text] for text in values], pa.int64()).cast(TIME)
    if field.type == pa.int64():  # SQLite gives whole numbers of REAL columns as floats
        return pa.array(values, pa.float64()).cast(pa.int64())
    return pa.array(values, field.type)
