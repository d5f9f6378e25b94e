"""Batch jobs on GPUs by a folder of mapping files, as dcgm-exporter reads it: a file per GPU, a job id per line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from gpumon.catalog import SHARE_REASON, Entity
from gpumon.gpuprocess import GpuUse
from gpumon.process.tracked import Tracked

# A prologue writes the files when a job starts; looking this often is soon enough.
LOOK_SECONDS = 10.0
# A file with a few ids is some bytes; a longer one is something else.
MOST_BYTES = 4096


class Jobs:
    """The job of each GPU, by index, or by index.instance for a MIG device. Of several jobs on a GPU none is given."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jobs: dict[str, list[str]] = {}
        self._looked: float | None = None

    def put(self, tracked: Iterable[Tracked], uses: tuple[GpuUse, ...]) -> None:
        """Set the job of every process whose cgroup names none."""
        if uses and (self._looked is None or uses[0].time - self._looked >= LOOK_SECONDS):
            self._looked = uses[0].time
            self._jobs = dict(_read(self._folder))
        by_pid: dict[int, set[str]] = {}
        for use in uses:
            for process in use.processes or ():
                by_pid.setdefault(process.pid, set()).update(self._of(use.gpu.labels[0], process.gpu_instance_id))
        for one in tracked:
            found = by_pid.get(one.pid, set())
            one.job = next(iter(found)) if len(found) == 1 else ""

    def entities(self, uses: tuple[GpuUse, ...]) -> Iterator[Entity]:
        """Say on which GPUs several jobs leave open whose a process is."""
        for use in uses:
            if any(len(self._of(use.gpu.labels[0], i)) > 1 for i in (None, *_instances(use))):
                reason = "several jobs share the GPU, and which process is whose is not told"
                yield Entity(SHARE_REASON, (*use.gpu.labels, "jobs", reason), (1,))

    def _of(self, index: str, instance: int | None) -> list[str]:
        if instance is not None and f"{index}.{instance}" in self._jobs:
            return self._jobs[f"{index}.{instance}"]
        return self._jobs.get(index, [])


def _instances(use: GpuUse) -> set[int]:
    found = {process.gpu_instance_id for process in use.processes or ()}
    return {instance for instance in found if instance is not None}


def _read(folder: Path) -> Iterator[tuple[str, list[str]]]:
    try:
        files = list(folder.iterdir())
    except OSError:
        return
    for file in files:
        if not file.name.replace(".", "", 1).isdigit():
            continue
        try:
            with file.open("rb") as opened:
                text = opened.read(MOST_BYTES).decode(errors="replace")
        except OSError:
            continue
        yield file.name, [word for line in text.splitlines() if (word := line.strip()).isprintable() and word]
