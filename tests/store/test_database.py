"""A database is brought to this version, whatever older version wrote it, and a newer one is left alone."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest

from gpumon.store.database import MIGRATIONS, NewerDatabaseError, connect, refuse_newer
from gpumon.store.schema import STORED


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def newer(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE gpu_metrics (something TEXT)")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.commit()
    connection.close()


def test_a_newer_file_is_refused_in_one_sentence_and_not_a_byte_of_it_changes(tmp_path: Path) -> None:
    """Names the file, both versions and what to do."""
    path = tmp_path / "gpumon.db"
    newer(path)
    before = contents(tmp_path)
    for open_it in (refuse_newer, connect):
        with pytest.raises(NewerDatabaseError, match=r"gpumon\.db was written by a newer gpumon \(schema 2, this one"):
            open_it(path)
        assert contents(tmp_path) == before


def test_a_newer_file_with_a_log_that_was_not_checkpointed_is_refused_too(tmp_path: Path) -> None:
    """The version may still be only in the write-ahead log, as after a kill."""
    path = tmp_path / "gpumon.db"
    source = tmp_path / "source.db"
    connection = connect(source)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    for suffix in ("", "-wal"):
        (tmp_path / f"gpumon.db{suffix}").write_bytes((tmp_path / f"source.db{suffix}").read_bytes())
    connection.close()
    before = contents(tmp_path)
    with pytest.raises(NewerDatabaseError):
        connect(path)
    after = contents(tmp_path)
    assert {name: after[name] for name in ("gpumon.db", "gpumon.db-wal")} == {
        name: before[name] for name in ("gpumon.db", "gpumon.db-wal")
    }


def test_a_new_database_has_every_table_and_the_chosen_settings(tmp_path: Path) -> None:
    """WAL, durable commits, a file that can shrink."""
    connection = connect(tmp_path / "gpumon.db")
    settings = {
        name: connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "auto_vacuum", "user_version")
    }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "auto_vacuum": 2, "user_version": len(MIGRATIONS)}
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    assert {name for stored in STORED for name in stored.shapes()} <= tables


def test_columns_that_the_catalogue_gained_are_added_and_those_it_lost_are_kept(tmp_path: Path) -> None:
    """An older gpumon's rows stay, with NULL where it had no such reading."""
    path = tmp_path / "gpumon.db"
    connection = connect(path)
    connection.execute("DROP VIEW gpu_readings")
    for table, column in (
        ("gpu_metrics", "power"),
        ("gpu_metrics_2m", "power_max"),
        ("gpu_states", "power_limit_min_watts"),
    ):
        connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    connection.execute("ALTER TABLE gpu_metrics ADD COLUMN retired_reading REAL")
    connection.execute("INSERT INTO gpu_metrics (timestamp, state, gpu_id, retired_reading) VALUES ('t', 1, 0, 5)")
    connection.close()
    connection = connect(path)
    assert connection.execute("SELECT power, retired_reading FROM gpu_metrics").fetchall() == [(None, 5.0)]
    assert connection.execute("SELECT timestamp, power, power_limit_min_watts FROM gpu_readings").fetchall() == [
        ("t", None, None)
    ]


def test_migrations_run_once_each_in_order_and_together_or_not_at_all(tmp_path: Path) -> None:
    """Two steps ahead of today's; the second fails the first time."""
    path = tmp_path / "gpumon.db"
    connect(path).close()
    first = ("CREATE TABLE one (x)", "INSERT INTO one VALUES (1)")
    broken = ("CREATE TABLE two (x)", "INSERT INTO nowhere VALUES (1)")
    with pytest.raises(sqlite3.OperationalError):
        connect(path, (*MIGRATIONS, first, broken))
    connection = connect(path)
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('one', 'two')").fetchone() == (0,)
    connection.close()
    whole = ("CREATE TABLE two (x)",)
    for _ in range(2):
        connection = connect(path, (*MIGRATIONS, first, whole))
        assert connection.execute("SELECT count(*) FROM one").fetchone() == (1,)
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 2,)
        connection.close()
