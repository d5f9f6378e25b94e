"""Threads for calls that block and may never return: into the driver, and into a process that hangs in it.

While calls are quick one thread makes them all, one after the other: eight threads that all want the interpreter at
once were measured at eight times the CPU. A call that takes long keeps its thread, and another thread goes on with
the rest, so that there are as many threads as calls that hang, and one more.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# Who has not answered after this many seconds holds up nobody any more.
TURN_SECONDS = 0.05


class Round(Generic[T]):
    """Jobs that were started together, and their results; the loop is woken once, by the last."""

    def __init__(self, left: int) -> None:
        self.results: dict[Hashable, T | Exception] = {}
        self.left = left
        self.closed = False
        self.done = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def take(self, key: Hashable, result: T | Exception) -> None:
        """Take a job's result, on its thread; what comes after the end is dropped, so that it never passes for new."""
        if self.closed:
            return
        self.results[key] = result
        self.left -= 1
        if not self.left:
            try:
                self._loop.call_soon_threadsafe(self.done.set)
            except RuntimeError:
                pass  # the loop was closed while a driver call hung


class Crew:
    """Does jobs on threads of its own. A job has a key; a key has one job at a time.

    The threads are daemons: a job that never returns does not keep gpumon alive.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, turn_seconds: float = TURN_SECONDS, *, name: str = "driver"
    ) -> None:
        self._name = name
        self._clock = clock
        self._turn_seconds = turn_seconds
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._queue: deque[tuple[Round[Any], Hashable, Callable[[], Any]]] = deque()
        self._busy: dict[Hashable, float] = {}
        self._threads = 0
        self._idle = 0
        self._stopped = False

    async def run(
        self, jobs: Iterable[tuple[Hashable, Callable[[], T]]], timeout: float
    ) -> dict[Hashable, T | Exception]:
        """Do the jobs and give what is done within `timeout` seconds, by key; what a job raised is its result.

        A key that is busy may not be given a job.
        """
        queued = list(jobs)
        if not queued:
            return {}
        round_: Round[T] = Round(len(queued))
        with self._lock:
            self._queue.extend((round_, key, job) for key, job in queued)
            self._call_in()
        try:
            async with asyncio.timeout(timeout):
                left = round_.left
                while not await _is_set(round_.done, self._turn_seconds):
                    with self._lock:
                        if round_.left == left and self._queue:
                            self._call_in()  # nobody answered for a whole turn
                    left = round_.left
        except TimeoutError:
            pass
        with self._lock:
            round_.closed = True
            self._queue = deque(item for item in self._queue if item[0] is not round_)
        return round_.results

    def busy_since(self, key: Hashable) -> float | None:
        """Give when the job under way for a key was begun, None when there is none."""
        return self._busy.get(key)

    def longest(self) -> float:
        """Give how long the oldest job under way has been so, in seconds; 0 when there is none."""
        with self._lock:
            since = min(self._busy.values(), default=None)
        return 0.0 if since is None else self._clock() - since

    @property
    def busy(self) -> bool:
        """Say whether any job is under way."""
        return bool(self._busy)

    def stop(self) -> None:
        """End the threads, each once its job is done."""
        with self._lock:
            self._stopped = True
            self._work.notify_all()

    def _call_in(self) -> None:
        """Have one more thread work on the queue; with the lock held."""
        if self._idle:
            self._work.notify()
            return
        self._threads += 1
        threading.Thread(target=self._run, name=f"gpumon-{self._name}{self._threads}", daemon=True).start()

    def _run(self) -> None:
        with self._lock:
            while (work := self._next()) is not None:
                round_, key, job = work
                self._busy[key] = self._clock()
                self._lock.release()
                try:
                    result = _outcome(job)
                finally:
                    self._lock.acquire()
                # Not given up before the next wait: who is woken by this result finds this thread idle, not busy.
                del self._busy[key]
                round_.take(key, result)
                del work, round_, key, job, result  # not to be kept alive while waiting

    def _next(self) -> tuple[Round[Any], Hashable, Callable[[], Any]] | None:
        """Wait for the next job; None when this thread is not needed any more. With the lock held."""
        while not self._queue:
            if self._stopped or self._idle:  # one that waits is enough
                self._threads -= 1
                return None
            self._idle += 1
            self._work.wait()
            self._idle -= 1
        return self._queue.popleft()


def _outcome(job: Callable[[], T]) -> T | Exception:
    try:
        return job()
    except Exception as error:  # noqa: BLE001 - the edge of the thread: whatever went wrong is the job's result
        return error


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
