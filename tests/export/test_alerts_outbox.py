"""What waits to be sent is sent once it can be; what is given up is counted, and nothing waits for a place that hangs."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Sequence

import pytest
import structlog
from structlog.testing import capture_logs

from gpumon.export.alerts_outbox import (
    LONGEST_PAUSE,
    LONGEST_REQUESTED_PAUSE,
    LONGEST_WAIT,
    MOST_AT_ONCE,
    MOST_WAITING,
    Outbox,
    RefusedError,
)
from gpumon.export.alerts_settings import rules
from gpumon.export.alerts_watch import Incident
from gpumon.log import Onsets
from gpumon.settings import Settings

ALERT = rules(Settings())[0].alert


def incident(number: int = 0, *, ended: float | None = None) -> Incident:
    labels = {"gpu_id": str(number), "gpu_name": "H100", "gpu_uuid": f"GPU-{number}"}
    return Incident(alert=ALERT, labels=labels, words=labels, value=91, threshold=85, started=1000.0, ended=ended)


class Place:
    """A target that refuses while it is told to, and keeps what it took."""

    name, address = "webhook", "here:80"

    def __init__(self, repeat_seconds: float = math.inf) -> None:
        self.repeat_seconds = repeat_seconds
        self.refusal: Exception | None = None
        self.attempts = 0
        self.news: list[Incident] = []
        self.active: list[int] = []

    async def send(self, news: Sequence[Incident], active: Sequence[Incident]) -> None:
        self.attempts += 1
        if self.refusal is not None:
            raise self.refusal
        self.news += news
        self.active.append(len(active))

    async def close(self) -> None: ...


class Scene:
    """An outbox before a place, with a clock that the test moves and the alerts that are active."""

    def __init__(self, place: Place) -> None:
        self.now = 0.0
        self.place = place
        self.active: list[Incident] = []
        onsets = Onsets(structlog.get_logger())
        self.outbox = Outbox(place, lambda: self.active, onsets=onsets, chance=random.Random(1), clock=lambda: self.now)

    async def until(self, end: float) -> None:
        """Let time pass, and attempt whenever something is due."""
        while self.outbox.due <= end:
            self.now = max(self.now, self.outbox.due)
            await self.outbox.attempt()
        self.now = end

    @property
    def counts(self) -> tuple[float | None, ...]:
        """Give success, sent, failures, dropped and waiting."""
        return self.outbox.entity().values


def scene(work: Callable[[Scene], Coroutine[object, object, None]], repeat_seconds: float = math.inf) -> None:
    """Run a test on a loop."""

    async def run() -> None:
        await work(Scene(Place(repeat_seconds)))

    asyncio.run(run())


def test_news_goes_at_once_and_together() -> None:
    """What began at one tick is one message, and nothing is due after it."""

    async def work(scene: Scene) -> None:
        assert scene.counts == (None, 0, 0, 0, 0)
        scene.outbox.put([incident(0), incident(1)])
        await scene.until(0)
        assert scene.place.attempts == 1
        assert len(scene.place.news) == 2
        assert scene.counts == (1, 2, 0, 0, 0)
        assert scene.outbox.due == math.inf

    scene(work)


def test_a_place_that_is_away_gets_its_news_later_and_in_order() -> None:
    """Pauses grow to a minute; it is said once that it fails, and once that it works again."""

    async def work(scene: Scene) -> None:
        scene.place.refusal = RefusedError("nobody there")
        scene.outbox.put([incident(0)])
        await scene.until(600)
        scene.outbox.put([incident(1)])
        assert 10 <= scene.place.attempts <= 20
        assert scene.outbox.due - scene.now <= LONGEST_PAUSE * 1.2
        assert scene.counts == (0, 0, scene.place.attempts, 0, 2)
        scene.place.refusal = None
        await scene.until(700)
        assert [each.labels["gpu_id"] for each in scene.place.news] == ["0", "1"]
        assert scene.counts[:2] == (1, 2)

    with capture_logs() as lines:
        scene(work)
    assert [line["event"] for line in lines] == ["alerts are not delivered", "alerts are delivered again"]
    assert lines[0]["reason"] == "nobody there"


def test_news_that_is_too_old_is_given_up_and_counted() -> None:
    """After an hour."""

    async def work(scene: Scene) -> None:
        scene.place.refusal = RefusedError("nobody there")
        scene.outbox.put([incident(0)])
        await scene.until(LONGEST_WAIT - 60)
        assert scene.counts[3:] == (0, 1)
        await scene.until(LONGEST_WAIT + 120)
        assert scene.counts[3:] == (1, 0)
        assert scene.outbox.due >= scene.now

    scene(work)


def test_news_that_is_refused_for_what_it_is_is_not_sent_again() -> None:
    """But counted."""

    async def work(scene: Scene) -> None:
        scene.place.refusal = RefusedError("HTTP 400", transient=False)
        scene.outbox.put([incident(0)])
        await scene.until(3600)
        assert scene.place.attempts == 1
        assert scene.counts == (0, 0, 1, 1, 0)

    scene(work)


def test_a_defect_costs_the_message_and_not_the_outbox() -> None:
    """It is counted and said like a refusal."""

    async def work(scene: Scene) -> None:
        scene.place.refusal = KeyError("defect")
        scene.outbox.put([incident(0)])
        await scene.until(10)
        scene.place.refusal = None
        scene.outbox.put([incident(1)])
        await scene.until(20)
        assert scene.counts == (1, 1, 1, 1, 0)

    scene(work)


def test_a_pause_that_is_asked_for_is_kept_up_to_a_limit() -> None:
    """Retry-After."""

    async def work(scene: Scene) -> None:
        scene.place.refusal = RefusedError("HTTP 429", pause=120)
        scene.outbox.put([incident(0)])
        await scene.until(90)
        assert scene.place.attempts == 1
        scene.place.refusal = RefusedError("HTTP 429", pause=1e9)
        await scene.until(LONGEST_REQUESTED_PAUSE * 2)
        assert scene.place.attempts >= 2

    scene(work)


def test_too_much_news_pushes_out_the_oldest_and_is_sent_in_parts() -> None:
    """Memory has a bound, and so has a message."""

    async def work(scene: Scene) -> None:
        scene.outbox.put([incident(number) for number in range(MOST_WAITING + 5)])
        assert scene.counts[3:] == (5, MOST_WAITING)
        await scene.until(0)
        assert scene.place.attempts == MOST_WAITING / MOST_AT_ONCE
        assert scene.place.news[0].labels["gpu_id"] == "5"
        assert scene.counts == (1, MOST_WAITING, 0, 5, 0)

    scene(work)


def test_what_is_active_is_told_again_and_again_to_whom_wants_it() -> None:
    """An Alertmanager takes for over what it does not hear of; when nothing is active it is left alone."""

    async def work(scene: Scene) -> None:
        scene.active = [incident(0)]
        scene.outbox.put(scene.active)
        await scene.until(0)
        assert scene.place.active == [1]
        await scene.until(190)
        assert scene.place.active == [1, 1, 1, 1]
        scene.active = []
        scene.outbox.put([incident(0, ended=1190.0)])
        await scene.until(1000)
        assert scene.place.active == [1, 1, 1, 1, 0]

    scene(work, repeat_seconds=60)


def test_an_alertmanager_that_comes_back_is_told_what_is_active() -> None:
    """Even if its news was given up meanwhile."""

    async def work(scene: Scene) -> None:
        scene.active = [incident(0)]
        scene.place.refusal = RefusedError("nobody there")
        scene.outbox.put(scene.active)
        await scene.until(LONGEST_WAIT + 120)
        assert scene.counts[3:] == (1, 0)
        scene.place.refusal = None
        await scene.until(scene.now + 120)
        assert scene.place.active[0] == 1

    scene(work, repeat_seconds=60)


@pytest.mark.parametrize("repeat_seconds", [math.inf, 60])
def test_the_task_sends_news_as_it_comes(repeat_seconds: float) -> None:
    """By itself, and without turning while nothing is due."""

    async def work() -> None:
        place = Place(repeat_seconds)
        onsets = Onsets(structlog.get_logger())
        outbox = Outbox(place, list, onsets=onsets, chance=random.Random(1))
        task = asyncio.create_task(outbox.run())
        for number in range(3):
            await asyncio.sleep(0)
            outbox.put([incident(number)])
            while len(place.news) <= number:
                await asyncio.sleep(0)
        assert place.attempts == 3
        task.cancel()

    asyncio.run(work())
