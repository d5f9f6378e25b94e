"""One signal's flow to the collector: when to send, what becomes of what was not taken, and what is told about it."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from gpumon.catalog import EXPORT, Entity
from gpumon.log import Onsets

# After failures the pauses double from one second; a fleet finds its collector again within the longest.
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
# What a collector asks for is granted up to here; beyond, it is more likely a mistake.
LONGEST_REQUESTED_PAUSE = 600.0
# So that many nodes do not come back at the same moment.
JITTER = (0.8, 1.2)


@dataclass(frozen=True, slots=True)
class Batch:
    """What is sent at one time: encoded requests, the points or spans in them, and what to do once they are delivered.

    `lost` is how many more there were that could not be kept until now.
    """

    bodies: tuple[bytes, ...]
    items: int
    lost: int = 0
    delivered: Callable[[], None] = lambda: None


# Gives what is to be sent now, or None; it is handed the batch that still waits to be sent again, if any.
Collect = Callable[[Batch | None], Batch | None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a collector said to a request it took: how many points or spans of it it rejected, and why."""

    rejected: int = 0
    message: str = ""


class RefusedError(Exception):
    """A request was not taken. `transient` says that the same may be sent again, `pause` after how many seconds."""

    def __init__(self, reason: str, *, transient: bool, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.transient = transient
        self.pause = min(pause, LONGEST_REQUESTED_PAUSE)


class Transport(Protocol):
    """Carries encoded requests of one signal to a collector."""

    def send(self, body: bytes, timeout: float) -> Answer:
        """Send one request and wait for the answer, at most `timeout` seconds; raises RefusedError."""
        ...

    def close(self) -> None:
        """End what is under way, from any thread; the next `send` connects anew."""
        ...


class Flow:
    """Sends batches through a transport and keeps count. Used by one thread; `entity` may be read by any."""

    def __init__(
        self,
        exporter: str,
        transport: Transport,
        collect: Collect,
        *,
        interval: float,
        timeout: float,
        onsets: Onsets,
        chance: random.Random,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.exporter = exporter
        self._transport = transport
        self._collect = collect
        self._interval = interval
        self._timeout = timeout
        self._onsets = onsets
        self._chance = chance
        self._clock = clock
        self._waiting: Batch | None = None
        self._failed_in_row = 0
        self._failures = 0
        self._dropped = 0
        self.entity = Entity(EXPORT, (exporter,), (None, 0.0, 0.0, None))
        # Nodes that start together do not export together.
        self.due = clock() + interval * chance.random()

    def export(self, at_most: float = math.inf) -> None:
        """Send what is to be sent, within so many seconds and the target's time-out, and set `due`."""
        began = self._clock()
        self.due = began + self._interval
        waiting, self._waiting = self._waiting, None
        try:
            batch = self._collect(waiting)
            if waiting is not None and batch is not waiting:
                self._dropped += waiting.items
            if batch is None or not batch.items:
                return
            if batch is not waiting:
                self._dropped += batch.lost
            self._send(batch, began + min(self._timeout, at_most))
        except Exception as defect:  # noqa: BLE001 - a defect must not end the thread: nobody would notice
            self._fail(RefusedError(f"{type(defect).__name__}: {defect}", transient=False))
        success, duration = float(self._failed_in_row == 0), self._clock() - began
        self.entity = Entity(EXPORT, (self.exporter,), (success, float(self._failures), float(self._dropped), duration))

    def close(self) -> None:
        """End what is under way, from any thread."""
        self._transport.close()

    def _send(self, batch: Batch, deadline: float) -> None:
        try:
            answers = [self._transport.send(body, max(0.0, deadline - self._clock())) for body in batch.bodies]
        except RefusedError as refusal:
            if refusal.transient:
                self._waiting = batch
            else:
                self._dropped += batch.items
            self._fail(refusal)
            return
        batch.delivered()
        self._failed_in_row = 0
        self._onsets.mend(self.exporter, "export works again", exporter=self.exporter)
        self._heed(answers)

    def _heed(self, answers: list[Answer]) -> None:
        """Count what a collector rejected of a request it took, and say that it complains once."""
        complaint = f"{self.exporter} complaint"
        rejected = sum(answer.rejected for answer in answers)
        self._dropped += rejected
        reason = next((answer.message for answer in answers if answer.message), "")
        if rejected or reason:
            self._onsets.fail(complaint, "collector complains", exporter=self.exporter, reason=reason)
        else:
            self._onsets.mend(complaint, "collector takes everything again", exporter=self.exporter)

    def _fail(self, refusal: RefusedError) -> None:
        self._failures += 1
        self._failed_in_row += 1
        if self._failed_in_row == 1:  # later reasons may differ (refused, then timed out) and are no news
            self._onsets.fail(self.exporter, "export fails", exporter=self.exporter, reason=str(refusal))
        # The exponent is bounded only so that it stays a float.
        pause = min(SHORTEST_PAUSE * 2.0 ** min(self._failed_in_row - 1, 20), LONGEST_PAUSE)
        if not refusal.transient:
            pause = max(pause, self._interval)
        self.due = self._clock() + max(pause, refusal.pause) * self._chance.uniform(*JITTER)
