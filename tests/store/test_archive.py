"""What leaves the database is in the archive, equal, within its limits, and readable with the tools people have."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumon import __version__
from gpumon.catalog import GPU
from gpumon.store.archive import run
from gpumon.store.database import MIGRATIONS, connect
from gpumon.store.job import BusyError, locked
from gpumon.store.parquet import DamagedError, Place, fingerprint, merged, schema_of, union
from gpumon.store.schema import DAY, TABLES, StoredColumn, Table
from gpumon.store.writer import Writer, pack
from tests.store import crash
from tests.store.nodes import START, Node

LATER = START + 40 * DAY


def node_days(folder: Path, days: float, interval: float, gpus: int) -> None:
    connection = connect(folder / "gpumon.db")
    writer = Writer(connection)
    waiting: list[bytes] = []
    for snapshot in Node(gpus=gpus, interval=interval).snapshots(int(days * DAY / interval) - 1):
        waiting.append(pack(snapshot))
        if len(waiting) == 500:
            writer.write(waiting)
            waiting.clear()
    writer.write(waiting)
    connection.close()


@pytest.mark.parametrize(
    ("days", "interval", "gpus"),
    [pytest.param(2, 3600, 8, id="short"), pytest.param(30, 60, 8, id="thirty-days", marks=pytest.mark.slow)],
)
def test_days_of_a_node_come_back_equal_row_by_row(tmp_path: Path, days: float, interval: float, gpus: int) -> None:
    """One file per table and day; every row and every reading is in it; nothing is left behind."""
    node_days(tmp_path, days, interval, gpus)
    expected = crash.rows_in_tables(tmp_path)
    job = crash.job(tmp_path)
    report = run(job, now=LATER)
    assert report.trouble == []
    assert crash.rows_in_archive(job) == expected
    assert not crash.rows_in_tables(tmp_path)
    names = sorted(path.name for path in (tmp_path / "archive" / "table=gpu_metrics").glob("date=*/*"))
    assert len(names) == len(set(names)) == int(days)
    connection = sqlite3.connect(job.database)
    for name in ("gpu_metrics_2m", "open_spans"):
        assert connection.execute(f"SELECT count(*) FROM {name}").fetchone() == (0,), name
    connection.close()


def test_rows_younger_than_the_retention_stay(tmp_path: Path) -> None:
    """The cut is at a whole hour, and never later than the retention."""
    node_days(tmp_path, 3, 600, 1)
    job = crash.job(tmp_path, retention_days=1.5)
    run(job, now=START + 3 * DAY + 100)
    connection = sqlite3.connect(job.database)
    (oldest,) = connection.execute("SELECT min(timestamp) FROM gpu_metrics").fetchone()
    connection.close()
    assert oldest.startswith("2026-11-24 12:00:00")


def test_without_parquet_old_rows_are_deleted(tmp_path: Path) -> None:
    """And no file is written."""
    node_days(tmp_path, 2, 600, 1)
    job = crash.job(tmp_path, archive=False)
    report = run(job, now=START + 2 * DAY)
    assert report.rows["gpu_metrics"] == 143
    assert not list((tmp_path / "archive").rglob("*.parquet"))
    connection = sqlite3.connect(job.database)
    assert connection.execute("SELECT count(*) FROM gpu_metrics").fetchone() == (144,)
    connection.close()


def test_a_row_that_comes_late_joins_the_file_of_its_day(tmp_path: Path) -> None:
    """The clock had been wrong, or the disk full: a day that is archived already gets more rows."""
    job = crash.job(tmp_path)
    crash.fill(tmp_path, ticks=12, interval=10800)
    run(job, now=LATER)
    before = crash.rows_in_archive(job)
    connection = connect(job.database)
    Writer(connection).write([pack(snapshot) for snapshot in Node(gpus=3, interval=1801).snapshots(4)])
    connection.close()
    late = crash.rows_in_tables(tmp_path)
    run(job, now=LATER)
    assert crash.rows_in_archive(job) == before + late
    assert len(list((tmp_path / "archive" / "table=gpu_metrics" / "date=2026-11-23").iterdir())) == 1


def test_files_name_the_node_the_version_and_the_schema(tmp_path: Path) -> None:
    """In the file's own metadata; zstd; the dictionary and difference encodings that were measured."""
    job = crash.job(tmp_path, node="node-7", cluster="lab")
    crash.fill(tmp_path, ticks=12, interval=10800)
    run(job, now=LATER)
    (path,) = (tmp_path / "archive" / "table=gpu_metrics" / "date=2026-11-23").iterdir()
    file = pq.ParquetFile(path)
    metadata = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    assert metadata["gpumon.node"] == "node-7"
    assert metadata["gpumon.cluster"] == "lab"
    assert metadata["gpumon.version"] == __version__
    assert metadata["gpumon.schema"] == str(len(MIGRATIONS))
    assert len(json.loads(metadata["gpumon.replaces"])) > 5
    group = file.metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {column.compression for column in columns.values()} == {"ZSTD"}
    assert "DELTA_BINARY_PACKED" in columns["pcie_receive_bytes_total"].encodings
    assert "RLE_DICTIONARY" in columns["power"].encodings


def test_files_from_before_a_column_existed_are_read_and_compacted(tmp_path: Path) -> None:
    """And a column the catalogue lost is kept."""
    job = crash.job(tmp_path)
    crash.fill(tmp_path, ticks=12, interval=10800)
    run(job, now=LATER)
    place = Place(job)
    name = next(path for path in place.names() if path.startswith("table=gpu_metrics/date=2026-11-23"))
    rows = place.open(name).read()
    older = rows.drop_columns(["power"]).append_column("lost_reading", pa.array([1.5] * rows.num_rows))
    pq.write_table(older, place.path(name), compression="zstd")
    connection = connect(job.database)
    Writer(connection).write([pack(snapshot) for snapshot in Node(gpus=2, interval=1801).snapshots(4)])
    connection.close()
    run(job, now=LATER)
    (path,) = (tmp_path / "archive" / "table=gpu_metrics" / "date=2026-11-23").iterdir()
    both = pq.ParquetFile(path).read()
    assert both.column("power").null_count == rows.num_rows
    assert both.column("lost_reading").null_count == 8
    assert both.column_names == [*rows.column_names, "lost_reading"]


def test_the_oldest_files_make_room_and_nothing_else(tmp_path: Path) -> None:
    """max_disk_bytes takes days from the old end; what is in the database is never touched."""
    node_days(tmp_path, 5, 7200, 2)
    job = crash.job(tmp_path, retention_days=2.0)
    run(job, now=START + 5 * DAY)
    in_tables = crash.rows_in_tables(tmp_path)
    connection = sqlite3.connect(job.database)
    (used,) = connection.execute("SELECT sum(bytes) FROM archive_files").fetchone()
    connection.close()
    report = run(crash.job(tmp_path, retention_days=2.0, max_disk_bytes=1), now=START + 5 * DAY)
    assert len(report.removed) == len(set(report.removed)) > 0
    assert report.archive_bytes == 0 < used
    assert crash.rows_in_tables(tmp_path) == in_tables
    assert not list((tmp_path / "archive").rglob("*.parquet"))


def test_files_past_their_days_leave_the_archive(tmp_path: Path) -> None:
    """archive_retention_days counts from now, whole files only."""
    node_days(tmp_path, 5, 7200, 1)
    job = crash.job(tmp_path, archive_retention_days=3.0)
    report = run(job, now=START + 5 * DAY)
    dates = sorted({path.parent.name for path in (tmp_path / "archive" / "table=gpu_metrics").glob("*/*")})
    assert dates == ["date=2026-11-25", "date=2026-11-26"]
    assert len(report.removed) == 4


def test_a_file_that_is_being_read_is_deleted_later(tmp_path: Path) -> None:
    """A reader holds the lock while it reads."""
    crash.fill(tmp_path, ticks=12, interval=10800)
    job = crash.job(tmp_path)
    with locked(job.readers_lock, shared=True):
        run(job, now=LATER)
        hours = list((tmp_path / "archive" / "table=gpu_metrics").glob("date=*/*T*"))
    assert hours
    run(job, now=LATER)
    assert not list((tmp_path / "archive" / "table=gpu_metrics").glob("date=*/*T*"))


def test_a_database_that_lost_most_of_its_rows_becomes_smaller(tmp_path: Path) -> None:
    """After a time without the archive, its space goes back to the volume."""
    node_days(tmp_path, 1, 30, 8)
    before = (tmp_path / "gpumon.db").stat().st_size
    assert before > 5e6
    run(crash.job(tmp_path, archive=False), now=LATER)
    assert (tmp_path / "gpumon.db").stat().st_size < 4.5e6


def test_only_one_archive_runs_at_a_time(tmp_path: Path) -> None:
    """The second says so."""
    crash.fill(tmp_path, ticks=3)
    with locked(tmp_path / "archive.lock"), pytest.raises(BusyError, match=r"archive\.lock is held by another process"):
        run(crash.job(tmp_path), now=LATER)


def test_a_lost_database_finds_its_archive_again(tmp_path: Path) -> None:
    """A new ledger is made from the files; a day and the hours it was made of count once."""
    crash.fill(tmp_path, ticks=20, interval=7200)
    job = crash.job(tmp_path)
    with locked(job.readers_lock, shared=True):  # so that the hours are still there
        run(job, now=LATER)
    expected = crash.rows_in_archive(job)
    for path in tmp_path.glob("gpumon.db*"):
        path.unlink()
    run(job, now=LATER)
    assert crash.rows_in_archive(job) == expected


def test_a_file_somebody_deleted_is_told_and_forgotten(tmp_path: Path) -> None:
    """And the rest is still read."""
    crash.fill(tmp_path, ticks=30, interval=7200)
    job = crash.job(tmp_path)
    run(job, now=LATER)
    victim = next((tmp_path / "archive" / "table=gpu_metrics").glob("*/*"))
    victim.unlink()
    report = run(job, now=LATER)
    assert [Path(name).name for name in report.lost] == [victim.name]
    assert crash.rows_in_archive(job)


def test_a_damaged_file_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    """Pages carry checksums."""
    crash.fill(tmp_path, ticks=30, interval=7200)
    job = crash.job(tmp_path)
    run(job, now=LATER)
    path = next((tmp_path / "archive" / "table=gpu_metrics").glob("*/*"))
    content = bytearray(path.read_bytes())
    content[100:600] = bytes(byte ^ 0xFF for byte in content[100:600])
    path.write_bytes(content)
    with pytest.raises((OSError, pa.ArrowException)):
        Place(job).open(str(path.relative_to(tmp_path / "archive"))).read()


def test_what_is_read_back_differently_is_not_archived(tmp_path: Path) -> None:
    """The file does not take its name, and the rows stay."""
    table = TABLES["events"]
    rows = pa.table([[0], [1], ["xid"], ["m"], [None], [None], [None], [None]], schema=schema_of(table))
    place = Place(crash.job(tmp_path))
    with pytest.raises(DamagedError, match="read back differently"):
        place._verify(_written(place, table, rows), [fingerprint(rows.slice(0, 0))])


def _written(place: Place, table: Table, rows: pa.Table) -> str:
    place.write("table=events/date=1970-01-01/x.parquet", table, [rows])
    return place.path("table=events/date=1970-01-01/x.parquet")


def test_a_stray_file_that_is_no_parquet_is_put_aside_and_told_once(tmp_path: Path) -> None:
    """It keeps nothing from working."""
    crash.fill(tmp_path, ticks=12, interval=7200)
    job = crash.job(tmp_path)
    stray = tmp_path / "archive" / "table=gpu_metrics" / "date=2026-01-01" / "stray.parquet"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"PAR1 and then nothing" * 10)
    assert "is damaged and is put aside" in run(job, now=LATER).trouble[0]
    assert run(job, now=LATER).trouble == []
    assert stray.with_name("stray.parquet.damaged").exists()


def test_duckdb_reads_archive_and_database_as_one_table(tmp_path: Path) -> None:
    """With hive partitioning, names united, and SQLite's rows beside."""
    node_days(tmp_path, 2, 4800, 2)
    total = sqlite3.connect(tmp_path / "gpumon.db").execute("SELECT count(*), max(power) FROM gpu_metrics").fetchone()
    run(crash.job(tmp_path), now=START + 2 * DAY)
    files = f"read_parquet('{tmp_path}/archive/table=gpu_metrics/*/*.parquet', union_by_name = true)"
    connection = duckdb.connect()
    count, power, days = connection.execute(
        f"SELECT count(*), max(power), count(DISTINCT date) FROM {files} WHERE \"timestamp\" < '2026-11-24'"
    ).fetchone()
    assert count == 2 * 17
    assert days == 1
    hottest = connection.execute(f"SELECT gpu_uuid, date, max(temperature) FROM {files} GROUP BY ALL").fetchall()
    assert len(hottest) == 2
    left = sqlite3.connect(tmp_path / "gpumon.db").execute("SELECT count(*), max(power) FROM gpu_metrics").fetchone()
    assert (count + left[0], max(power, left[1])) == total


def test_pandas_reads_the_archive(tmp_path: Path) -> None:
    """As one frame with plain numbers and times."""
    node_days(tmp_path, 2, 4800, 2)
    run(crash.job(tmp_path), now=LATER)
    frame = pd.read_parquet(tmp_path / "archive" / "table=gpu_metrics")
    assert len(frame) == 2 * 35
    assert frame["power"].dtype == "float64"
    assert str(frame["timestamp"].dtype) == "datetime64[ms, UTC]"
    assert frame.groupby("gpu_id", observed=True)["power"].mean().notna().all()
    filters = [("date", ">=", "2026-11-24"), ("gpu_id", "==", 0)]
    assert len(pd.read_parquet(tmp_path / "archive" / "table=gpu_metrics", filters=filters)) == 18


@given(
    types=st.lists(st.sampled_from(["int64", "float64", "string"]), min_size=1, max_size=6),
    files=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_any_schema_is_written_merged_and_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, types: list[str], files: list[int], seed: int
) -> None:
    """Nulls, negative numbers, text, keys in any order, files that lack a column."""
    import random

    chance = random.Random(seed)
    columns = (StoredColumn("gpu_id", "INTEGER", "int64"),)
    columns += tuple(StoredColumn(f"c{i}_total", "REAL", kind, bool(i % 2)) for i, kind in enumerate(types))
    table = Table("gpu_metrics", "timestamp", ("gpu_id",), columns, "")
    schema = schema_of(table)

    def value(kind: str) -> object:
        made = {
            "int64": chance.randrange(-(2**60), 2**60),
            "float64": chance.gauss(0, 1e6),
            "string": str(chance.random()),
        }
        return None if chance.random() < 0.2 else made[kind]

    place = Place(crash.job(tmp_path_factory.mktemp("any")))
    everything = []
    for number, count in enumerate(files):
        rows = [
            {"timestamp": number * 10**6 + i, "gpu_id": chance.randrange(3)}
            | {c.name: value(c.arrow) for c in columns[1:]}
            for i in range(count)
        ]
        everything += rows
        written = pa.Table.from_pylist(rows, schema=schema)
        place.write(f"table=t/date=2026-01-01/{number}.parquet", table, [written])
    opened = [place.open(f"table=t/date=2026-01-01/{number}.parquet") for number in range(len(files))]
    together = pa.concat_tables(merged(lambda: opened, table, union(table, opened)))
    time = together.column("timestamp").cast(pa.int64())
    found = together.set_column(0, "timestamp", time).to_pylist()
    assert sorted(found, key=lambda row: row["timestamp"]) == everything
    order = [(row["gpu_id"], row["timestamp"]) for row in found]
    assert order == sorted(order)


def test_the_archive_has_every_column_of_the_catalogue(tmp_path: Path) -> None:
    """Labels and slow readings as well, in every row."""
    crash.fill(tmp_path, ticks=12, interval=10800)
    run(crash.job(tmp_path), now=LATER)
    (path,) = (tmp_path / "archive" / "table=gpu_metrics" / "date=2026-11-23").iterdir()
    read = pq.ParquetFile(path).read()
    assert set(read.column_names) == {"timestamp", *(label.name for label in GPU.labels), *GPU.index}
    assert read.column("gpu_uuid").null_count == 0
    assert read.column("power_limit_enforced_watts").null_count == 0
