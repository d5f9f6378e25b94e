"""Moving old rows to Parquet; a child process: `python -m gpumon.store.archive < job`. Only one runs at a time.

An hour of a table becomes a file, the files of a day become one. Whatever instruction a kill hits, each row is in its
table or in a file that the ledger calls live, and the next run finishes what was begun.
"""

from __future__ import annotations

import gc
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpumon.memory import give_back, limit_bytes
from gpumon.store import ledger
from gpumon.store.database import Transaction, connect
from gpumon.store.extract import extract, portions
from gpumon.store.job import BusyError, Job, locked
from gpumon.store.ledger import Listed
from gpumon.store.parquet import DamagedError, Place, conform, in_order, merged, replaced_by, schema_of, union
from gpumon.store.rollup import Summary, rollup_name
from gpumon.store.salvage import pending, salvage
from gpumon.store.schema import DAY, HOUR, KIND_TABLES, STORED, TABLES, Table, floor, seconds_of, text_of
from gpumon.store.weekly import close_weeks
from gpumon.store.writer import roll_up

# Lowest priority: the archive can wait, training cannot. As the CPU's, so the disk's.
NICENESS = 19

# Free pages are filled again, so that a database is only made smaller where more than a quarter of it is free;
# 4 MB at a time, so that the writer waits for milliseconds.
FREE_SHARE = 0.25
FREE_PAGES = 1000

# Memory limit of a container from which days are put together: 74 MB for the child, and what the daemon has.
COMPACTION_BYTES = 120 << 20

# Least rows of an hour that are in memory at a time: what a GPU has at 2 s, 2 MB.
PIECE_ROWS = 1_800


@dataclass(slots=True)
class Report:
    """What a run did: rows moved by table, files written and removed, bytes of the archive, what went wrong."""

    rows: dict[str, int] = field(default_factory=dict)
    written: int = 0
    summaries: int = 0
    removed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    salvaged: dict[str, dict[str, int]] = field(default_factory=dict)
    archive_bytes: int = 0
    trouble: list[str] = field(default_factory=list)


class Archivist:
    """One run of the archive."""

    def __init__(self, job: Job, now: float, connection: sqlite3.Connection) -> None:
        self.job = job
        self.now = now
        self.place = Place(job)
        self.connection = connection
        self.report = Report()
        # Whole hours only, so that a file is an hour and a late row is seldom.
        self.cutoff = floor(text_of(now - job.retention_days * DAY), HOUR)

    def run(self) -> Report:
        """Do all there is to do."""
        for aside in pending(self.connection, self.job.database):
            self.report.salvaged[aside.name] = salvage(self.connection, aside, self.now, self.job.retention_days)
        self.settle(self.place.names())
        with Transaction(self.connection):
            for kind in KIND_TABLES:
                roll_up(self.connection, kind, except_for=floor(text_of(self.now), HOUR))
        self.report.summaries = close_weeks(self.connection, self.place, self.now)
        for stored in STORED:
            self.move_hours(stored.table)
            self.compact(stored.table)
        self.limit()
        self.delete_doomed()
        self.shrink()
        self.report.archive_bytes = sum(file.bytes for file in ledger.live(self.connection))
        return self.report

    # What an earlier run left

    def settle(self, present: set[str]) -> None:
        """Finish what an earlier run began, and take in files that the ledger does not know."""
        listed = ledger.live(self.connection)
        known = {file.path for file in listed}
        strangers = sorted(
            name for name in present - known - set(ledger.doomed(self.connection)) if _source(name) in TABLES
        )
        replaced = {name: self._replaced_by(name) for name in strangers}
        # A file that takes over others goes first: if they are listed, its swap was never committed.
        for name in sorted(strangers, key=lambda name: not replaced[name]):
            if known.intersection(replaced[name]) or any(name in others for others in replaced.values()):
                self._delete(name)
            else:
                self._adopt(name)
        gone = [file.path for file in listed if file.path not in present]
        if gone:
            self.report.lost += gone
            ledger.strike(self.connection, gone)
        self.delete_doomed()

    def _replaced_by(self, name: str) -> list[str]:
        try:
            return replaced_by(self.place.open(name))
        except (OSError, pa.ArrowException):
            return []  # said when it is taken in

    def _adopt(self, name: str) -> None:
        """Take in a whole file that the ledger does not know: a kill came before the rows were deleted, or the database
        is new."""
        table = TABLES[_source(name)]
        try:
            rows = self.place.open(name).read(use_threads=False)
        except pa.ArrowInvalid as error:
            self.place.put_aside(name)
            self.report.trouble.append(f"{name} is damaged and is put aside: {error}")
            return
        except OSError as error:
            self.report.trouble.append(f"{name} cannot be read: {error}")
            return
        size = self._size(name)
        keys = _keys(conform(rows, schema_of(table)), table)
        ledger.move(self.connection, _listed(name, table, rows, size), lambda: keys, fresh=False)

    def _size(self, name: str) -> int:
        return self.place.size(name) + self.place.size(rollup_name(name))

    def delete_doomed(self) -> None:
        """Delete what is out of the archive, unless someone is reading."""
        names = ledger.doomed(self.connection)
        if not names:
            return
        try:
            with locked(self.job.readers_lock):
                for name in names:
                    self._delete(name)
                    ledger.strike(self.connection, [name])
        except BusyError:
            pass  # the next run does it

    def _delete(self, name: str) -> None:
        self.place.delete(name)
        self.place.delete(rollup_name(name))

    # From SQLite to Parquet

    def move_hours(self, table: Table) -> None:
        """Move a table's rows from before the cutoff, hour by hour."""
        if not self.job.archive:
            self.report.rows[table.name] = ledger.delete_before(self.connection, table.name, self.cutoff)
            return
        hour = ledger.oldest_hour(self.connection, table.name, self.cutoff)
        while hour is not None:
            end = text_of(seconds_of(hour) + HOUR)
            self._move_hour(table, hour, end)
            hour = ledger.oldest_hour(self.connection, table.name, self.cutoff, end)

    def _move_hour(self, table: Table, hour: str, end: str) -> None:
        name = self._free_name(table, f"{hour[:10]}T{hour[11:13]}", hour[:10])
        written: list[pa.Table] = []
        self.connection.execute("BEGIN")  # states and rows of one moment
        try:
            size = self.place.write(name, table, self._pieces(table, hour, end, written))
        finally:
            self.connection.execute("COMMIT")
        keys = pa.concat_tables(written)
        ledger.move(self.connection, _listed(name, table, keys, size), lambda: _keys(keys, table), fresh=True)
        self.report.rows[table.name] = self.report.rows.get(table.name, 0) + keys.num_rows
        self.report.written += 1
        give_back()

    def _pieces(self, table: Table, hour: str, end: str, written: list[pa.Table]) -> Iterator[pa.Table]:
        """Give an hour's rows in pieces, each sorted; the times and keys of what was given are added to `written`.

        A piece is one GPU's, or more where they are few: so that a day is made of hours by reading each piece once.
        """
        for states in portions(self.connection, table.name, hour, end, PIECE_ROWS):
            rows = in_order(extract(self.connection, table.name, hour, end, states=states), table)
            written.append(rows.select([table.time, *table.key]))
            yield rows
            del rows  # before the next is made: there is memory for one

    def _free_name(self, table: Table, stem: str, date: str) -> str:
        """Give a name that no file has had: of the day, or of the hour, and a number."""
        taken = {row[0] for row in self.connection.execute("SELECT path FROM archive_files WHERE date = ?", (date,))}
        names = (f"table={table.name}/date={date}/{stem}-{number}.parquet" for number in range(len(taken) + 1))
        return next(name for name in names if name not in taken)

    # From the hours of a day to a day

    def compact(self, table: Table) -> None:
        """Make one file of the files of each day that is over and has several, where there is memory for it."""
        limit = limit_bytes()
        if limit is not None and limit < COMPACTION_BYTES:
            return  # hours can be read as well, and a container that is killed each night keeps nothing
        by_date: dict[str, list[Listed]] = {}
        for file in ledger.live(self.connection, table.name):
            by_date.setdefault(file.date, []).append(file)
        for date, files in by_date.items():
            over = f"{date} 24" <= self.cutoff[:13] or date < self.cutoff[:10]
            if over and (len(files) > 1 or "T" in files[0].path.rsplit("/", 1)[1]):
                self._compact(table, date, files)

    def _compact(self, table: Table, date: str, files: list[Listed]) -> None:
        def opened() -> Iterator[pq.ParquetFile]:
            return (self.place.open(file.path) for file in files)

        schema = union(table, opened())
        name = self._free_name(table, date, date)
        summary = Summary(table)
        size = self.place.write(
            name,
            table,
            summary.of(merged(opened, table, schema)),
            schema=schema,
            replaces=[file.path for file in files],
        )
        size += summary.write(self.place, name)
        first, last = min(file.first for file in files), max(file.last for file in files)
        count = sum(file.rows for file in files)
        ledger.swap(self.connection, Listed(name, table.name, date, first, last, count, size), files)
        self.report.written += 1
        give_back()

    # Limits

    def limit(self) -> None:
        """Take the oldest files out of the archive: those past their days, then as many as the bytes want."""
        files = sorted(ledger.live(self.connection), key=lambda file: (file.date, file.path))
        leave: list[Listed] = []
        if self.job.archive_retention_days:
            oldest = text_of(self.now - self.job.archive_retention_days * DAY)
            leave = [file for file in files if file.last < oldest]
        if self.job.max_disk_bytes:
            rest = [file for file in files if file not in leave]
            excess = sum(file.bytes for file in rest) + database_bytes(self.connection) - self.job.max_disk_bytes
            while excess > 0 and rest:
                file = rest.pop(0)
                leave.append(file)
                excess -= file.bytes
        if leave:
            ledger.doom(self.connection, [file.path for file in leave])
            self.report.removed += [file.path for file in leave]

    def shrink(self) -> None:
        """Give pages back when much of the database is free, as after a time without the archive."""
        while True:
            pages, free = (
                self.connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")
            )
            if free <= FREE_PAGES or free <= pages * FREE_SHARE:
                return
            # One page is freed at each step, and execute() makes only one of a statement that gives no rows.
            self.connection.executescript(f"PRAGMA incremental_vacuum({FREE_PAGES})")


def database_bytes(connection: sqlite3.Connection) -> int:
    """Give the bytes of the database that hold something."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _source(name: str) -> str:
    return name.split("/", 1)[0].removeprefix("table=")


def _listed(name: str, table: Table, rows: pa.Table, size: int) -> Listed:
    times = pc.min_max(rows.column(table.time).cast(pa.int64())).as_py()
    date = name.split("/")[1].removeprefix("date=")
    first, last = text_of(times["min"] / 1000), text_of(times["max"] / 1000)
    return Listed(name, table.name, date, first, last, rows.num_rows, size)


def _keys(rows: pa.Table, table: Table) -> Iterator[ledger.Row]:
    times = rows.column(table.time).cast(pa.int64()).to_pylist()
    texts = {time: text_of(time / 1000) for time in set(times)}
    columns = [rows.column(name).to_pylist() for name in table.key]
    keys = zip(*columns, strict=True) if columns else iter([()] * len(times))
    return ((texts[time], key) for time, key in zip(times, keys, strict=True))


def run(job: Job, now: float | None = None) -> Report:
    """Run the archive once; raises BusyError while another run goes on, OSError where the archive is out of reach."""
    with locked(Path(job.data_dir) / "archive.lock"):
        connection = connect(job.database)
        try:
            return Archivist(job, time.time() if now is None else now, connection).run()
        finally:
            connection.close()


def main() -> None:
    """Read a job from standard input, run it at the lowest priority, and write the report as JSON."""
    os.nice(NICENESS)
    gc.freeze()  # what was imported stays, and need not be looked at again
    job = Job.loads(sys.stdin.read())
    try:
        report = run(job)
    except (BusyError, DamagedError, OSError, sqlite3.Error, pa.ArrowException) as error:
        report = Report(trouble=[str(error)])
    sys.stdout.write(json.dumps(asdict(report)) + "\n")


if __name__ == "__main__":
    main()
