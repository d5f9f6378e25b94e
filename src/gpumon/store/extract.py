"""Rows of the database as Arrow tables. Only child processes import this."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from gpumon.store.parquet import TIME, schema_of
from gpumon.store.schema import KIND_TABLES, TABLES, KindTable, seconds_of

# Rows fetched at once: Python objects of this many rows exist at a time, few enough for the processor's cache.
FETCH_ROWS = 512

_KINDS = {table.name: table for table in KIND_TABLES}


def portions(
    connection: sqlite3.Connection, source: str, start: str, end: str, rows: int
) -> Iterator[Sequence[int] | None]:
    """Give the states to extract at a time, so that each value of the key's first column is whole in one portion.

    A portion has at least so many rows, but the last. None is all rows: records have no states.
    """
    kind = _KINDS.get(source)
    if kind is None:
        yield None
        return
    query = f"SELECT state, count(*) FROM {source} WHERE timestamp >= ? AND timestamp < ? GROUP BY state"
    counts = dict(connection.execute(query, (start, end)))
    label = kind.labels[0] if kind.labels else "NULL"
    labels = dict(connection.execute(f"SELECT state, {label} FROM {kind.states}"))
    waiting: list[int] = []
    before = None
    for state in sorted(counts, key=lambda state: (str(labels.get(state)), state)):
        if sum(counts[state] for state in waiting) >= rows and labels.get(state) != before:
            yield waiting
            waiting = []
        waiting.append(state)
        before = labels.get(state)
    yield waiting


def extract(
    connection: sqlite3.Connection,
    source: str,
    start: str,
    end: str,
    columns: Sequence[str] | None = None,
    states: Sequence[int] | None = None,
) -> pa.Table:
    """Give a table's rows from `start` to before `end`, the time and these columns or all, in order of time.

    Those of some `states` or of all. Ask for an hour at a time: the whole answer is in memory.
    """
    table = TABLES[source]
    schema = schema_of(table)
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in (table.time, *columns)])
    kind = _KINDS.get(source)
    if kind is None:
        return _records(connection, source, start, end, schema)
    return _readings(connection, kind, Within.of(start, end, states), schema)


@dataclass(frozen=True, slots=True)
class Within:
    """Which rows: a condition in SQL and what fills its question marks."""

    condition: str
    span: tuple[str, str]

    @classmethod
    def of(cls, start: str, end: str, states: Sequence[int] | None) -> Within:
        """Give the condition for a time, and for some states where not all are wanted."""
        only = "" if states is None else f" AND state IN ({', '.join(map(str, states))})"
        return cls(f"timestamp >= ? AND timestamp < ?{only}", (start, end))


def _records(connection: sqlite3.Connection, source: str, start: str, end: str, schema: pa.Schema) -> pa.Table:
    table = TABLES[source]
    query = f"SELECT {', '.join(schema.names)} FROM {source} WHERE {table.time} >= ? AND {table.time} < ? ORDER BY 1"
    chunks = _fetch(connection, query, (start, end), list(schema))
    return pa.table(
        [pa.chunked_array(parts, field.type) for parts, field in zip(chunks, schema, strict=True)], schema=schema
    )


def _readings(connection: sqlite3.Connection, kind: KindTable, within: Within, schema: pa.Schema) -> pa.Table:
    """What is the same in all rows of a state is looked up once, and spread over its rows by Arrow."""
    of_state = [name for name in (*kind.labels, *kind.slow_names()) if name in schema.names]
    found = connection.execute(f"SELECT {', '.join(('state', *of_state))} FROM {kind.states}").fetchall()
    states = {row[0]: dict(zip(of_state, row[1:], strict=True)) for row in found}
    for state, same in _unchanged(connection, kind, within, schema.names).items():
        states.setdefault(state, {}).update(same)
        of_state += [name for name in same if name not in of_state]
    place = {state: i for i, state in enumerate(states)}
    names = (kind.table.time, "state", *(n for n in kind.tick_names() if n in schema.names and n not in of_state))
    query = f"SELECT {', '.join(names)} FROM {kind.name} WHERE {within.condition} ORDER BY timestamp"
    fields = [pa.field("state", pa.int64()) if name == "state" else schema.field(name) for name in names]
    chunks = _fetch(connection, query, within.span, fields)
    columns = {field.name: pa.chunked_array(parts, field.type) for parts, field in zip(chunks, fields, strict=True)}
    indices = pa.array([place.get(number) for number in columns.pop("state").to_pylist()], pa.int32())
    for name in of_state:
        columns[name] = _array([state.get(name) for state in states.values()], schema.field(name)).take(indices)
    return pa.table([columns[field.name] for field in schema], schema=schema)


def _unchanged(
    connection: sqlite3.Connection, kind: KindTable, within: Within, names: Sequence[str]
) -> dict[int, dict[str, Any]]:
    """Give, by state, the readings that were the same in every row of the range, by its roll-ups.

    Half the columns of a GPU are, and reading them would be half the archive's work. Nothing where roll-ups are missing.
    """
    ticks = [name for name in kind.tick_names() if name in names]
    sums = "".join(f", min({n}_min), max({n}_max), sum(coalesce({n}_samples, samples))" for n in ticks)
    query = f"SELECT state, sum(samples){sums} FROM {kind.rollup} WHERE {within.condition} GROUP BY state"
    rolled = connection.execute(query, within.span).fetchall()
    query = f"SELECT count(*) FROM {kind.name} WHERE {within.condition}"
    (rows,) = connection.execute(query, within.span).fetchone()
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
