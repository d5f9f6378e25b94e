"""The source of model servers for tests, polled when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Self

import structlog

from gpumon.catalog import Entity, EntityKind
from gpumon.llm.discovery import ServerProcess, Target
from gpumon.llm.names import ModelNames
from gpumon.llm.sessions import Sessions
from gpumon.llm.source import LlmSource

INTERVAL = 5.0


class Watched:
    """A source whose servers are polled when the test says so, by a clock that the test moves."""

    def __init__(self, *targets: Target, interval: float = INTERVAL, limit: int = 50) -> None:
        self.now = 1000.0
        self.sessions = Sessions(ModelNames(limit))
        self.source = LlmSource(
            targets, self.sessions, structlog.get_logger(), interval=interval, monotonic=lambda: self.now
        )

    async def __aenter__(self) -> Self:
        self.source.start()
        self._hold()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.source.stop()

    def _hold(self) -> None:
        """End the source's own polling, so that the test's is the only one."""
        for task in self.source._tasks.values():
            task.cancel()

    def processes(self, *processes: ServerProcess) -> None:
        """Let the process room find these."""
        self.source.processes(processes)
        self._hold()

    async def poll(self, seconds: float = INTERVAL) -> None:
        """Poll all servers once, at the same moment, after some time."""
        self.now += seconds
        await asyncio.gather(*map(self.source.poll, self.source.watches))

    async def read(self) -> tuple[Entity, ...]:
        """Give what a tick gets."""
        return (await self.source.read(0.0, 1.0)).entities

    async def of(self, kind: EntityKind) -> tuple[Entity, ...]:
        """Give the entities of one kind."""
        return tuple(entity for entity in await self.read() if entity.kind is kind)


def at(url: str, kind: str | None = None, *, expected: bool = True) -> Target:
    """Give a target as the settings would."""
    return Target(urls=(url,), kind=kind, found_by="settings", expected=expected)


def run(work: Callable[[], Awaitable[Any]]) -> None:
    """Run a test's coroutine."""

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work()

    asyncio.run(bounded())
