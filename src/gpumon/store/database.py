"""Opening the database: its settings, its migrations, and the refusal of a file from a newer gpumon."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gpumon.store.schema import KIND_TABLES, RECORD_TABLES, STORED

# Forward only: entry n takes a database from version n to n + 1, in one transaction. What was released never changes.
# Columns the catalogue gained are added without an entry here.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # The spans whose rows are not rolled up yet; a span is here as long as it may get rows.
        "CREATE TABLE open_spans (source TEXT, start TEXT, PRIMARY KEY (source, start)) WITHOUT ROWID",
        # The archive's files. What is in a "live" file is in no table here; a "doomed" file is about to be deleted.
        """CREATE TABLE archive_files (
            path TEXT PRIMARY KEY, source TEXT NOT NULL, date TEXT NOT NULL, first TEXT NOT NULL, last TEXT NOT NULL,
            rows INTEGER NOT NULL, bytes INTEGER NOT NULL, state TEXT NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX archive_files_by_date ON archive_files (source, date)",
        # What was moved over from a corrupt database: of which table, and the range of rows that begins at `low`.
        "CREATE TABLE salvaged (file TEXT, source TEXT, low TEXT, PRIMARY KEY (file, source, low)) WITHOUT ROWID",
        """CREATE TABLE weekly_summaries (
            week_start TEXT, week_end TEXT NOT NULL, subject TEXT, name TEXT, gpu_id INTEGER,
            hours_observed REAL, hours_gaming REAL, hours_llm_inference REAL, hours_ml_training REAL,
            hours_general_compute REAL, hours_unknown REAL, busy_hours REAL, energy_joules REAL, peak_memory_bytes REAL,
            peak_temperature_celsius REAL, throttled_hours REAL, xid_errors INTEGER, sessions INTEGER,
            prompt_tokens INTEGER, completion_tokens INTEGER, total_tokens INTEGER,
            median_time_to_first_token_ms REAL, p95_time_to_first_token_ms REAL,
            PRIMARY KEY (week_start, subject, name)
        ) WITHOUT ROWID""",
    ),
)

# How long a writer waits for another process's lock; the tick then stays in memory until the next try. The archive's
# child deletes an hour of rows in one transaction, which at its priority can take seconds on a busy node.
LOCK_WAIT_SECONDS = 10.0

# auto_vacuum: a file that grew while the archive was out of reach can shrink again (set before the first table).
# WAL: readers never wait for the writer, nor it for them.
# synchronous FULL: a tick that was written survives a power cut, for one fsync per tick.
# cache_size: rows are only appended, so 128 KiB of pages are enough; they are memory of the daemon.
# journal_size_limit: the WAL is cut back to 16 MiB after a long reader held it up.
# temp_store: the image has no writable /tmp.
PRAGMAS = (
    "auto_vacuum = INCREMENTAL",
    "journal_mode = WAL",
    "synchronous = FULL",
    "cache_size = -128",
    "journal_size_limit = 16777216",
    "temp_store = MEMORY",
)


class NewerDatabaseError(Exception):
    """The database was written by a newer gpumon; the message says what to do."""


def version_of(path: Path) -> int:
    """Give the schema version of a database without changing a byte of it; 0 for one that is new or absent."""
    if not path.exists() or path.stat().st_size == 0:
        return 0
    log = path.with_name(path.name + "-wal")
    if not log.exists() or log.stat().st_size == 0:
        # SQLite would leave files beside it. The user version is bytes 60 to 63: https://www.sqlite.org/fileformat.html
        with path.open("rb") as file:
            header = file.read(64)
        return int.from_bytes(header[60:64]) if header.startswith(b"SQLite format 3\0") else 0
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=LOCK_WAIT_SECONDS)
    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    finally:
        connection.close()


def refuse_newer(path: Path, known: int = len(MIGRATIONS)) -> None:
    """Raise NewerDatabaseError if the file is from a newer gpumon. It is left untouched."""
    found = version_of(path)
    if found > known:
        raise NewerDatabaseError(
            f"{path} was written by a newer gpumon (schema {found}, this one knows {known}) and is left untouched: "
            "use that gpumon, or another service.data_dir."
        )


def connect(path: Path, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> sqlite3.Connection:
    """Open the database for writing, brought to this version; transactions are begun by hand.

    Raises NewerDatabaseError for a newer file, sqlite3.Error where it cannot be opened.
    """
    refuse_newer(path, len(migrations))
    connection = sqlite3.connect(path, timeout=LOCK_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        with Transaction(connection):
            _migrate(connection, migrations)
            _shape(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def read(path: Path, seconds: float | None = None, unwanted: Callable[[], bool] = lambda: False) -> sqlite3.Connection:
    """Open the database for reading; sqlite3.OperationalError where there is none, and from a query that ends later.

    The same comes from a query whose answer is `unwanted`, which is asked all the time where there are `seconds`.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cache_size = -256")
    if seconds is not None:
        end = time.monotonic() + seconds
        connection.set_progress_handler(
            lambda: unwanted() or time.monotonic() > end, 100_000
        )  # steps of some nanoseconds each
    return connection


class Transaction:
    """A write transaction: committed at the end of the block, rolled back by an exception."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def _migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    for statements in migrations[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(migrations)}")


def _shape(connection: sqlite3.Connection) -> None:
    """Create the tables that are missing, add the columns that are, and renew the views."""
    for stored in STORED:
        for name, (columns, rest) in stored.shapes().items():
            known = {row[1] for row in connection.execute(f"PRAGMA table_info({name})")}
            if not known:
                definitions = ", ".join(f"{column} {kind}" for column, kind in columns.items())
                connection.execute(f"CREATE TABLE {name} ({definitions}{rest}")
            else:
                for column in columns.keys() - known:
                    connection.execute(f"ALTER TABLE {name} ADD COLUMN {column} {columns[column]}")
    for records in RECORD_TABLES:
        connection.execute(f"CREATE INDEX IF NOT EXISTS {records.name}_by_time ON {records.name} ({records.time})")
    for stored in KIND_TABLES:
        view = stored.define_view()
        if connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (stored.view,)).fetchone() != (view,):
            connection.execute(f"DROP VIEW IF EXISTS {stored.view}")
            connection.execute(view)
