"""Whatever clients do, a port takes no more than its bounds, and everybody else is served."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response
from tests.web.serving import say

from gpumon.web.listen import REFUSAL, Listener

ASK = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
# More than the kernel's buffers of both ends take.
LARGE = bytes(16 << 20)


@asynccontextmanager
async def listening(body: bytes = b"page", **bounds: Any) -> AsyncIterator[tuple[Listener, int]]:
    """Answer every request with `body`, but /small with a small one; give the listener and its port."""

    async def respond(request: BaseRequest) -> Response:
        return Response(body=b"page" if request.path == "/small" else body)

    listener = Listener(respond, structlog.get_logger(), **bounds)
    port = await listener.start("127.0.0.1", 0, "address", "port")
    try:
        yield listener, port
    finally:
        await listener.stop()
    await asyncio.sleep(0)
    assert not listener.connections


async def served(port: int) -> bool:
    """Say whether a request is answered."""
    request = b"GET /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    return (await say(port, request)).endswith(b"\r\n\r\npage")


def test_a_client_that_is_slow_to_ask_is_dropped() -> None:
    """One that says nothing, and one that sends a header every now and then, however long it goes on."""

    async def scenario() -> None:
        async with listening(head_secs=0.2, idle_secs=60) as (_, port):
            silent, _writer = await asyncio.open_connection("127.0.0.1", port)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            begun = time.monotonic()
            answer = asyncio.ensure_future(reader.read())
            while not answer.done():
                writer.write(b"X: y\r\n")
                await asyncio.wait([answer], timeout=0.05)
                assert time.monotonic() - begun < 5
            assert answer.exception() or answer.result() == b""
            assert await silent.read() == b""
            _writer.close()
            writer.close()

    asyncio.run(scenario())


def test_a_kept_connection_has_its_own_longer_time() -> None:
    """It outlasts the time for asking, and the first byte of a next request starts that anew."""

    async def scenario() -> None:
        async with listening(head_secs=1, idle_secs=60) as (listener, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(2):
                writer.write(ASK)
                assert (await reader.readuntil(b"page")).startswith(b"HTTP/1.1 200 ")
                (connection,) = listener.connections
                left = connection.deadline - asyncio.get_running_loop().time()
                assert 50 < left < 60
            writer.write(b"GET / HT")
            assert await reader.read() == b""
            writer.close()

    asyncio.run(scenario())


def test_an_idle_connection_is_closed_in_the_end() -> None:
    """Memory is not lent for ever."""

    async def scenario() -> None:
        async with listening(head_secs=60, idle_secs=0.2) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(ASK)
            await reader.readuntil(b"page")
            assert await reader.read() == b""
            writer.close()

    asyncio.run(scenario())


def test_a_client_that_does_not_read_is_dropped_and_holds_nobody_up() -> None:
    """Its answer waits in a buffer while others are served."""

    async def scenario() -> None:
        async with listening(LARGE, idle_secs=1) as (listener, port):
            lazy = socket.create_connection(("127.0.0.1", port))
            lazy.sendall(ASK)
            for _ in range(3):
                assert await served(port)
            assert len(listener.connections) == 1
            await until_empty(listener)
            lazy.close()

    asyncio.run(scenario())


def test_connections_beyond_the_bound_are_refused_and_those_that_end_make_room() -> None:
    """With 503 for who can read it; the ones that are there go on."""

    async def scenario() -> None:
        async with listening(most_connections=4) as (listener, port):
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
            for reader, writer in held:
                writer.write(ASK)
                await reader.readuntil(b"page")
            for _ in range(20):
                assert await say(port, b"") in (REFUSAL, b"")
            assert len(listener.connections) == 4
            reader, writer = held[0]
            writer.write(ASK)
            await reader.readuntil(b"page")
            writer.close()
            await writer.wait_closed()
            while len(listener.connections) == 4:
                await asyncio.sleep(0)
            assert await served(port)
            for _, writer in held:
                writer.close()

    asyncio.run(scenario())


def test_a_burst_within_the_bound_is_served_whole() -> None:
    """A connection counts once, also while it is being made."""

    async def scenario() -> None:
        async with listening(most_connections=20) as (_, port):
            assert all(await asyncio.gather(*(served(port) for _ in range(20))))

    asyncio.run(scenario())


def test_clients_that_hang_up_leave_nothing_behind() -> None:
    """At any point: before asking, while asking, before and while taking the answer."""

    async def scenario() -> None:
        async with listening(LARGE) as (listener, port):
            assert await served(port)
            for data in (b"", b"GET / HT", ASK, ASK * 50):
                for reset in (False, True):
                    client = socket.create_connection(("127.0.0.1", port))
                    client.sendall(data)
                    await asyncio.sleep(0)
                    if reset:  # close by RST
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                    client.close()
            await until_empty(listener)
            assert await served(port)

    asyncio.run(scenario())


def test_requests_one_after_the_other_are_answered_in_order() -> None:
    """Also when they come in one packet."""

    async def scenario() -> None:
        async with listening() as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(ASK * 40)
            for _ in range(40):
                await reader.readuntil(b"page")
            writer.close()

    asyncio.run(scenario())


def test_a_body_that_nobody_asked_for_is_not_waited_for() -> None:
    """The answer comes at once, and the connection ends."""

    async def scenario() -> None:
        async with listening() as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\nabc")
            assert (await reader.readuntil(b"page")).startswith(b"HTTP/1.1 200 ")
            assert await reader.read() == b""
            writer.close()

    asyncio.run(scenario())


def test_every_address_of_a_name_is_listened_on() -> None:
    """`localhost` and `::` are more than one address; where there is no IPv6, less."""

    async def scenario() -> None:
        async def respond(request: BaseRequest) -> Response:
            return Response(body=b"page")

        for address, reached in (("::", ("127.0.0.1", "::1")), ("0.0.0.0", ("127.0.0.1",))):
            if not socket.has_ipv6 and ":" in address:
                continue
            listener = Listener(respond, structlog.get_logger())
            port = await listener.start(address, 0, "address", "port")
            for host in reached:
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(ASK)
                await reader.readuntil(b"page")
                writer.close()
            await listener.stop()

    asyncio.run(scenario())


def test_without_file_descriptors_the_port_waits_for_better_times() -> None:
    """A client that cannot be taken now is taken when there is room again; the loop does not spin meanwhile."""

    async def scenario() -> None:
        async with listening() as (listener, port):
            client = socket.create_connection(("127.0.0.1", port))
            client.setblocking(False)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno(), hard))
            try:
                for _ in range(5):
                    await asyncio.sleep(0)
                assert not listener.connections
                assert not asyncio.get_running_loop().remove_reader(listener._sockets[0])
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await asyncio.get_running_loop().sock_sendall(client, ASK)
            assert b"page" in await asyncio.get_running_loop().sock_recv(client, 1000)
            client.close()

    asyncio.run(scenario())


def test_a_request_that_does_not_end_holds_the_end_up_for_a_second() -> None:
    """SIGTERM ends the service within 3 s, and others have to end as well."""

    async def scenario() -> float:
        begun = asyncio.Event()

        async def endless(_: BaseRequest) -> Response:
            begun.set()
            await asyncio.Event().wait()
            return Response()

        listener = Listener(endless, structlog.get_logger())
        port = await listener.start("127.0.0.1", 0, "address", "port")
        asking = asyncio.create_task(say(port, ASK))
        await begun.wait()
        started = time.monotonic()
        await listener.stop()
        assert await asking == b""
        return time.monotonic() - started

    assert asyncio.run(scenario()) < 1.8


async def until_empty(listener: Listener) -> None:
    """Wait until all connections have ended, which the kernel and the loop tell in their own time."""
    async with asyncio.timeout(5):
        while listener.connections:
            await asyncio.sleep(0.01)
