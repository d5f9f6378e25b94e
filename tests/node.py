"""A node for tests: the real source and sampler over a simulated driver, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pynvml
import structlog

from gpumon.catalog import DAEMON, GPU, GPU_DOWN, GPU_HEALTH, SUPPORT, Entity, EntityKind, Snapshot
from gpumon.gpu.nvml import Nvml
from gpumon.gpu.simulate import SimulatedLibrary, parse_profile
from gpumon.gpu.source import GpuSource
from gpumon.gpu.xid import XidLog
from gpumon.hub import Hub
from gpumon.sampler import Sampler
from gpumon.settings import Gpu as GpuSettings
from gpumon.source import Source, SourceReading

START = 1_700_000_000.0
INTERVAL = 2.0


class Patient:
    """A source that a busy machine does not make miss its deadline; who tests deadlines chooses an interval."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self._source = source

    async def read(self, now: float, timeout: float) -> SourceReading:
        """Read the world within twice the time, which is just less than the sampler gives."""
        return await self._source.read(now, timeout * 2)


class Node:
    """A simulated node. Use as a context manager, so that its threads end and nvidia-ml-py is left as it was."""

    def __init__(
        self,
        profile: str = "h100x2",
        *,
        library: object | None = None,
        interval: float = INTERVAL,
        devices_path: Path = Path("/nonexistent"),
        settings: GpuSettings | None = None,
    ) -> None:
        self.now = START
        self.wall = 0.0  # what the clock on the wall shows more than the monotonic one
        self.interval = interval
        self._profile = profile
        self._given = library
        self._devices_path = devices_path
        self._settings = settings or GpuSettings()

    def __enter__(self) -> Self:
        self._before = pynvml.nvmlLib
        self._runner = asyncio.Runner()
        self.library = self._given or SimulatedLibrary(parse_profile(self._profile), clock=lambda: self.now)
        self.xids = XidLog()
        self.nvml = Nvml(self.library)
        self.hub = Hub()

        def own(ticks: int, late: int) -> Iterable[Entity]:
            yield Entity(DAEMON, (), (1, self.source.gpu_count, ticks, late, START))

        async def build() -> None:
            self.source = GpuSource(
                self._settings,
                self.nvml,
                structlog.get_logger(),
                interval=self.interval,
                xids=self.xids,
                devices_path=self._devices_path,
                monotonic=lambda: self.now,
            )
            self.sampler = Sampler(
                [Patient(self.source)] if self.interval == INTERVAL else [self.source],
                self.hub,
                structlog.get_logger(),
                interval=self.interval,
                own=own,
                clock=lambda: self.now + self.wall,
                monotonic=lambda: self.now,
            )

        self._runner.run(build())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self.source.stop(1.0))
        self._runner.close()
        pynvml.nvmlLib = self._before
        pynvml._nvmlGetFunctionPointer_cache.clear()

    def tick(self, times: int = 1) -> Snapshot:
        """Take snapshots, each one interval after the one before, and give the last."""
        for _ in range(times):
            snapshot = self._runner.run(self.sampler.tick())
            self.now += self.interval
        return snapshot

    def wait(self, seconds: float) -> None:
        """Let time pass without ticks."""
        self.now += seconds

    def run(self, work: object) -> object:
        """Run a coroutine on the node's loop."""
        return self._runner.run(work)  # type: ignore[arg-type]


def gpus(snapshot: Snapshot) -> dict[int, Entity]:
    """Give the GPUs of a snapshot by index."""
    return {int(entity.labels[0]): entity for entity in snapshot.of(GPU)}


def up(snapshot: Snapshot) -> dict[int, bool]:
    """Give which GPUs are said to be up."""
    return {int(entity.labels[0]): bool(entity["up"]) for entity in snapshot.of(GPU_HEALTH)}


def down_reasons(snapshot: Snapshot) -> dict[int, str]:
    """Give why GPUs are said to be down."""
    return {int(entity.labels[0]): entity.labels[3] for entity in snapshot.of(GPU_DOWN)}


def support(snapshot: Snapshot, gpu: int = 0) -> dict[str, tuple[str, int]]:
    """Give what is said to be missing or standing in on a GPU: reading to (reason, 0 or 1)."""
    return {
        entity.labels[3]: (entity.labels[4], int(entity.values[0] or 0))
        for entity in snapshot.of(SUPPORT)
        if entity.labels[0] == str(gpu)
    }


def without(entity: Entity, *columns: str) -> Entity:
    """Give an entity with some columns blanked, to compare the rest."""
    blank = {entity.kind.index[name] for name in columns}
    return replace(entity, values=tuple(None if i in blank else value for i, value in enumerate(entity.values)))


def flat(snapshot: Snapshot, kinds: Iterable[EntityKind]) -> dict[tuple[str, tuple[str, ...], str], float | None]:
    """Give every value of some kinds by (kind, labels, column)."""
    return {
        (entity.kind.name, entity.labels, column.name): value
        for kind in kinds
        for entity in snapshot.of(kind)
        for column, value in zip(kind.columns, entity.values, strict=True)
    }
