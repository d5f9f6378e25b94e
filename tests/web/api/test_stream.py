"""The stream: every snapshot to every reader, as it comes, without one of them costing the others."""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from tests.snapshots import node
from tests.web.api.serving import filled, serving
from tests.web.serving import ask

from gpumon.catalog import Snapshot
from gpumon.hub import Hub

PATIENCE = 10.0


class Reading:
    """One reader of the stream, over a plain connection; what it gets is decoded by hand."""

    def __init__(self, reader: asyncio.StreamReader, *, packed: bool, chunked: bool) -> None:
        self._reader = reader
        self._chunked = chunked
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16) if packed else None
        self._text = b""

    async def event(self) -> dict[str, str]:
        """Give the next event, or the next comment under the name ""."""
        while b"\n\n" not in self._text:
            data = await asyncio.wait_for(self._piece(), PATIENCE)
            assert data, "the stream ended"
            self._text += self._inflate.decompress(data) if self._inflate else data
        block, _, self._text = self._text.partition(b"\n\n")
        return dict(line.split(": ", 1) for line in block.decode().split("\n"))

    async def snapshot(self) -> dict[str, Any]:
        """Give the next snapshot."""
        while (event := await self.event()).get("event") != "snapshot":
            pass
        found: dict[str, Any] = json.loads(event["data"])
        assert event["id"] == str(found["sequence"])
        return found

    async def _piece(self) -> bytes:
        if not self._chunked:
            return await self._reader.read(65536)
        size = int(await self._reader.readline() or b"0", 16)
        data = await self._reader.readexactly(size + 2)
        return data[:-2]


@asynccontextmanager
async def reading(port: int, *, packed: bool = False, version: str = "1.1") -> AsyncIterator[Reading]:
    """Read the stream for the length of the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    accept = "Accept-Encoding: gzip\r\n" if packed else ""
    writer.write(f"GET /api/stream HTTP/{version}\r\nHost: localhost\r\n{accept}\r\n".encode())
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert b" 200 OK\r\n" in head
        assert b"Content-Type: text/event-stream\r\n" in head
        assert b"Server: gpumon\r\n" in head
        assert (b"Content-Encoding: gzip\r\n" in head) is packed
        yield Reading(reader, packed=packed, chunked=b"chunked" in head)
    finally:
        writer.close()


def next_one(hub: Hub) -> Snapshot:
    """Publish another snapshot."""
    assert hub.latest is not None
    hub.publish(
        replace(node(gpus=2, links=2, seed=hub.latest.number), number=hub.latest.number + 1, monotonic=time.monotonic())
    )
    return hub.latest


def test_every_reader_gets_the_newest_at_once_and_then_each() -> None:
    """Compressed or not, by HTTP/1.1 or 1.0, and the same as /api/realtime says."""

    async def run() -> None:
        hub = filled()
        async with (
            serving(hub) as server,
            reading(server.port) as plain,
            reading(server.port, packed=True) as packed,
            reading(server.port, version="1.0") as old,
            reading(server.port, packed=True, version="1.0") as old_packed,
        ):
            for _ in range(4):
                found = [await each.snapshot() for each in (plain, packed, old, old_packed)]
                now = json.loads((await ask(server.port, "/api/realtime")).body)
                for each in found:
                    assert each | {"age_seconds": 0} == now | {"age_seconds": 0}
                assert server.renders == now["sequence"]
                next_one(hub)

    asyncio.run(run())


def test_a_reader_that_is_slow_gets_the_newest_and_misses_the_rest() -> None:
    """And holds up no other."""

    async def run() -> None:
        hub = filled()
        async with serving(hub) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
            writer.write(b"GET /api/stream HTTP/1.0\r\nHost: localhost\r\n\r\n")
            async with reading(server.port) as quick:
                for _ in range(400):  # far more than sockets buffer
                    number = (await quick.snapshot())["sequence"]
                    assert hub.latest is not None
                    assert number == hub.latest.number
                    next_one(hub)
                last = (await quick.snapshot())["sequence"]
                slow = Reading(reader, packed=False, chunked=False)
                await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
                got = [(await slow.snapshot())["sequence"]]
                while got[-1] < last:
                    got.append((await slow.snapshot())["sequence"])
                    next_one(hub) if got[-1] < last else None
                assert len(got) < last
                assert got == sorted(got)
            writer.close()

    asyncio.run(run())


def test_no_more_than_so_many_read_at_a_time() -> None:
    """The next is told so, and gets in when one has gone."""

    async def run() -> None:
        async with serving(max_streams=2) as server, reading(server.port) as first:
            async with reading(server.port) as second:
                await first.snapshot()
                await second.snapshot()
                refused = await ask(server.port, "/api/stream")
                assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
                assert "api.max_streams" in json.loads(refused.body)["error"]
            while server.streams == 2:
                await asyncio.sleep(0)
            async with reading(server.port) as third:
                await third.snapshot()

    asyncio.run(run())


def test_when_sampling_stops_the_stream_says_so() -> None:
    """Once, by an event with the same id; a page need not work out by itself that what it shows is old."""

    async def run() -> None:
        hub = filled()
        assert hub.latest is not None
        # Fresh for some hundredths of a second more.
        hub.latest = replace(hub.latest, monotonic=time.monotonic() - 5.9)
        async with serving(hub) as server, reading(server.port) as reader:
            first, second = await reader.snapshot(), await reader.snapshot()
            assert (first["stale"], second["stale"]) == (False, True)
            assert first["sequence"] == second["sequence"]
            assert "gpu" not in second["entities"]

    asyncio.run(run())


def test_a_reader_that_comes_before_the_first_snapshot_gets_it_when_it_is_there() -> None:
    """Who opens the page while gpumon starts need not come again."""

    async def run() -> None:
        hub = Hub()
        async with serving(hub) as server, reading(server.port, packed=True) as reader:
            assert await reader.event() == {"retry": "2000"}
            assert "event" not in await reader.event()
            hub.publish(replace(node(gpus=1), monotonic=time.monotonic()))
            assert (await reader.snapshot())["sequence"] == 1

    asyncio.run(run())


def test_the_end_of_the_service_does_not_wait_for_readers() -> None:
    """They are told by the end of the stream."""

    async def run() -> float:
        async with serving() as server:
            readers = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(3)]
            for _, writer in readers:
                writer.write(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            for reader, _ in readers:
                await reader.readuntil(b"\n\n")
            started = time.monotonic()
            await server.stop()
            took = time.monotonic() - started
            for reader, writer in readers:
                await asyncio.wait_for(reader.read(), PATIENCE)
                writer.close()
            return took

    assert asyncio.run(run()) < 0.9  # a second is what a reader that stays is waited for
