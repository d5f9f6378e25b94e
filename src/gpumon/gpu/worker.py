"""Threads for driver calls: NVML blocks, and may never return. A worker runs one job at a time and holds nobody up."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")


class Worker:
    """A thread that runs jobs one after the other. A daemon thread: a job that never returns does not keep gpumon alive."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.busy_since: float | None = None  # monotonic seconds
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` on the thread; only while the worker is not busy. The job may not raise."""
        assert self.busy_since is None
        self.busy_since = self._clock()
        self._jobs.put(job)

    def stop(self) -> None:
        """End the thread once its job is done."""
        self._jobs.put(None)

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job()


# While driver calls are quick, devices take turns: eight threads that all want the interpreter at once cost eight times
# the CPU of one after the other. Whoever has not answered after this many seconds holds up nobody's turn any more.
TURN_SECONDS = 0.05


class Round(Generic[T]):
    """One job on each of several workers, in turn; the loop is woken once, when the last is done or the time is up.

    What comes too late is dropped, so that an old answer never passes for a new one.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Worker, Callable[[], T]]] = deque()
        self._left = 0
        self._done = asyncio.Event()
        self._closed = False
        self._results: dict[Worker, T | Exception] = {}

    async def run(self, jobs: Iterable[tuple[Worker, Callable[[], T]]], timeout: float) -> dict[Worker, T | Exception]:
        """Do the jobs and give what is done within `timeout` seconds, by worker; what a job raised is its result."""
        self._waiting.extend(jobs)
        self._left = left = len(self._waiting)
        if not left:
            return {}
        self._next()
        try:
            async with asyncio.timeout(timeout):
                while not await self._all_done(TURN_SECONDS):
                    if self._left == left:
                        self._next()  # nobody answered for a whole turn: go on beside those that are slow
                    left = self._left
        except TimeoutError:
            pass
        with self._lock:
            self._closed = True
        return self._results

    async def _all_done(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._done.wait()
        except TimeoutError:
            return False
        return True

    def _next(self) -> None:
        """Start the job whose turn it is, if one is left."""
        with self._lock:
            if self._closed or not self._waiting:
                return
            worker, job = self._waiting.popleft()
        worker.submit(partial(self._work, worker, job))

    def _work(self, worker: Worker, job: Callable[[], T]) -> None:
        result: T | Exception
        try:
            result = job()
        except Exception as error:  # noqa: BLE001 - the edge of the thread: whatever went wrong is the job's result
            result = error
        with self._lock:
            worker.busy_since = None
            if self._closed:
                return
            self._results[worker] = result
            self._left -= 1
            last = not self._left
        if not last:
            self._next()
            return
        try:
            self._loop.call_soon_threadsafe(self._done.set)
        except RuntimeError:
            pass  # the loop was closed while a driver call hung
