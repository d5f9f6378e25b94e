"""Threads for driver calls: NVML blocks, and may never return. A worker runs one job at a time and holds nobody up."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
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


class Round(Generic[T]):
    """One job on each of several workers; the loop is woken once, when the last is done or the time is up.

    `results` holds what was given in time; an exception a job raised is given as its result.
    What comes later is dropped, so that an old answer never passes for a new one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._expected = 0
        self._done = asyncio.Event()
        self._closed = False
        self.results: dict[Worker, T | Exception] = {}

    async def run(self, jobs: Iterable[tuple[Worker, Callable[[], T]]], timeout: float) -> dict[Worker, T | Exception]:
        """Start the jobs and give what is done within `timeout` seconds."""
        started = list(jobs)
        self._expected = len(started)
        for worker, job in started:
            worker.submit(partial(self._work, worker, job))
        if started:
            try:
                await asyncio.wait_for(self._done.wait(), timeout)
            except TimeoutError:
                pass
        with self._lock:
            self._closed = True
        return self.results

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
            self.results[worker] = result
            last = len(self.results) == self._expected
        if last:
            try:
                self._loop.call_soon_threadsafe(self._done.set)
            except RuntimeError:
                pass  # the loop was closed while a driver call hung
