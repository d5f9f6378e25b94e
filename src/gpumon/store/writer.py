"""What one transaction writes: the rows of a tick, the states they name, the roll-ups they end."""

from __future__ import annotations

import marshal
import math
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from gpumon.catalog import Entity, EntityKind, Snapshot
from gpumon.catalog.records import Record
from gpumon.store.database import Transaction
from gpumon.store.schema import HOUR, KIND_TABLES, RECORD_TABLES, SPAN, KindTable, Value, floor, seconds_of, text_of

# (number of the kind's table, labels, readings of every tick, slow readings) and (number of the record's table, row)
Row = tuple[int, tuple[str, ...], list[Value], list[Value]]
RecordRow = tuple[int, tuple[Value, ...]]

_KINDS: dict[EntityKind, tuple[int, KindTable]] = {table.kind: (i, table) for i, table in enumerate(KIND_TABLES)}
_RECORDS = {table.name: (i, table) for i, table in enumerate(RECORD_TABLES)}


class Packer:
    """Gives the rows of snapshots in the least memory, some 6 kB for 8 GPUs; of some kinds not every tick's."""

    def __init__(self) -> None:
        self._stored: dict[EntityKind, float] = {}

    def pack(self, snapshot: Snapshot) -> bytes:
        """Give the rows of a snapshot."""
        due = {kind for kind in _KINDS if snapshot.monotonic - self._stored.get(kind, -math.inf) >= kind.table_seconds}
        self._stored |= {kind: snapshot.monotonic for kind in due if kind.table_seconds}
        rows = [_row(*_KINDS[entity.kind], entity) for entity in snapshot.entities if entity.kind in due]
        return marshal.dumps((snapshot.time, rows, []))


def pack(snapshot: Snapshot) -> bytes:
    """Give the rows of one snapshot, of every kind."""
    return Packer().pack(snapshot)


def pack_records(records: Iterable[Record]) -> bytes:
    """Give records in the least memory."""
    rows: list[RecordRow] = []
    for record in records:
        number, table = _RECORDS[record.table]
        rows.append((number, table.row(record)))
    return marshal.dumps((0.0, [], rows))


def count(packed: bytes) -> Counter[str]:
    """Count the rows of a packed tick by table."""
    _, rows, records = marshal.loads(packed)  # noqa: S302 - packed by this process
    return Counter([KIND_TABLES[row[0]].name for row in rows] + [RECORD_TABLES[row[0]].name for row in records])


def _row(number: int, table: KindTable, entity: Entity) -> Row:
    values = entity.values
    tick: list[Value] = [values[i] for i in table.tick]
    slow: list[Value] = [values[i] for i in table.slow]
    _round(tick, table.rounding)
    _round(slow, table.slow_rounding)
    return number, entity.labels, tick, slow


def _round(values: list[Value], rounding: tuple[tuple[int, Callable[[float], float | None]], ...]) -> None:
    for at, rounded in rounding:
        value = values[at]
        if value is not None:
            values[at] = rounded(value)  # type: ignore[arg-type]  # readings are numbers


class _State:
    """A state as last written: its number, its slow readings, and until when rows may name it."""

    __slots__ = ("number", "slow", "until")

    def __init__(self, number: int, slow: list[Value], until: str) -> None:
        self.number = number
        self.slow = slow
        self.until = until


class Writer:
    """Writes packed ticks to one connection; knows which states and roll-ups it has begun."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._states: dict[tuple[int, tuple[str, ...]], _State] = {}
        self._spans: dict[str, str] = {}

    def write(self, ticks: Sequence[bytes]) -> Counter[str]:
        """Write ticks in one transaction, all or none; gives the rows written by table.

        A tick whose moment is taken already (the clock was set back) is written a millisecond later.
        After an exception the writer must not be used again.
        """
        written: Counter[str] = Counter()
        with Transaction(self._connection):
            for packed in ticks:
                time, rows, records = marshal.loads(packed)  # noqa: S302 - packed by this process
                if rows:
                    self._tick(time, rows)
                for number, row in records:
                    self._connection.execute(RECORD_TABLES[number].insert, row)
                written.update(KIND_TABLES[row[0]].name for row in rows)
                written.update(RECORD_TABLES[row[0]].name for row in records)
        return written

    def _tick(self, time: float, rows: list[Row]) -> None:
        while not self._insert(text_of(time), rows):
            time += 0.001

    def _insert(self, timestamp: str, rows: list[Row]) -> bool:
        """Insert the rows of a tick; False, and nothing inserted, when there are rows of that moment."""
        by_table: dict[int, list[tuple[Value, ...]]] = {}
        for number, labels, tick, slow in rows:
            state = self._state(number, labels, slow, timestamp)
            ids = [whole(labels[i]) for i in KIND_TABLES[number].ids]
            by_table.setdefault(number, []).append((timestamp, state, *ids, *tick))
        for number in by_table:
            self._open_span(KIND_TABLES[number], floor(timestamp, SPAN))
        self._connection.execute("SAVEPOINT tick")
        try:
            for number, table_rows in by_table.items():
                self._connection.executemany(KIND_TABLES[number].insert, table_rows)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
                raise
            self._connection.execute("ROLLBACK TO tick")
            return False
        finally:
            self._connection.execute("RELEASE tick")
        return True

    def _state(self, number: int, labels: tuple[str, ...], slow: list[Value], timestamp: str) -> int:
        """Give the number of the state of an entity: its last one, or a new one where something changed."""
        table = KIND_TABLES[number]
        state = self._states.get((number, labels))
        if state is not None and state.slow == slow:
            if timestamp < state.until:
                return state.number
            state.until = _end_of_hour(timestamp)
            update = f"UPDATE {table.states} SET until = ? WHERE state = ?"
            if self._connection.execute(update, (state.until, state.number)).rowcount:
                return state.number
        until = _end_of_hour(timestamp)
        stored = [whole(label) if i in table.ids else label for i, label in enumerate(labels)]
        added = self._connection.execute(table.insert_state, (until, *stored, *slow)).lastrowid
        assert added is not None
        self._states[number, labels] = _State(added, slow, until)
        return added

    def _open_span(self, table: KindTable, start: str) -> None:
        """Note that a span gets rows, and roll up the others of its table."""
        if self._spans.get(table.name) == start:
            return
        roll_up(self._connection, table, except_for=start)
        self._connection.execute("INSERT OR IGNORE INTO open_spans VALUES (?, ?)", (table.name, start))
        self._connection.execute(f"DELETE FROM {table.rollup} WHERE timestamp = ?", (start,))
        self._spans[table.name] = start


def _end_of_hour(timestamp: str) -> str:
    return text_of(seconds_of(floor(timestamp, HOUR)) + HOUR)


def roll_up(connection: sqlite3.Connection, table: KindTable, except_for: str) -> None:
    """Sum up the open spans of a table but one; within a transaction."""
    query = "SELECT start FROM open_spans WHERE source = ? AND start <> ?"
    for (start,) in connection.execute(query, (table.name, except_for)).fetchall():
        connection.execute(table.roll_up, {"start": start, "end": text_of(seconds_of(start) + SPAN)})
        connection.execute("DELETE FROM open_spans WHERE source = ? AND start = ?", (table.name, start))


def whole(label: str) -> int | None:
    """Give a label that is a whole number as one; None where it is not (the driver did not say)."""
    return int(label) if label.lstrip("-").isdigit() else None
