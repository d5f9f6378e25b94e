"""Driver calls run on threads that hold nobody up."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gpumon.gpu.worker import Round, Worker


@pytest.fixture
def workers() -> list[Worker]:
    """Give three workers; their threads end with the test."""
    made = [Worker(f"test-{i}") for i in range(3)]
    yield made
    for worker in made:
        worker.stop()


def test_all_results_come_back_by_worker(workers: list[Worker]) -> None:
    """Each worker's own result is given, whoever is done first."""

    async def scenario() -> dict[Worker, int | Exception]:
        return await Round[int]().run([(w, lambda i=i: i * 10) for i, w in enumerate(workers)], 5)

    assert asyncio.run(scenario()) == {worker: i * 10 for i, worker in enumerate(workers)}


def test_a_job_that_hangs_holds_up_nobody(workers: list[Worker]) -> None:
    """The others' results are there at the deadline; the late answer is dropped and the worker is free again."""
    release = threading.Event()

    def hang() -> int:
        release.wait(10)
        return -1

    async def scenario() -> None:
        first = await Round[int]().run([(workers[0], hang), (workers[1], lambda: 1)], 0.3)
        assert first == {workers[1]: 1}
        assert workers[0].busy_since is not None
        assert workers[1].busy_since is None
        release.set()
        while workers[0].busy_since is not None:
            await asyncio.sleep(0)
        again = await Round[int]().run([(workers[0], lambda: 2)], 5)
        assert again == {workers[0]: 2}
        assert workers[0] not in first

    asyncio.run(scenario())


def test_a_job_that_raises_gives_its_exception(workers: list[Worker]) -> None:
    """Whatever a job raises is its result and not the end of its thread."""

    def fail() -> int:
        raise ValueError("broken")

    async def scenario() -> None:
        result = (await Round[int]().run([(workers[0], fail)], 5))[workers[0]]
        assert isinstance(result, ValueError)
        assert await Round[int]().run([(workers[0], lambda: 3)], 5) == {workers[0]: 3}

    asyncio.run(scenario())


def test_a_late_answer_after_the_loop_is_closed_is_no_trouble(workers: list[Worker]) -> None:
    """A driver call that returns after gpumon has stopped disturbs nothing."""
    release, done = threading.Event(), threading.Event()

    def hang() -> int:
        release.wait(10)
        done.set()
        return 0

    async def scenario() -> None:
        assert await Round[int]().run([(workers[0], hang)], 0.01) == {}

    asyncio.run(scenario())
    release.set()
    assert done.wait(10)
