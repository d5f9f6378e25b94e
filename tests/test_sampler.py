"""The tick: every source gets its time, none can hold up or break another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
import structlog
from structlog.testing import capture_logs

from gpumon.catalog import HOST, SOURCE, Entity
from gpumon.hub import Hub
from gpumon.sampler import Sampler
from gpumon.source import SourceReading


class Scripted:
    """A source that answers from a script: an entity, an exception, or nothing for too long."""

    def __init__(self, name: str, *answers: object) -> None:
        self.name = name
        self.answers = list(answers)
        self.asked: list[tuple[float, float]] = []

    async def read(self, now: float, timeout: float) -> SourceReading:
        self.asked.append((now, timeout))
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        if answer == "hang":
            await asyncio.Event().wait()
        return SourceReading((host(),), success=answer is not False)


def host() -> Entity:
    """Make an entity of some kind."""
    return Entity(HOST, (), tuple(float(i) for i in range(len(HOST.columns))))


def own(ticks: int, late: int) -> Iterable[Entity]:
    """Say nothing of gpumon itself."""
    return ()


def sampler(*sources: Scripted, interval: float = 2.0) -> Sampler:
    """Make a sampler with a clock that stands still."""
    return Sampler(
        sources, Hub(), structlog.get_logger(), interval=interval, own=own, clock=lambda: 1000.0, monotonic=lambda: 5.0
    )


def test_a_snapshot_holds_what_every_source_gave_and_how_it_went() -> None:
    """Each source's entities are in the snapshot, with its success beside them."""
    made = sampler(Scripted("a"), Scripted("b", False))
    snapshot = asyncio.run(made.tick())
    assert (snapshot.time, snapshot.monotonic, snapshot.number) == (1000.0, 5.0, 1)
    assert len(snapshot.of(HOST)) == 2
    assert {entity.labels[0]: entity["success"] for entity in snapshot.of(SOURCE)} == {"a": 1, "b": 0}


def test_a_source_that_raises_costs_only_its_own_readings() -> None:
    """The other source's readings are published; the failure is logged once, and its end."""
    made = sampler(Scripted("bad", OSError("no"), OSError("no"), None), Scripted("good"))

    async def scenario() -> list[int]:
        return [len((await made.tick()).of(HOST)) for _ in range(3)]

    with capture_logs() as logs:
        assert asyncio.run(scenario()) == [1, 1, 2]
    assert [(line["event"], line["source"]) for line in logs] == [
        ("source failed", "bad"),
        ("source works again", "bad"),
    ]


def test_a_source_that_ignores_its_deadline_is_cut_off() -> None:
    """A source that never answers is ended, and the snapshot published without it."""
    made = sampler(Scripted("stuck", "hang"), Scripted("good"), interval=0.02)
    with capture_logs():
        snapshot = asyncio.run(made.tick())
    assert {entity.labels[0]: entity["success"] for entity in snapshot.of(SOURCE)} == {"stuck": 0, "good": 1}


@pytest.mark.parametrize(
    ("durations", "late"),
    [([0.1, 0.1, 0.1], 0), ([0.1, 2.5, 0.1], 1), ([0.1, 9.0, 0.1], 4)],
)
def test_ticks_stay_on_their_grid(durations: list[float], late: int) -> None:
    """However long a tick takes, the next one is on the grid, and those left out are counted."""
    now = [0.0]
    ticks: list[float] = []
    told: list[int] = []

    class Slow(Scripted):
        async def read(self, _now: float, timeout: float) -> SourceReading:
            ticks.append(now[0])
            now[0] += durations.pop(0)
            if not durations:
                raise asyncio.CancelledError
            return SourceReading((), success=True)

    def tell(_ticks: int, late_ticks: int) -> Iterable[Entity]:
        told.append(late_ticks)
        return ()

    async def scenario() -> None:
        made = Sampler([Slow("slow")], Hub(), structlog.get_logger(), interval=2.0, own=tell, monotonic=lambda: now[0])
        real_sleep = asyncio.sleep

        async def sleep(seconds: float) -> None:
            now[0] += seconds
            await real_sleep(0)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "sleep", sleep)
            with pytest.raises(asyncio.CancelledError):
                await made.run()
        assert made._late == late

    asyncio.run(scenario())
    assert [time % 2.0 for time in ticks] == pytest.approx([0.0] * len(ticks), abs=1e-9)
