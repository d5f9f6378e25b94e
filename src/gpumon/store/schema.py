"""The tables, as they follow from the catalogue, and the SQL that makes them.

A kind of entity with `table` set has three tables and a view. For `gpu_metrics` they are

- `gpu_metrics`: one row per entity and tick, with the readings of every tick and the labels that are whole numbers;
- `gpu_states`: labels and slow readings, one row each time they changed; every row of `gpu_metrics` names its state;
- `gpu_metrics_2m`: the roll-up: mean, least and greatest of each reading of every tick, per two minutes and state;
- `gpu_readings`: the view that puts a row and its state together: all labels and all readings.

A record class has one table with its fields.
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import date
from typing import get_type_hints

from gpumon.catalog import KINDS, Cadence, EntityKind
from gpumon.catalog.records import RECORDS, Record

Value = float | int | str | None

# Seconds summed up in one row of a roll-up: a day is 720 points, and roll-ups take a twentieth of the space of the rows
# (with one minute it is a tenth, and a week of a node of one GPU would pass 100 MB).
SPAN = 120
HOUR = 3600
DAY = 86_400


def _whole(value: float) -> float | None:
    return round(value) if math.isfinite(value) else None


def _ratio(value: float) -> float:
    return float(f"{value:.2g}") if value < 0.1 or not math.isfinite(value) else round(value * 200) / 200


# How finely a reading is kept, by its unit: digits beyond these are the sensor's noise, and cost most of the space.
# A counter is rounded, not its steps, so that no error adds up.
KEPT: dict[str | None, Callable[[float], float | None]] = {
    "ratio": _ratio,  # to half a percent, and to two digits where it is small: 0.955, 0.0012
    "watts": lambda value: round(value, 1),  # NVML states its error as 5 W or 5 %
    "joules": _whole,
    "seconds": lambda value: round(value, 3),
    "bytes": _whole,
    "hertz": _whole,
}
# Units whose kept values are whole numbers: INT64 in Parquet, where steps of a counter take the least space.
WHOLE_UNITS = ("joules", "bytes", "hertz")


def text_of(seconds: float) -> str:
    """Give a Unix time as stored: `YYYY-MM-DD HH:MM:SS.mmm`, UTC."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{clock.strftime('%Y-%m-%d %H:%M:%S', clock.gmtime(whole))}.{milliseconds:03d}"


def seconds_of(text: str) -> float:
    """Give the Unix time of a stored time, exact to the millisecond."""
    days = date(int(text[:4]), int(text[5:7]), int(text[8:10])).toordinal() - 719_163  # 1970-01-01
    return days * DAY + int(text[11:13]) * HOUR + int(text[14:16]) * 60 + int(text[17:19]) + int(text[20:23]) / 1000


def floor(text: str, seconds: int) -> str:
    """Give the start of the span of so many seconds (of the day) a stored time lies in."""
    return text_of(seconds_of(text) // seconds * seconds)


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """One column: its SQLite type and the Arrow type of the same values in Parquet; `counter` where it only grows."""

    name: str
    sql: str
    arrow: str
    counter: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table as people and the archive see it: for a kind, labels and all readings, which is its view.

    `key` names the columns that, with `time`, tell one row from all others.
    """

    name: str
    time: str
    key: tuple[str, ...]
    columns: tuple[StoredColumn, ...]
    view: str

    def names(self) -> tuple[str, ...]:
        """Give all column names, the time first."""
        return (self.time, *(column.name for column in self.columns))


class KindTable:
    """Where the entities of one kind are kept, and the SQL statements for it."""

    __slots__ = (
        "ids", "insert", "insert_state", "kind", "labels", "name", "roll_up", "rollup",
        "rounding", "slow", "slow_rounding", "states", "table", "texts", "tick", "view",
    )  # fmt: skip

    def __init__(self, kind: EntityKind) -> None:
        assert kind.table is not None
        self.kind = kind
        self.name = kind.table
        stem = kind.table.removesuffix("_metrics")
        self.states = f"{stem}_states"
        self.view = f"{stem}_readings"
        self.rollup = f"{self.name}_{SPAN // 60}m"
        self.tick = tuple(i for i, c in enumerate(kind.columns) if c.reading.cadence is Cadence.TICK)
        self.slow = tuple(i for i, c in enumerate(kind.columns) if c.reading.cadence is not Cadence.TICK)
        self.rounding = self._rounding(self.tick)
        self.slow_rounding = self._rounding(self.slow)
        self.labels = tuple(label.name for label in kind.labels)
        self.ids = tuple(i for i, label in enumerate(kind.labels) if label.integer)
        integers = {kind.labels[i].name for i in self.ids}
        labels = tuple(
            StoredColumn(name, *(("INTEGER", "int64") if name in integers else ("TEXT", "string")))
            for name in self.labels
        )
        readings = tuple(
            StoredColumn(c.name, "REAL", "int64" if c.reading.unit in WHOLE_UNITS else "float64", c.reading.counter)
            for c in kind.columns
        )
        self.table = Table(self.name, "timestamp", self.labels, labels + readings, self.view)
        self.insert = self._insert(self.name, ("timestamp", "state", *self._id_names(), *self.tick_names()))
        self.insert_state = self._insert(self.states, ("until", *self.labels, *self.slow_names()))
        self.roll_up = self._roll_up()

    def _rounding(self, indices: tuple[int, ...]) -> tuple[tuple[int, Callable[[float], float | None]], ...]:
        units = [self.kind.columns[i].reading.unit for i in indices]
        return tuple((at, KEPT[unit]) for at, unit in enumerate(units) if unit in KEPT)

    def _id_names(self) -> tuple[str, ...]:
        return tuple(self.labels[i] for i in self.ids)

    def tick_names(self) -> tuple[str, ...]:
        """Give the columns of every tick."""
        return tuple(self.kind.columns[i].name for i in self.tick)

    def slow_names(self) -> tuple[str, ...]:
        """Give the columns that are kept with the state."""
        return tuple(self.kind.columns[i].name for i in self.slow)

    @staticmethod
    def _insert(table: str, columns: tuple[str, ...]) -> str:
        return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"

    def _roll_up(self) -> str:
        names = ["timestamp", "state", *self._id_names(), "samples"]
        values = [":start", "state", *self._id_names(), "count(*)"]
        for name in self.tick_names():
            names += [name, f"{name}_min", f"{name}_max", f"{name}_samples"]
            values += [f"avg({name})", f"min({name})", f"max({name})", f"nullif(count({name}), count(*))"]
        return (
            f"INSERT OR REPLACE INTO {self.rollup} ({', '.join(names)}) SELECT {', '.join(values)} "
            f"FROM {self.name} WHERE timestamp >= :start AND timestamp < :end GROUP BY state"
        )

    def shapes(self) -> dict[str, tuple[dict[str, str], str]]:
        """Give the columns and the rest of the definition of each table of this kind.

        A state's `until` is the end of the last hour in which a row may name it; a roll-up's `*_samples` is NULL
        where all `samples` rows had the reading.
        """
        ids = dict.fromkeys(self._id_names(), "INTEGER")
        tick = dict.fromkeys(self.tick_names(), "REAL")
        rolled: dict[str, str] = {}
        for name in tick:
            rolled |= {name: "REAL", f"{name}_min": "REAL", f"{name}_max": "REAL", f"{name}_samples": "INTEGER"}
        labels = {column.name: column.sql for column in self.table.columns if column.name in self.labels}
        key = {"timestamp": "TEXT NOT NULL", "state": "INTEGER NOT NULL"}
        in_time = ", PRIMARY KEY (timestamp, state)) WITHOUT ROWID"
        return {
            self.name: (key | ids | tick, in_time),
            self.rollup: (key | ids | {"samples": "INTEGER NOT NULL"} | rolled, in_time),
            self.states: (
                {"state": "INTEGER PRIMARY KEY", "until": "TEXT NOT NULL"}
                | labels
                | dict.fromkeys(self.slow_names(), "REAL"),
                ")",
            ),
        }

    def define_view(self) -> str:
        """Give the statement that makes the view of rows with their states."""
        columns = [
            f"{'m' if name in self._id_names() or name in self.tick_names() else 's'}.{name}"
            for name in self.table.names()[1:]
        ]
        return (
            f"CREATE VIEW {self.view} AS SELECT m.timestamp, {', '.join(columns)} "
            f"FROM {self.name} AS m LEFT JOIN {self.states} AS s ON s.state = m.state"
        )


class RecordTable:
    """Where the records of one class are kept."""

    __slots__ = ("fields", "insert", "name", "table", "time")

    def __init__(self, record: type[Record]) -> None:
        hints = get_type_hints(record)
        self.name = record.table
        self.time = record.time
        self.fields = tuple(field.name for field in fields(record))
        types = {int: ("INTEGER", "int64"), float: ("REAL", "float64"), str: ("TEXT", "string")}
        columns = [StoredColumn("id", "INTEGER", "int64")]
        for name in self.fields:
            if name != self.time:
                plain = getattr(hints[name], "__args__", (hints[name],))
                kind = next(kind for kind in types if kind in plain)
                columns.append(StoredColumn(name, *types[kind]))
        self.table = Table(self.name, self.time, ("id",), tuple(columns), self.name)
        self.insert = KindTable._insert(self.name, self.fields)

    def row(self, record: Record) -> tuple[Value, ...]:
        """Give a record as a row; its time as stored."""
        return tuple(
            text_of(getattr(record, name)) if name == self.time else getattr(record, name) for name in self.fields
        )

    def shapes(self) -> dict[str, tuple[dict[str, str], str]]:
        """Give the columns and the rest of the definition of the table."""
        columns = {column.name: column.sql for column in self.table.columns if column.name != "id"}
        return {self.name: ({"id": "INTEGER PRIMARY KEY", self.time: "TEXT NOT NULL"} | columns, ")")}


KIND_TABLES = tuple(KindTable(kind) for kind in KINDS if kind.table is not None)
RECORD_TABLES = tuple(RecordTable(record) for record in RECORDS)
# All that is archived.
STORED: tuple[KindTable | RecordTable, ...] = (*KIND_TABLES, *RECORD_TABLES)
TABLES = {stored.name: stored.table for stored in STORED}
