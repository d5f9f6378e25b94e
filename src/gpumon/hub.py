"""The hub holds the newest snapshot; a reader that is slow gets the newest and misses the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from gpumon.catalog import Snapshot


class Hub:
    """The one place sinks get snapshots from. Belongs to one event loop; keeps one snapshot and no queue."""

    def __init__(self) -> None:
        self.latest: Snapshot | None = None
        self._published = asyncio.Event()

    def publish(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the newest and wake every reader. Call on the loop."""
        self.latest = snapshot
        self._published.set()
        self._published = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Snapshot]:
        """Give the newest snapshot, then each newer one; those published while the reader was busy are passed over."""
        seen: Snapshot | None = None
        while True:
            published = self._published
            if self.latest is not None and self.latest is not seen:
                seen = self.latest
                yield seen
            else:
                await published.wait()
