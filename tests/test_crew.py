"""Driver calls are made by threads that hold nobody up, and by no more of them than needed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gpumon.crew import Crew


@pytest.fixture
def crew() -> Iterator[Crew]:
    """Give a crew whose threads end with the test."""
    made = Crew()
    yield made
    made.stop()


@contextmanager
def stuck() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Give (release, done) of a job that hangs until released; released at the end in any case."""
    release = threading.Event()
    try:
        yield release, threading.Event()
    finally:
        release.set()


def hang(events: tuple[threading.Event, threading.Event]) -> int:
    """Hang until released."""
    events[0].wait(10)
    events[1].set()
    return -1


async def idle(crew: Crew) -> None:
    """Wait until no job is under way."""
    while crew.busy:
        await asyncio.sleep(0)


def test_all_results_come_back_by_key(crew: Crew) -> None:
    """Each key's own result is given."""
    results = asyncio.run(crew.run([(i, lambda i=i: i * 10) for i in range(8)], 5))
    assert results == {i: i * 10 for i in range(8)}


@pytest.fixture
def patient() -> Iterator[Crew]:
    """Give a crew that a busy machine cannot make think a job slow."""
    made = Crew(turn_seconds=10)
    yield made
    made.stop()


def test_quick_jobs_need_one_thread(patient: Crew) -> None:
    """Eight devices that answer at once are read by one thread, tick after tick."""

    async def scenario() -> None:
        for _ in range(20):
            names = await patient.run([(i, lambda: threading.current_thread().name) for i in range(8)], 5)
            assert len(set(names.values())) == 1

    asyncio.run(scenario())
    assert patient._threads == 1


def test_a_job_that_hangs_holds_up_nobody(crew: Crew) -> None:
    """The others' results are there at the deadline; the late answer is dropped, and the key is free again."""

    async def scenario() -> None:
        with stuck() as events:
            first = await crew.run([("hung", lambda: hang(events)), ("well", lambda: 1)], 0.3)
            assert first == {"well": 1}
            assert crew.busy_since("hung") is not None
            assert crew.busy_since("well") is None
            assert await crew.run([("well", lambda: 2)], 5) == {"well": 2}
            events[0].set()
            await idle(crew)
            assert "hung" not in first
            assert await crew.run([("hung", lambda: 3)], 5) == {"hung": 3}

    asyncio.run(scenario())


def test_there_are_as_many_threads_as_hung_jobs_and_one_more(crew: Crew) -> None:
    """Hung devices each keep a thread; ticks after that make no more of them."""

    async def scenario() -> None:
        with stuck() as a, stuck() as b:
            jobs = [("a", lambda: hang(a)), ("b", lambda: hang(b)), ("c", lambda: 3)]
            assert await crew.run(jobs, 0.5) == {"c": 3}
            for _ in range(20):
                assert await crew.run([("c", lambda: 3)], 5) == {"c": 3}
            # Two that hang, one that does the rest; a busy machine may add one that then ends by itself.
            assert crew._threads <= 4

    asyncio.run(scenario())


def test_what_was_not_begun_in_time_is_not_done_later(crew: Crew) -> None:
    """A job that found no thread before its deadline is dropped, not run at some other tick."""
    ran: list[str] = []

    async def scenario() -> None:
        with stuck() as events:
            assert await crew.run([("a", lambda: hang(events)), ("b", lambda: ran.append("b"))], 0.01) == {}
            events[0].set()
            await idle(crew)
            assert await crew.run([("c", lambda: 1)], 5) == {"c": 1}

    asyncio.run(scenario())
    assert ran == []


def test_a_job_that_raises_gives_its_exception(patient: Crew) -> None:
    """Whatever a job raises is its result, and not the end of the thread."""

    def fail() -> int:
        raise ValueError("broken")

    async def scenario() -> None:
        assert isinstance((await patient.run([("a", fail)], 5))["a"], ValueError)
        assert await patient.run([("a", lambda: 3)], 5) == {"a": 3}

    asyncio.run(scenario())
    assert patient._threads == 1


def test_a_late_answer_after_the_loop_is_closed_is_no_trouble(crew: Crew) -> None:
    """A driver call that returns after gpumon has stopped disturbs nothing."""
    with stuck() as events:
        assert asyncio.run(crew.run([("a", lambda: hang(events))], 0.01)) == {}
        events[0].set()
        assert events[1].wait(10)


def test_how_long_the_oldest_job_hangs_is_known(crew: Crew) -> None:
    """The age of the longest call under way is what /healthz goes by."""
    now = [100.0]
    slow = Crew(lambda: now[0])
    with stuck() as events:
        asyncio.run(slow.run([("a", lambda: hang(events))], 0.1))
        now[0] = 400.0
        assert slow.longest() == 300.0
        events[0].set()
        asyncio.run(idle(slow))
        assert slow.longest() == 0.0
    slow.stop()
