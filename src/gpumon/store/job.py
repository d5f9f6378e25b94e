"""What a child process of the store is told: a frozen dataclass that travels as JSON."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from gpumon.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Where the history lies and how long it is kept; what the settings say, resolved.

    `archive_dir` is a path or the URI of an object store. Days of 0 and bytes of 0 are no limit.
    """

    data_dir: str
    archive_dir: str
    cluster: str = "default"
    node: str = "node"
    retention_days: float = 7.0
    archive: bool = True
    archive_retention_days: float = 0.0
    max_disk_bytes: int = 0

    @classmethod
    def of(cls, settings: Settings) -> Job:
        """Give the job that follows from the settings."""
        storage = settings.storage
        data_dir = Path(settings.service.data_dir).expanduser()
        archive_dir = storage.archive_dir
        if "://" not in archive_dir:
            archive_dir = str(Path(archive_dir).expanduser() if archive_dir else data_dir / "archive")
        return cls(
            data_dir=str(data_dir),
            archive_dir=archive_dir,
            cluster=storage.cluster_name,
            node=storage.node_name or socket.gethostname(),
            retention_days=storage.retention_days,
            archive=storage.enable_parquet_archival,
            archive_retention_days=storage.archive_retention_days,
            max_disk_bytes=storage.max_disk_bytes,
        )

    @property
    def database(self) -> Path:
        """Give the path of the database."""
        return Path(self.data_dir) / "gpumon.db"

    @property
    def readers_lock(self) -> Path:
        """Give the lock that those hold, together, who read files of the archive."""
        return Path(self.data_dir) / "archive.readers"

    def dumps(self) -> str:
        """Give the job as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Job:
        """Give the job that `dumps` wrote."""
        return cls(**json.loads(text))


class BusyError(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock file; raises BusyError where another holds it and `wait` is off. The system frees it on a kill."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BusyError(f"{path} is held by another process") from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def reading(job: Job) -> Iterator[None]:
    """See to it that no file of the archive that the database names is deleted meanwhile."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(job.readers_lock, shared=True, wait=True))
        except OSError:
            pass  # a directory that cannot be written: no archive runs there
        yield
