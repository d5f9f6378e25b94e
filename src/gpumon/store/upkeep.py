"""The hourly run of the archive: starts the child, tells what it did in events and metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import structlog

from gpumon.catalog import ARCHIVE, Entity
from gpumon.catalog.records import Event
from gpumon.log import Logger, Onsets
from gpumon.store.child import ChildError, run_child
from gpumon.store.job import Job

# Seconds from the start to the first run (a node that has just booted has better to do), and between two.
FIRST_SECONDS, INTERVAL_SECONDS = 120.0, 3600.0
# A week of 8 GPUs to an object store that is slow.
RUN_SECONDS = 3000.0
# When the wall clock moved so much more or less than the steady one, it was set: nothing is old because of that.
JUMP_SECONDS = 60.0


class Upkeep:
    """Runs the archive's child and knows how the last run went."""

    def __init__(
        self,
        job: Job,
        tell: Callable[[Event], None],
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
        logger: Logger = None,
    ) -> None:
        self._job = job
        self._tell = tell
        self._wall = wall
        self._steady = steady
        self._onsets = Onsets(logger or structlog.get_logger())
        self._offset = wall() - steady()
        self.archive_bytes: float | None = None
        self._success: float | None = None
        self._last_success: float | None = None
        self._seconds: float | None = None
        self._rows = 0.0
        self._removed = 0.0

    async def run(self) -> None:
        """Run the archive now and then, for ever."""
        await asyncio.sleep(FIRST_SECONDS)
        while True:
            await self.once()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def once(self) -> None:
        """Run the archive, unless the clock was set since the last time: then it waits for the next."""
        offset = self._wall() - self._steady()
        jumped, self._offset = abs(offset - self._offset) > JUMP_SECONDS, offset
        if jumped:
            self._event("clock_set", "The clock was set; the archive waits for its next run, to see whether it stays.")
            return
        started = self._steady()
        try:
            report = json.loads(await run_child("gpumon.store.archive", self._job.dumps(), RUN_SECONDS))
        except (ChildError, ValueError) as error:
            report = {"trouble": [str(error)]}
        self._seconds = self._steady() - started
        self._note(report)

    def _note(self, report: dict[str, Any]) -> None:
        trouble = "; ".join(report["trouble"])
        failed_before = self._success == 0.0
        self._success = float(not trouble)
        if trouble:
            self._onsets.fail("archive", "archive failed", reason=trouble)
            if not failed_before:
                self._event("archive_failed", f"Old rows could not be moved to the archive and stay here: {trouble}.")
        else:
            self._onsets.mend("archive", "archive works again")
            self._last_success = self._wall()
        self._rows += sum(report.get("rows", {}).values())
        self.archive_bytes = report.get("archive_bytes", self.archive_bytes)
        removed, lost = report.get("removed", []), report.get("lost", [])
        self._removed += len(removed)
        if removed:
            limits = "archive_retention_days or max_disk_bytes"
            self._event("archive_removed", f"{len(removed)} files left the archive by {limits}: {_list(removed)}.")
        if lost:
            self._event("archive_lost", f"{len(lost)} files of the archive are gone: {_list(lost)}.")
        for name, rows in report.get("salvaged", {}).items():
            self._event("database_salvaged", f"{sum(rows.values())} rows of {name} could be read and are moved over.")

    def _event(self, kind: str, message: str) -> None:
        self._tell(Event(timestamp=self._wall(), kind=kind, message=message))

    def entities(self) -> tuple[Entity, ...]:
        """Give what the archive says of itself; nothing before its first run."""
        if self._success is None:
            return ()
        return (Entity(ARCHIVE, (), (self._success, self._last_success, self._seconds, self._rows, self._removed)),)


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
