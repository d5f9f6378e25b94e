"""A node for tests of processes: the real sources over a simulated driver that lists pids of real child processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pynvml
import structlog

from gpumon.catalog import WORKLOAD, Entity, EntityKind, Snapshot
from gpumon.catalog.records import ProcessEvent
from gpumon.gpu.nvml import Nvml
from gpumon.gpu.simulate import SimulatedLibrary, SimulatedProcess, parse_profile
from gpumon.gpu.source import GpuSource
from gpumon.gpu.xid import XidLog
from gpumon.hub import Hub
from gpumon.process.source import ProcessSource
from gpumon.sampler import Sampler
from gpumon.settings import Gpu, Processes
from tests.node import INTERVAL, Patient

START = 1_700_000_000.0
GIB = 1 << 30


class Children:
    """Real processes that do nothing, called as the test wants; ended with the block."""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self.program = Path(self._folder.name) / "idle"
        source = b"#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
        subprocess.run(["cc", "-x", "c", "-o", self.program, "-"], input=source, check=True)
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in list(self._running):
            self.end(pid)
        self._folder.cleanup()

    def start(self, line: str | Sequence[str] = "work", **options: Any) -> int:
        """Start a process with this command line and give its pid."""
        argv = line.split() if isinstance(line, str) else list(line)
        child = subprocess.Popen(argv, executable=self.program, **options)
        self._running[child.pid] = child
        return child.pid

    def end(self, pid: int) -> None:
        """End a process and see it gone."""
        child = self._running.pop(pid)
        os.kill(pid, signal.SIGKILL)
        child.wait()


class WrittenProc:
    """A /proc that the test writes, for what cannot be made to happen to real processes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / "2").mkdir()
        (root / "2/comm").write_text("kthreadd\n")
        (root / "stat").write_text("cpu 0\nbtime 1700000000\n")

    def put(self, pid: int, line: str, *, ticks: int = 100, parent: int = 0, cgroup: str = "0::/") -> None:
        """Write a process anew."""
        folder = self._root / str(pid)
        folder.mkdir(exist_ok=True)
        fields = ["S", str(parent), *["0"] * 9, "7", "3", *["0"] * 6, str(ticks), "0", "25", *["0"] * 20]
        (folder / "stat").write_text(f"{pid} ({line.split()[0][:15]}) {' '.join(fields)}\n")
        (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in line.split()))
        (folder / "status").write_text("Name:\tx\nUid:\t0\t0\t0\t0\n")
        (folder / "cgroup").write_text(cgroup)
        (folder / "maps").write_text("")
        (folder / "fd").mkdir(exist_ok=True)

    def remove(self, pid: int) -> None:
        """End a process."""
        shutil.rmtree(self._root / str(pid))


class ProcessNode:
    """A simulated node with the sources of GPUs and processes. Use as a context manager."""

    def __init__(
        self,
        profile: str = "h100x2",
        *,
        settings: Processes | None = None,
        interval: float = 2.0,
        **options: Any,
    ) -> None:
        self.now = START
        self.interval = interval
        self._profile = profile
        self._settings = settings or Processes()
        self._options = options

    def __enter__(self) -> Self:
        self._before = pynvml.nvmlLib
        self._runner = asyncio.Runner()
        self.library = SimulatedLibrary(parse_profile(self._profile), clock=lambda: self.now)
        for index in range(len(self.library.loads())):
            self.library.set_processes(index, [])

        async def build() -> None:
            logger = structlog.get_logger()
            self.gpu = GpuSource(
                Gpu(),
                Nvml(self.library),
                logger,
                interval=self.interval,
                xids=XidLog(),
                processes=True,
                devices_path=Path("/nonexistent"),
                monotonic=lambda: self.now,
            )
            self.source = ProcessSource(self._settings, lambda: self.gpu.uses, interval=self.interval, **self._options)
            self.sampler = Sampler(
                [Patient(self.gpu)] if self.interval == INTERVAL else [self.gpu],
                Hub(),
                logger,
                interval=self.interval,
                own=lambda _ticks, _late: (),
                then=[self.source],
                clock=lambda: self.now,
                monotonic=lambda: self.now,
            )

        self._runner.run(build())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self.gpu.stop(1.0))
        self._runner.run(self.source.stop())
        self._runner.close()
        pynvml.nvmlLib = self._before
        pynvml._nvmlGetFunctionPointer_cache.clear()

    def put(self, device: int, *pids: int, **about: Any) -> None:
        """Let exactly these processes use a device, a GiB each unless told otherwise."""
        about.setdefault("used_memory_bytes", GIB)
        self.library.set_processes(device, [SimulatedProcess(pid=pid, **about) for pid in pids])

    def tick(self, times: int = 1) -> Snapshot:
        """Take snapshots, each one interval after the one before, and give the last."""
        for _ in range(times):
            snapshot = self._runner.run(self.sampler.tick())
            self.now += self.interval
        return snapshot

    def run(self, work: Any) -> Any:
        """Run a coroutine on the node's loop."""
        return self._runner.run(work)

    def events(self) -> list[ProcessEvent]:
        """Give the events since the last call."""
        return list(self.source.drain_events())


def values(snapshot: Snapshot, kind: EntityKind) -> dict[tuple[str, ...], Entity]:
    """Give the entities of a kind by their labels."""
    return {entity.labels: entity for entity in snapshot.of(kind)}


def workloads(snapshot: Snapshot, gpu: int = 0) -> dict[str, Entity]:
    """Give the workloads of a GPU by category, of those outside containers."""
    return {entity.label("category"): entity for entity in snapshot.of(WORKLOAD) if entity.labels[0] == str(gpu)}


def total(entities: Iterable[Entity], column: str) -> float:
    """Give the sum of a column over what has it."""
    return sum(entity[column] or 0.0 for entity in entities)
