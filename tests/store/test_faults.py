"""Whatever happens to the disk, the service goes on, keeps what memory holds, and says once what is wrong."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumon.catalog import ARCHIVE, STORAGE, STORAGE_SIZE, STORAGE_TABLE, Snapshot
from gpumon.catalog.records import Event
from gpumon.hub import Hub
from gpumon.store import database
from gpumon.store.archive import run
from gpumon.store.buffer import Buffer
from gpumon.store.database import MIGRATIONS, connect
from gpumon.store.job import Job
from gpumon.store.sink import Store
from gpumon.store.upkeep import Upkeep
from tests.store import crash
from tests.store.nodes import START, Node


class Lines:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, dict[str, Any]]] = []

    def warning(self, event: str, **facts: Any) -> None:
        self.said.append(("warning", event, facts))

    def info(self, event: str, **facts: Any) -> None:
        self.said.append(("info", event, facts))

    def error(self, event: str, **facts: Any) -> None:
        self.said.append(("error", event, facts))


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def mounted(kind: str, options: str, source: str, target: Path) -> None:
    command = ["mount", *([kind] if kind == "--bind" else ["-t", kind]), *(["-o", options] if options else [])]
    answer = subprocess.run([*command, source, str(target)], capture_output=True, text=True, check=False)
    if answer.returncode:
        pytest.skip(f"needs to mount a file system, and may not here: {answer.stderr.strip()}")


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """Give a small real file system, 2 MiB of memory."""
    folder = tmp_path / "volume"
    folder.mkdir()
    mounted("tmpfs", "size=2m", "tmpfs", folder)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def offer(store: Store, snapshots: Iterator[Snapshot]) -> int:
    """Offer snapshots one by one, each written before the next as far as it can be."""
    count = 0
    for snapshot in snapshots:
        store.offer(snapshot)
        store.write_waiting()
        count += 1
    return count


def reading(store: Store, kind: Any, column: str, *labels: str) -> float | None:
    return next(entity[column] for entity in store.entities() if entity.kind is kind and entity.labels == labels)


def ticks(folder: Path) -> int:
    connection = sqlite3.connect(folder / "gpumon.db")
    (count,) = connection.execute("SELECT count(DISTINCT timestamp) FROM gpu_metrics").fetchone()
    connection.close()
    return int(count)


def events(folder: Path) -> list[str]:
    connection = sqlite3.connect(folder / "gpumon.db")
    found = [kind for (kind,) in connection.execute("SELECT kind FROM events ORDER BY id")]
    connection.close()
    return found


def store_at(folder: Path, lines: Lines | None = None, most: int = 600) -> Store:
    return Store(crash.job(folder), clock=Clock(), buffer=Buffer(most), logger=lines or Lines())


def test_a_full_disk_costs_nothing_that_memory_can_hold(volume: Path) -> None:
    """A real full file system: ticks wait, are counted as waiting, and are all written when there is room again."""
    lines = Lines()
    store = store_at(volume, lines)
    node = Node(gpus=4)
    offered = offer(store, node.snapshots(20))
    filler = volume / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    offered += offer(store, node.snapshots(200))
    assert reading(store, STORAGE, "up") == 0
    assert (reading(store, STORAGE, "waiting_ticks") or 0) > 100
    assert [line[:2] for line in lines.said] == [("warning", "history cannot be written, kept in memory")]
    assert "full" in lines.said[0][2]["reason"]
    filler.unlink()
    offered += offer(store, node.snapshots(1))
    assert reading(store, STORAGE, "up") == 1
    assert reading(store, STORAGE, "waiting_ticks") == 0
    assert ticks(volume) == offered
    assert events(volume) == ["storage_back"]
    assert lines.said[-1][1] == "history is written again"


def test_what_memory_cannot_hold_is_dropped_oldest_first_and_counted(volume: Path) -> None:
    """By table; what was lost is never counted as written."""
    store = store_at(volume, most=60)
    node = Node(gpus=2)
    offer(store, node.snapshots(10))
    store.stop_writing()  # a volume with open files cannot be made read-only by hand
    subprocess.run(["mount", "-o", "remount,ro", str(volume)], check=True)
    offer(store, node.snapshots(200))
    subprocess.run(["mount", "-o", "remount,rw", str(volume)], check=True)
    offer(store, node.snapshots(1))
    dropped = reading(store, STORAGE_TABLE, "dropped_rows_total", "gpu_metrics") or 0
    assert dropped == 2 * (211 - ticks(volume))
    assert dropped > 0
    assert reading(store, STORAGE_TABLE, "dropped_rows_total", "host_metrics") == dropped / 2
    assert reading(store, STORAGE_TABLE, "written_rows_total", "gpu_metrics") == 2 * ticks(volume)


def test_a_read_only_volume_at_the_start_is_waited_for(volume: Path) -> None:
    """Nothing can even be created; the first ticks are there once it can."""
    subprocess.run(["mount", "-o", "remount,ro", str(volume)], check=True)
    lines = Lines()
    store = store_at(volume, lines)
    node = Node(gpus=1)
    offer(store, node.snapshots(5))
    assert len(lines.said) == 1
    subprocess.run(["mount", "-o", "remount,rw", str(volume)], check=True)
    offer(store, node.snapshots(1))
    assert ticks(volume) == 6


def test_a_volume_that_goes_and_comes_back_gets_all_ticks(volume: Path, tmp_path: Path) -> None:
    """While it is unmounted nothing is written below its mount point."""
    data = tmp_path / "data"
    data.mkdir()
    mounted("--bind", "", str(volume), data)
    lines = Lines()
    store = store_at(data, lines)
    node = Node(gpus=1)
    offer(store, node.snapshots(5))
    subprocess.run(["umount", "-l", str(data)], check=True)
    offer(store, node.snapshots(5))
    assert list(data.iterdir()) == []
    assert lines.said[0][2]["reason"] == f"the volume of {data} is gone"
    mounted("--bind", "", str(volume), data)
    offer(store, node.snapshots(1))
    store.stop_writing()
    subprocess.run(["umount", "-l", str(data)], check=True)
    assert ticks(volume) == 11


def test_a_database_that_was_deleted_is_made_anew(tmp_path: Path) -> None:
    """Rows do not go to a file that nobody can see."""
    store = store_at(tmp_path)
    node = Node(gpus=1)
    offer(store, node.snapshots(3))
    for path in tmp_path.glob("gpumon.db*"):
        path.unlink()
    offer(store, node.snapshots(2))
    assert ticks(tmp_path) == 2


def test_a_locked_database_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone holds a transaction open in a shell."""
    monkeypatch.setattr(database, "LOCK_WAIT_SECONDS", 0.1)
    store = store_at(tmp_path)
    node = Node(gpus=1)
    offer(store, node.snapshots(1))
    other = sqlite3.connect(tmp_path / "gpumon.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    offer(store, node.snapshots(1))
    assert reading(store, STORAGE, "up") == 0
    other.execute("COMMIT")
    other.close()
    offer(store, node.snapshots(1))
    assert ticks(tmp_path) == 3


def damage(path: Path, every: int) -> None:
    """Overwrite pages of a database in its middle, and fold its log in first."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = bytearray(path.read_bytes())
    pages = len(content) // 4096
    for page in (*range(60, pages, every), *range(pages - 12, pages)):  # new rows go to one of the last
        content[page * 4096 : (page + 1) * 4096] = os.urandom(4096)
    path.write_bytes(content)


def test_of_a_corrupt_database_everything_readable_is_moved_over(tmp_path: Path) -> None:
    """It is set aside under a dated name; readable rows are found again, each once, and the archive too."""
    job = crash.job(tmp_path, retention_days=2.0)
    crash.fill(tmp_path, ticks=2000, interval=86.0)
    before = crash.rows_in_tables(tmp_path)
    damage(tmp_path / "gpumon.db", 13)
    lines = Lines()
    clock = Clock()
    store = Store(job, clock=clock, logger=lines)
    node = Node(gpus=2, start=START + 3 * 86_400)
    assert offer(store, node.snapshots(5)) == 5
    assert [line[:2] for line in lines.said] == [("error", "database corrupt, set aside")]
    (aside,) = tmp_path.glob("gpumon.db.corrupt-*T000000")
    assert aside.name == "gpumon.db.corrupt-20261123T000000"
    report = run(job, now=START + 2 * 86_400)
    found = crash.rows_everywhere(job)
    assert report.salvaged[aside.name]["gpu_metrics"] > 2000  # of 4000, with one page in thirteen gone
    known = {_row_key(row) for row in before}
    salvaged = [_row_key(row) for row in found if _row_key(row) in known]
    assert len(salvaged) == sum(report.salvaged[aside.name].values())
    assert all(count == 1 for count in found.values())
    assert run(job, now=START + 2 * 86_400).salvaged == {}
    assert crash.rows_everywhere(job) == found


def _row_key(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Tell a row apart without labels, whose state may be lost; of records without the number, which is new."""
    return (row[0], row[1], row[2]) if row[0] == "gpu_metrics" else (row[0], row[1])


def test_a_file_that_is_no_database_is_set_aside_by_itself(tmp_path: Path) -> None:
    """Found when the service starts; the next tick is in a new one."""
    (tmp_path / "gpumon.db").write_bytes(os.urandom(20_000))
    store = store_at(tmp_path)
    node = Node(gpus=1)
    offer(store, node.snapshots(2))
    store.write_waiting()
    assert ticks(tmp_path) == 2
    assert "database_corrupt" in events(tmp_path)
    assert len(list(tmp_path.glob("gpumon.db.corrupt-*"))) == 1


def test_a_newer_database_is_never_touched_while_the_service_goes_on(tmp_path: Path) -> None:
    """Its own sentence is said once."""
    path = tmp_path / "gpumon.db"
    connection = connect(path)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    before = path.read_bytes()
    lines = Lines()
    offer(store_at(tmp_path, lines), Node(gpus=1).snapshots(3))
    assert path.read_bytes() == before
    assert len(lines.said) == 1
    assert "newer gpumon" in lines.said[0][2]["reason"]


def test_the_thread_writes_what_is_offered_and_stops_cleanly(tmp_path: Path) -> None:
    """From the hub to the database and out again."""
    store = store_at(tmp_path)

    async def session() -> None:
        hub = Hub()
        task = asyncio.create_task(store.run(hub))
        for snapshot in Node(gpus=1).snapshots(20):
            hub.publish(snapshot)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    store.start()
    asyncio.run(session())
    store.stop()
    assert ticks(tmp_path) == 20
    assert (reading(store, STORAGE_SIZE, "used_bytes", "database") or 0) > 0
    assert 0 < (reading(store, STORAGE, "volume_free_bytes") or 0) < (reading(store, STORAGE, "volume_size_bytes") or 0)
    assert not (tmp_path / "gpumon.db-wal").exists()


def test_a_failed_archive_is_told_once_and_its_recovery_seen(tmp_path: Path) -> None:
    """Through the real child: a file stands where the folder should be."""
    crash.fill(tmp_path, ticks=20, interval=7200)
    (tmp_path / "archive").write_text("not a folder")
    told: list[Event] = []
    upkeep = Upkeep(crash.job(tmp_path), told.append, logger=Lines())
    assert upkeep.entities() == ()
    for _ in range(2):
        asyncio.run(upkeep.once())
    assert [event.kind for event in told] == ["archive_failed"]
    assert upkeep.entities()[0]["success"] == 0
    assert sum(crash.rows_in_tables(tmp_path).values()) == 62
    (tmp_path / "archive").unlink()
    asyncio.run(upkeep.once())
    (entity,) = upkeep.entities()
    assert entity.kind is ARCHIVE
    assert entity["success"] == 1


def test_after_the_clock_was_set_the_archive_waits_a_run(tmp_path: Path) -> None:
    """A week forward by mistake must not make all rows old."""
    told: list[Event] = []
    wall, steady = Clock(), Clock()
    upkeep = Upkeep(
        Job(data_dir="/nowhere", archive_dir="/nowhere"), told.append, wall=wall, steady=steady, logger=Lines()
    )
    wall.now += 7 * 86_400
    asyncio.run(upkeep.once())
    assert [event.kind for event in told] == ["clock_set"]
    assert upkeep.entities() == ()
    assert Counter(tmp_path.iterdir()) == Counter()
