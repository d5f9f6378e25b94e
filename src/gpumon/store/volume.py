"""Where the database lies: whether it is still the file that was opened, on the volume it was opened on."""

from __future__ import annotations

import os
import time
from pathlib import Path


class VolumeGoneError(OSError):
    """The volume of the data directory is not mounted now."""


class Volume:
    """Watches that rows do not go to a file nobody sees: one deleted, or hidden below a mount point."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._device: int | None = None
        self._file: tuple[int, int] | None = None

    def prepare(self) -> None:
        """Make the directory. After the first time, raise VolumeGoneError where it is on another device than then."""
        nearest = next(folder for folder in self.path.parents if folder.exists())
        if self._device not in (None, nearest.stat().st_dev):
            raise VolumeGoneError(f"the volume of {self.path.parent} is gone")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._device = self.path.parent.stat().st_dev

    def opened(self) -> None:
        """Remember the file as it was opened."""
        status = self.path.stat()
        self._file = (status.st_dev, status.st_ino)

    def same(self) -> bool:
        """Say whether the path still leads to the file that was opened."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._file

    def size(self) -> int:
        """Give the bytes of the database and its write-ahead log."""
        return sum(path.stat().st_size for path in (self.path, _beside(self.path, "-wal")) if path.exists())

    def space(self) -> tuple[float | None, float | None]:
        """Give the bytes that are free for this user on the database's volume, and its size; None for not known."""
        try:
            status = os.statvfs(self.path.parent)
        except OSError:
            return None, None
        return float(status.f_bavail * status.f_frsize), float(status.f_blocks * status.f_frsize)

    def set_aside(self, now: float) -> Path:
        """Rename a corrupt database, with its log, to a dated name, and give it."""
        stem = f"{self.path.name}.corrupt-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}"
        aside = next(
            name for n in range(1000) if not (name := self.path.with_name(f"{stem}-{n}" if n else stem)).exists()
        )
        log = _beside(self.path, "-wal")
        if log.exists():
            log.rename(_beside(aside, "-wal"))
        _beside(self.path, "-shm").unlink(missing_ok=True)
        self.path.rename(aside)
        _sync_folder(self.path.parent)
        return aside


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
