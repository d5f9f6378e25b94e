"""Killed at any moment, no row is lost and none is there twice."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumon.store.archive import run
from gpumon.store.schema import KIND_TABLES, TABLES
from tests.store import crash
from tests.store.crash import job, killed

# Kills per kind of work in each run of the tests; the long run makes it 200 of each.
FEW, MANY = 6, 200
KILLS = [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder in memory where there is one: a kill is a kill there too, and syncing costs nothing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def duration(work: object, *arguments: object) -> float:
    started = time.perf_counter()
    killed(60, work, *arguments)  # type: ignore[arg-type]
    return time.perf_counter() - started


@pytest.mark.parametrize("kills", KILLS)
def test_archiving_and_compacting_lose_and_double_nothing(folder: Path, kills: int) -> None:
    """Counts every row after every kill, with what each of the two readers sees; then lets the archive finish."""
    start = folder / "start"
    start.mkdir()
    crash.fill(start, ticks=10, interval=14400)
    expected = crash.rows_in_tables(start)
    trial = folder / "trial"
    shutil.copytree(start, trial)
    whole = duration(crash.archive, job(trial))
    chance = random.Random(kills)
    struck = 0
    while struck < kills:
        shutil.rmtree(trial)
        shutil.copytree(start, trial)
        for _ in range(20):
            struck += (alive := killed(chance.uniform(0, whole), crash.archive, job(trial)))
            assert crash.rows_everywhere(job(trial)) == expected
            assert crash.samples(trial) == sum(
                count for row, count in crash.rows_in_tables(trial).items() if row[0] in {k.name for k in KIND_TABLES}
            )
            if not alive:
                break
        run(job(trial), now=crash.LATER)
        assert crash.rows_everywhere(job(trial)) == expected
        left = crash.rows_in_tables(trial)
        assert not left
        files = list((trial / "archive").glob("table=*/date=*/*"))
        listed = sqlite3.connect(trial / "gpumon.db").execute("SELECT path FROM archive_files").fetchall()
        raw = {str(f.relative_to(trial / "archive")) for f in files if f.parts[-3].removeprefix("table=") in TABLES}
        assert raw == {path for (path,) in listed}


@pytest.mark.parametrize("kills", KILLS)
def test_a_written_tick_stays_written(folder: Path, kills: int) -> None:
    """All ticks whose writing had returned are there, and at most the one under way."""
    chance = random.Random(kills)
    for i in range(kills):
        trial = folder / str(i)
        trial.mkdir()
        receiver, sender = crash._context.Pipe(duplex=False)
        killed(chance.uniform(0.05, 0.4), crash.write, trial, sender, 2000)
        sender.close()
        acknowledged = 0
        while receiver.poll():
            try:
                acknowledged = receiver.recv()
            except EOFError:
                break
        if not (trial / "gpumon.db").exists():
            continue
        connection = sqlite3.connect(trial / "gpumon.db")
        if acknowledged:
            assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
            ticks = [count for (count,) in connection.execute("SELECT count(*) FROM gpu_metrics GROUP BY timestamp")]
            assert set(ticks) == {2}
            assert acknowledged <= len(ticks) <= acknowledged + 1
            assert connection.execute("SELECT count(*) FROM host_metrics").fetchone() == (len(ticks),)
        connection.close()
        shutil.rmtree(trial)


@pytest.mark.parametrize("kills", KILLS)
def test_a_migration_is_done_or_not_begun(folder: Path, kills: int) -> None:
    """All rows are there under the old version or under the new one."""
    start = folder / "start"
    start.mkdir()
    crash.fill(start, ticks=300)
    expected = crash.rows_in_tables(start)
    trial = folder / "trial"
    shutil.copytree(start, trial)
    whole = duration(crash.migrate, trial)
    chance = random.Random(kills)
    struck = 0
    while struck < kills:
        shutil.rmtree(trial)
        shutil.copytree(start, trial)
        struck += killed(chance.uniform(0, whole), crash.migrate, trial)
        assert crash.rows_in_tables(trial) == expected
