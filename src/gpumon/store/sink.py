"""The store: takes every snapshot from the hub and has one thread write it to SQLite."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable

import structlog

from gpumon.catalog import STORAGE, STORAGE_SIZE, STORAGE_TABLE, Entity, Snapshot
from gpumon.catalog.records import Event, Record
from gpumon.hub import Hub
from gpumon.log import Logger, Onsets
from gpumon.store.buffer import Buffer
from gpumon.store.database import NewerDatabaseError, connect
from gpumon.store.events import Watch
from gpumon.store.incident import Holders, nobody
from gpumon.store.job import Job
from gpumon.store.schema import STORED
from gpumon.store.unfinished import end_unfinished
from gpumon.store.upkeep import Upkeep
from gpumon.store.volume import Volume
from gpumon.store.writer import Packer, Writer, pack_records

# What SQLite answers for a file that is damaged or no database.
CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# A second corrupt database within this time is not set aside as well: a dying disk would be filled with them.
SET_ASIDE_SECONDS = 3600.0


class Store:
    """Keeps history. `start`, then `offer` snapshots and `append` records; `stop` writes what still waits.

    Nothing here waits for the disk but the store's own thread. While the disk fails, ticks wait in memory.
    `holders` gives who is on a GPU, to be told with what happens to it.
    """

    def __init__(
        self,
        job: Job,
        *,
        clock: Callable[[], float] = time.time,
        buffer: Buffer | None = None,
        logger: Logger = None,
        holders: Holders = nobody,
    ) -> None:
        self.volume = Volume(job.database)
        self.upkeep = Upkeep(job, self.append, wall=clock, logger=logger)
        self._clock = clock
        self._logger = logger or structlog.get_logger()
        self._onsets = Onsets(self._logger)
        self._buffer = Buffer() if buffer is None else buffer
        self._batch: list[bytes] = []
        self._packer = Packer()
        self._watch = Watch(holders)
        self._connection: sqlite3.Connection | None = None
        self._writer: Writer | None = None
        self._resumed = False
        self._news = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="store", daemon=True)
        self._failed_since: float | None = None
        self._failure: BaseException | None = None
        self._written: Counter[str] = Counter()
        self._write_seconds: float | None = None
        self._database_bytes: float | None = None
        self._space: tuple[float | None, float | None] = (None, None)
        self._set_aside_at: float | None = None

    def start(self) -> None:
        """Begin. The database is opened by the store's thread; see `refuse_newer` for what must stop the start."""
        self._thread.start()

    async def run(self, hub: Hub) -> None:
        """Take every snapshot from the hub, and run the archive every hour; for ever.

        Raises what ended the store's thread, which should be nothing.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.upkeep.run())
            async for snapshot in hub:
                if self._failure is not None:
                    raise self._failure
                self.offer(snapshot)

    def offer(self, snapshot: Snapshot) -> None:
        """Take a snapshot, and the events since the one before. Never waits."""
        self._buffer.add(self._packer.pack(snapshot))
        events = self._watch.events(snapshot)
        if events:
            self._buffer.add(pack_records(events))
        self._news.set()

    def append(self, *records: Record) -> None:
        """Take records. Never waits."""
        if not records:
            return
        self._buffer.add(pack_records([*records, *self._watch.follow(records)]))
        self._news.set()

    def stop(self, timeout: float = 5.0) -> None:
        """Write what waits, if that can be done within `timeout` seconds, and close the database."""
        self._closing = True
        self._news.set()
        self._thread.join(timeout)

    def entities(self) -> tuple[Entity, ...]:
        """Give what the store says of itself, for the next snapshot."""
        waiting = float(len(self._buffer) + len(self._batch))
        up = float(self._failed_since is None)
        sizes = (("database", self._database_bytes), ("archive", self.upkeep.archive_bytes))
        return (
            Entity(STORAGE, (), (up, waiting, self._write_seconds, *self._space)),
            *(Entity(STORAGE_SIZE, (kind,), (size,)) for kind, size in sizes if size is not None),
            *(
                Entity(STORAGE_TABLE, (table.name,), (self._written[table.name], self._buffer.dropped[table.name]))
                for table in STORED
            ),
            *self.upkeep.entities(),
        )

    # The store's thread

    def _work(self) -> None:
        try:
            while not self._closing:
                self._news.wait()
                self._news.clear()
                self.write_waiting()
        except BaseException as failure:
            self._failure = failure
            raise
        finally:
            self.stop_writing()

    def write_waiting(self) -> None:
        """Write what waits, or note why it cannot be written; what the store's thread does when there is news."""
        self._space = self.volume.space()
        while self._batch or len(self._buffer):
            self._batch = self._batch or self._buffer.take()
            started = time.perf_counter()
            try:
                written = self._open().write(self._batch)
            except NewerDatabaseError as refusal:
                self._fail(str(refusal))
                return
            except sqlite3.Error as error:
                self._recover(error)
                return
            except OSError as error:
                self._close()
                self._fail(str(error))
                return
            self._write_seconds = time.perf_counter() - started
            self._batch = []
            self._written.update(written)
            self._database_bytes = self.volume.size()
            self._mend()

    def stop_writing(self) -> None:
        """Close the database; it is opened again when there is something to write."""
        self._close()

    def _open(self) -> Writer:
        """Give the writer of the database, opened anew if it is not open or no longer where it was."""
        if self._writer is not None and self.volume.same():
            return self._writer
        self._close()
        self.volume.prepare()
        self._connection = connect(self.volume.path)
        self.volume.opened()
        if not self._resumed:
            end_unfinished(self._connection)
            self._resumed = True
        self._writer = Writer(self._connection)
        return self._writer

    def _recover(self, error: sqlite3.Error) -> None:
        self._close()
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # without the extended part
        now = self._clock()
        often = self._set_aside_at is not None and now - self._set_aside_at < SET_ASIDE_SECONDS
        if code in CORRUPT and not often:
            self._set_aside(now, str(error))
        else:
            self._fail(str(error))

    def _set_aside(self, now: float, reason: str) -> None:
        """Begin a new database; what can be read of the old one is moved over by the next run of the archive."""
        try:
            aside = self.volume.set_aside(now)
        except OSError as error:
            self._fail(f"{reason}, and it cannot be renamed: {error}")
            return
        self._set_aside_at = now
        self._logger.error("database corrupt, set aside", path=str(aside), reason=reason)
        message = f"The database was corrupt ({reason}) and is kept as {aside.name}; what it holds is moved over."
        self.append(Event(timestamp=now, kind="database_corrupt", message=message))

    def _fail(self, reason: str) -> None:
        if self._failed_since is None:
            self._failed_since = self._clock()
        self._onsets.fail(
            "storage", "history cannot be written, kept in memory", path=str(self.volume.path), reason=reason
        )

    def _mend(self) -> None:
        if self._failed_since is None:
            return
        seconds = round(self._clock() - self._failed_since)
        self._failed_since = None
        dropped = sum(self._buffer.dropped.values())
        self._onsets.mend("storage", "history is written again", seconds=seconds, dropped_rows=dropped)
        message = f"History could not be written for {seconds} s; {dropped} rows were lost since gpumon started."
        self.append(Event(timestamp=self._clock(), kind="storage_back", message=message))

    def _close(self) -> None:
        self._writer = None
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                pass  # a volume that is gone; there is nothing left to save
