"""Work that is killed: run in a process of its own, ended by a timer of the kernel at any instruction.

SIGALRM's default action ends a process as SIGKILL does: nothing of it runs any more.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from gpumon.catalog import Entity
from gpumon.catalog.records import Event
from gpumon.store import ledger
from gpumon.store.archive import run
from gpumon.store.database import MIGRATIONS, connect
from gpumon.store.job import Job
from gpumon.store.parquet import Place
from gpumon.store.schema import DAY, KIND_TABLES, SPAN, TABLES, seconds_of, text_of
from gpumon.store.writer import Writer, pack, pack_records
from tests.store.nodes import START, Node

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["gpumon.store.archive"])


def killed(seconds: float, work: Callable[..., None], *arguments: Any) -> bool:
    """Run `work` and kill it after so many seconds; says whether the kill came before its end."""
    process = _context.Process(target=_with_timer, args=(seconds, dict(os.environ), work, arguments))
    process.start()
    process.join()
    if process.exitcode not in (0, -signal.SIGALRM):
        raise AssertionError(f"the work failed by itself: {process.exitcode}")
    return process.exitcode != 0


def _with_timer(
    seconds: float, environment: dict[str, str], work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(environment)  # the server that processes are forked from was started with another
    signal.setitimer(signal.ITIMER_REAL, seconds)
    work(*arguments)
    signal.setitimer(signal.ITIMER_REAL, 0)


def job(folder: Path, **changes: Any) -> Job:
    """Give a job whose archive lies beside the database."""
    return Job(**({"data_dir": str(folder), "archive_dir": str(folder / "archive"), "retention_days": 1.0} | changes))


def fill(folder: Path, ticks: int, interval: float = 600.0, gpus: int = 2) -> None:
    """Write ticks, and an event with each tenth."""
    connection = connect(folder / "gpumon.db")
    writer = Writer(connection)
    waiting: list[bytes] = []
    for snapshot in Node(gpus=gpus, interval=interval).snapshots(ticks):
        waiting.append(pack(snapshot))
        if snapshot.number % 10 == 0:
            waiting.append(
                pack_records([Event(timestamp=snapshot.time, kind="xid", message=f"event {snapshot.number}")])
            )
        if len(waiting) >= 100:
            writer.write(waiting)
            waiting.clear()
    writer.write(waiting)
    connection.close()


def rows_in_tables(folder: Path) -> Counter[tuple[Any, ...]]:
    """Count every row of the database."""
    connection = sqlite3.connect(folder / "gpumon.db")
    found: Counter[tuple[Any, ...]] = Counter()
    for table in TABLES.values():
        names = ", ".join(table.names())
        found.update((table.name, *row) for row in connection.execute(f"SELECT {names} FROM {table.view}"))
    connection.close()
    return found


def rows_in_archive(the_job: Job) -> Counter[tuple[Any, ...]]:
    """Count every row of the files that the ledger calls live."""
    connection = sqlite3.connect(the_job.database)
    place = Place(the_job)
    found: Counter[tuple[Any, ...]] = Counter()
    for file in ledger.live(connection):
        found.update(rows_of(place.open(file.path).read(), file.source))
    connection.close()
    return found


def rows_of(read: pa.Table, source: str) -> list[tuple[Any, ...]]:
    """Give the rows of a file as the database gives them."""
    table = TABLES[source]
    columns = [read.column(name).to_pylist() for name in table.names()]
    columns[0] = [text_of(time.timestamp()) for time in columns[0]]
    return [(source, *row) for row in zip(*columns, strict=True)]


def rows_everywhere(the_job: Job) -> Counter[tuple[Any, ...]]:
    """Count every row, wherever it is."""
    return rows_in_tables(Path(the_job.data_dir)) + rows_in_archive(the_job)


def samples(folder: Path) -> int:
    """Count the rows that roll-ups and open spans stand for."""
    connection = sqlite3.connect(folder / "gpumon.db")
    total = 0
    for kind in KIND_TABLES:
        total += connection.execute(f"SELECT coalesce(sum(samples), 0) FROM {kind.rollup}").fetchone()[0]
        for (start,) in connection.execute("SELECT start FROM open_spans WHERE source = ?", (kind.name,)).fetchall():
            query = f"SELECT count(*) FROM {kind.name} WHERE timestamp >= ? AND timestamp < ?"
            total += connection.execute(query, (start, text_of(seconds_of(start) + SPAN))).fetchone()[0]
    connection.close()
    return int(total)


def without(entity: Entity, column: str) -> Entity:
    """Give an entity that lacks one reading."""
    values = list(entity.values)
    values[entity.kind.index[column]] = None
    return Entity(entity.kind, entity.labels, tuple(values))


# The work that is killed

LATER = START + 4 * DAY


def archive(the_job: Job) -> None:
    """Run the archive when all rows of four days are old enough."""
    run(the_job, now=LATER)


def write(folder: Path, pipe: Any, ticks: int) -> None:
    """Write ticks and say after each how many are written."""
    connection = connect(folder / "gpumon.db")
    writer = Writer(connection)
    for snapshot in Node(gpus=2).snapshots(ticks):
        writer.write([pack(snapshot)])
        pipe.send(snapshot.number)


def migrate(folder: Path) -> None:
    """Bring the database one version on, with a change to every row."""
    step = (
        "CREATE TABLE renamed AS SELECT * FROM events",
        "DROP TABLE events",
        "ALTER TABLE renamed RENAME TO events",
    )
    connect(folder / "gpumon.db", (*MIGRATIONS, step)).close()
