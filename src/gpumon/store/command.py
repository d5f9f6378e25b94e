"""`gpumon archive` and `gpumon export`: what they do, but for reading the command line."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import pyarrow as pa

from gpumon.settings import SettingsError
from gpumon.store.archive import NICENESS, Report, run
from gpumon.store.database import NewerDatabaseError
from gpumon.store.export import Progress, export
from gpumon.store.job import BusyError, Job
from gpumon.store.parquet import DamagedError

BAR_WIDTH = 30


def carry_out(work: Callable[[], object], errors: IO[str]) -> int:
    """Do the work and give the exit code; what goes wrong outside gpumon is one sentence."""
    try:
        work()
    except BrokenPipeError:  # as in `gpumon export … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at the end fails again
        return 1
    except (OSError, sqlite3.Error, pa.ArrowException, BusyError, DamagedError, NewerDatabaseError) as error:
        errors.write(f"gpumon: {error}\n")
        return 1
    return 0


def archive_now(job: Job) -> str:
    """Run the archive once and give what it did, in a sentence. Raises what `archive.run` raises."""
    os.nice(NICENESS)
    return told(run(job))


def told(report: Report) -> str:
    """Give a report in words."""
    rows = ", ".join(f"{count} rows of {table}" for table, count in report.rows.items() if count)
    parts = [f"{rows} moved to the archive" if rows else "nothing was old enough to move"]
    if report.removed:
        parts.append(f"{len(report.removed)} files removed by the archive's limits")
    if report.lost:
        parts.append(f"{len(report.lost)} files are gone")
    parts.append(f"the archive has {report.archive_bytes} bytes")
    return "; ".join(parts + report.trouble) + "."


def export_to(
    job: Job, table: str, start: str | None, end: str | None, form: str, output: str | None, terminal: IO[str]
) -> int:
    """Write rows to a file or to standard output, with a progress bar where `terminal` is one; gives how many.

    Raises SettingsError for what is wrong with the arguments, OSError and sqlite3.Error for the rest.
    """
    first = moment(start, "--from") if start else 0.0
    last = moment(end, "--to") if end else datetime(9999, 1, 1, tzinfo=UTC).timestamp()
    with ExitStack() as stack:
        stream: IO[bytes] = stack.enter_context(Path(output).open("wb")) if output else sys.stdout.buffer
        try:
            written = export(job, table, first, last, form, stream, bar(terminal))
        except ValueError as error:
            raise SettingsError(str(error)) from error
    if terminal.isatty():
        terminal.write("\n")
    return written


def moment(text: str, option: str) -> float:
    """Give the Unix time of an ISO 8601 date or time; without a zone it is UTC. SettingsError where it is none."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"{option} is {text}; allowed is an ISO 8601 date or time, as in 2026-11-23 or 2026-11-23T08:30+01:00"
        ) from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def bar(terminal: IO[str]) -> Progress:
    """Give what draws a progress bar on a terminal, and nothing elsewhere."""
    if not terminal.isatty():
        return lambda done, total: None
    last = -1

    def draw(done: int, total: int) -> None:
        nonlocal last
        percent = 100 * done // max(1, total)
        if percent != last:
            last = percent
            full = "#" * (BAR_WIDTH * percent // 100)
            terminal.write(f"\r[{full:{BAR_WIDTH}}] {percent:3} %  {done} rows")
            terminal.flush()

    return draw
