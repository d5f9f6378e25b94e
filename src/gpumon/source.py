"""What a source of readings gives to the sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gpumon.catalog import Entity


@dataclass(frozen=True, slots=True)
class SourceReading:
    """A source's entities at one tick, and whether all that it should read could be read."""

    entities: tuple[Entity, ...]
    success: bool


class Source(Protocol):
    """Something that reads the world; it does not raise for what can be expected to go wrong, nor outlast its time-out."""

    name: str

    async def read(self, now: float, timeout: float) -> SourceReading:
        """Read the world at `now` (Unix seconds) within `timeout` seconds."""
