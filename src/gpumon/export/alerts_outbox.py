"""What waits to be sent to one place, and when it is tried again. Nothing here holds up a snapshot."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from gpumon.catalog import ALERT_DELIVERY, Entity
from gpumon.export.alerts_watch import Incident
from gpumon.log import Onsets

# After failures the pauses double from one second to one minute, as in OTLP's exports, a little different on each node.
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
JITTER = (0.8, 1.2)
# What a server asks for is granted up to here; beyond, it is more likely a mistake.
LONGEST_REQUESTED_PAUSE = 600.0
# News that is older than an hour helps nobody; what is still active then is in gpumon_alert_active.
LONGEST_WAIT = 3600.0
# A node with everything wrong has some 300 alerts; they may begin and end while a server is away.
MOST_WAITING = 1000
# Half a kilobyte each, so that a message stays below what servers commonly take (64 kB).
MOST_AT_ONCE = 100


class RefusedError(Exception):
    """A message was not taken. `transient` says that the same may be sent again, `pause` after how many seconds."""

    def __init__(self, reason: str, *, transient: bool = True, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.transient = transient
        self.pause = min(pause, LONGEST_REQUESTED_PAUSE)


class Target(Protocol):
    """A place alerts are sent to. `repeat_seconds` is how often it wants to hear of those that are active; inf never."""

    name: str
    address: str
    repeat_seconds: float

    async def send(self, news: Sequence[Incident], active: Sequence[Incident]) -> None:
        """Send what began and ended, or what is active, or both; raises RefusedError, within some seconds."""
        ...

    async def close(self) -> None:
        """End what is open."""
        ...


class Outbox:
    """Sends incidents to a target and keeps count; used on one loop."""

    def __init__(
        self,
        target: Target,
        active: Callable[[], Sequence[Incident]],
        *,
        onsets: Onsets,
        chance: random.Random,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.target = target
        self._active = active
        self._onsets = onsets
        self._chance = chance
        self._clock = clock
        self._waiting: deque[tuple[float, Incident]] = deque()
        self._woken = asyncio.Event()
        self._not_before = -math.inf
        self._repeat_at = math.inf
        self._failed_in_row = 0
        self._success: float | None = None
        self._sent = self._failures = self._dropped = 0

    @property
    def due(self) -> float:
        """Give when something is to be sent, on the clock; inf when nothing is."""
        wanted = -math.inf if self._waiting else self._repeat_at
        return max(wanted, self._not_before)

    @property
    def news(self) -> bool:
        """Say whether there is anything that was not told yet."""
        return bool(self._waiting)

    def put(self, incidents: Sequence[Incident]) -> None:
        """Take incidents to send; the oldest make room."""
        now = self._clock()
        self._waiting.extend((now, incident) for incident in incidents)
        while len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            self._dropped += 1
        self._woken.set()

    async def run(self) -> None:
        """Send what is to be sent, when it is due; for ever."""
        while True:
            self._woken.clear()
            pause = self.due - self._clock()
            if pause <= 0:
                await self.attempt()
                continue
            try:
                async with asyncio.timeout(None if pause == math.inf else pause):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def attempt(self) -> None:
        """Send what waits, as much as fits into one message, once."""
        batch = [item for item, _ in zip(self._waiting, range(MOST_AT_ONCE), strict=False)]
        active = self._active() if self.target.repeat_seconds < math.inf else ()
        try:
            if batch or active:
                await self.target.send([incident for _, incident in batch], active)
                self._succeed(batch)
        except RefusedError as refusal:
            self._fail(batch, refusal)
        except Exception as defect:  # noqa: BLE001 - a defect must not end the task: nobody would be told anything any more
            self._fail(batch, RefusedError(f"{type(defect).__name__}: {defect}", transient=False))
        self._repeat_at = self._clock() + self.target.repeat_seconds if self._active() else math.inf

    def entity(self) -> Entity:
        """Give how the sending fares, for the next snapshot."""
        values = (self._success, self._sent, self._failures, self._dropped, len(self._waiting))
        return Entity(ALERT_DELIVERY, (self.target.name, self.target.address), values)

    def _succeed(self, batch: Sequence[tuple[float, Incident]]) -> None:
        self._remove(batch)
        self._sent += len(batch)
        self._success, self._failed_in_row, self._not_before = 1.0, 0, -math.inf
        self._onsets.mend(self._key, "alerts are delivered again", **self._facts)

    def _fail(self, batch: Sequence[tuple[float, Incident]], refusal: RefusedError) -> None:
        now = self._clock()
        lost = [item for item in batch if not refusal.transient or now - item[0] > LONGEST_WAIT]
        self._remove(lost)
        self._dropped += len(lost)
        self._failures += 1
        self._success = 0.0
        if not self._failed_in_row:  # later reasons may differ (refused, then timed out) and are no news
            self._onsets.fail(self._key, "alerts are not delivered", **self._facts, reason=str(refusal))
        # The exponent is bounded only so that it stays a float.
        pause = min(SHORTEST_PAUSE * 2.0 ** min(self._failed_in_row, 20), LONGEST_PAUSE)
        self._failed_in_row += 1
        self._not_before = now + max(pause, refusal.pause) * self._chance.uniform(*JITTER)

    def _remove(self, batch: Sequence[tuple[float, Incident]]) -> None:
        gone = {id(item) for item in batch}  # by identity: room may have been made meanwhile
        self._waiting = deque(item for item in self._waiting if id(item) not in gone)

    @property
    def _key(self) -> str:
        return f"{self.target.name} {self.target.address}"

    @property
    def _facts(self) -> dict[str, str]:
        return {"target": self.target.name} | ({"address": self.target.address} if self.target.address else {})
