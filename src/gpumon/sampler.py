"""The tick: asks every source, gives each its deadline, and publishes what came of it as one snapshot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from gpumon.catalog import SOURCE, Entity, Snapshot
from gpumon.hub import Hub
from gpumon.log import Logger, Onsets
from gpumon.source import Source, SourceReading
from gpumon.trace import OFF, Off, Recorder

# How much of a tick a source may take; the rest is for publishing, and for the sinks.
DEADLINE_SHARE = 0.8


class Sampler:
    """Ticks on a fixed grid: a tick that took long does not shift the next, and those that come too late are left out.

    `then` are sources that build on what others read at the same tick: they are asked after those, one after the other.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        hub: Hub,
        logger: Logger,
        *,
        interval: float,
        own: Callable[[int, int], Iterable[Entity]],
        then: Sequence[Source] = (),
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        recorder: Recorder | Off = OFF,
    ) -> None:
        self._sources = sources
        self._then = then
        self._hub = hub
        self._onsets = Onsets(logger)
        self._interval = interval
        self._own = own  # gives what gpumon says of itself, from (ticks, late ticks)
        self._clock = clock
        self._monotonic = monotonic
        self._recorder = recorder
        self._ticks = 0
        self._late = 0

    async def run(self) -> None:
        """Tick until cancelled."""
        due = self._monotonic()
        while True:
            await self.tick()
            due += self._interval
            behind = self._monotonic() - due
            if behind > 0:
                missed = int(behind // self._interval) + 1
                self._late += missed
                due += missed * self._interval
            await asyncio.sleep(due - self._monotonic())

    async def tick(self) -> Snapshot:
        """Read every source once and publish the snapshot."""
        with self._recorder.span("tick"):
            return await self._tick()

    async def _tick(self) -> Snapshot:
        now, monotonic = self._clock(), self._monotonic()
        readings = await asyncio.gather(*(self._read(source, now) for source in self._sources))
        readings += [await self._read(source, now) for source in self._then]
        self._ticks += 1
        entities = [entity for reading in readings for entity in reading]
        entities += self._own(self._ticks, self._late)
        snapshot = Snapshot(now, monotonic, self._ticks, tuple(entities))
        self._hub.publish(snapshot)
        return snapshot

    async def _read(self, source: Source, now: float) -> tuple[Entity, ...]:
        started = self._monotonic()
        timeout = self._interval * DEADLINE_SHARE
        try:
            # The source keeps its own deadline; this one is for a source that fails to.
            with self._recorder.span("source", {"source": source.name}):
                async with asyncio.timeout(self._interval * 2):
                    reading = await source.read(now, timeout)
        except Exception as error:  # noqa: BLE001 - a source that fails costs its own readings, never the tick
            reading = SourceReading((), success=False)
            self._onsets.fail(
                source.name, "source failed", source=source.name, error=f"{type(error).__name__}: {error}"
            )
        else:
            self._onsets.mend(source.name, "source works again", source=source.name)
        health = Entity(SOURCE, (source.name,), (int(reading.success), self._monotonic() - started))
        return (*reading.entities, health)
