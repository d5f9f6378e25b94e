"""Ticks that wait to be written, and what had to be given up."""

from __future__ import annotations

import threading
from collections import Counter, deque

from gpumon.store.writer import count

# Ticks kept in memory while the disk takes none: 20 minutes at 2 s, 4 MB for 8 GPUs.
MOST_TICKS = 600
# Ticks written in one transaction when many wait.
BATCH_TICKS = 50


class Buffer:
    """A bounded queue of packed ticks; when it is full the oldest is given up and counted."""

    def __init__(self, most: int = MOST_TICKS) -> None:
        self._most = most
        self._ticks: deque[bytes] = deque()
        self._lock = threading.Lock()
        self.dropped: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._ticks)

    def add(self, packed: bytes) -> None:
        """Add a tick."""
        with self._lock:
            self._ticks.append(packed)
            while len(self._ticks) > self._most:
                self.dropped.update(count(self._ticks.popleft()))

    def take(self) -> list[bytes]:
        """Take out the oldest ticks, as many as one transaction writes."""
        with self._lock:
            return [self._ticks.popleft() for _ in range(min(BATCH_TICKS, len(self._ticks)))]

    def give_up(self, ticks: list[bytes]) -> None:
        """Count ticks that can never be written."""
        with self._lock:
            for packed in ticks:
                self.dropped.update(count(packed))
