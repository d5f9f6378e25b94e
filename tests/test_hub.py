"""The hub gives every reader the newest snapshot and holds nobody up."""

from __future__ import annotations

import asyncio

from gpumon.catalog import Snapshot
from gpumon.hub import Hub


def snapshot(number: int) -> Snapshot:
    """Make an empty snapshot."""
    return Snapshot(float(number), float(number), number, ())


def test_a_reader_gets_every_snapshot_it_is_quick_enough_for() -> None:
    """A reader that waits sees each one, in order."""

    async def scenario() -> list[int]:
        hub, seen = Hub(), []

        async def read() -> None:
            async for newest in hub:
                seen.append(newest.number)
                if newest.number == 3:
                    return

        reader = asyncio.create_task(read())
        for number in (1, 2, 3):
            hub.publish(snapshot(number))
            for _ in range(3):
                await asyncio.sleep(0)
        await asyncio.wait_for(reader, 5)
        return seen

    assert asyncio.run(scenario()) == [1, 2, 3]


def test_a_slow_reader_gets_the_newest_and_misses_the_rest() -> None:
    """What was published while a reader was busy is passed over but for the last."""

    async def scenario() -> list[int]:
        hub, seen = Hub(), []
        hub.publish(snapshot(1))
        async for newest in hub:
            seen.append(newest.number)
            if newest.number == 4:
                break
            for number in (2, 3, 4):
                hub.publish(snapshot(number))
        return seen

    assert asyncio.run(scenario()) == [1, 4]


def test_readers_do_not_share_their_place() -> None:
    """Two readers each get the newest snapshot, whenever they come."""

    async def scenario() -> list[int]:
        hub = Hub()
        hub.publish(snapshot(1))
        first = await anext(aiter(hub))
        second = await anext(aiter(hub))
        return [first.number, second.number]

    assert asyncio.run(scenario()) == [1, 1]
