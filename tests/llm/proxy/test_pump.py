"""Bytes pass unchanged, at once, and no faster than they are taken; ends and errors pass as what they are."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import ssl
import struct
import time
from pathlib import Path

import aiohttp
import pytest
import structlog
import trustme

from gpumon.llm.proxy.server import READ_BYTES, Proxy
from gpumon.llm.request import Outcome
from gpumon.settings import Proxy as ProxySettings
from gpumon.settings import SettingsError
from tests.llm.proxy.imitation import Got, chunk, header, ndjson, ollama_chat, read_body, stream_head, whole
from tests.llm.proxy.learning import CASES, NDJSON, Case
from tests.llm.proxy.through import Through, through

CHAT = CASES["ollama chat"]


def run(coroutine: object) -> None:
    """Run a test's coroutine; warnings and errors in callbacks fail it."""
    problems: list[object] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        await coroutine  # type: ignore[misc]

    asyncio.run(watched())
    assert not problems


def closing(request: bytes) -> bytes:
    """Give a request that asks for the connection to end after it."""
    return request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_the_same_as_without_it(name: str) -> None:
    """What the server gets, and what the client gets, of every case: heads, chunks and all."""
    case = CASES[name]

    async def main() -> None:
        asked = case.path.partition("?")[0]

        async def serve(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.body = await read_body(got.head, reader)
            writer.write(case.response)
            await writer.drain()
            writer.close()

        async with through({asked: serve}) as t:
            direct = await t.ask(case.request_bytes, t.server.port)
            proxied = await t.ask(case.request_bytes)
            assert proxied == direct == case.response
            first, second = (got for got in t.server.got if got.method == "POST")
            assert (second.head, second.body) == (first.head, first.body)
            if case.fields is not None:
                measured = await t.measured.get()
                assert measured.request.outcome is case.fields["outcome"]
                assert measured.request.completion_tokens == case.fields.get("completion_tokens")
            assert (await t.health())["unreadable_total"] == case.unread

    run(main())


def test_every_piece_passes_at_once() -> None:
    """The server sends a piece only when the client has the one before it; each arrives alone, chunk by chunk."""

    async def main() -> None:
        taken = asyncio.Queue[None]()
        pieces = [chunk(line) for line in ndjson(ollama_chat("a", "b", "c"))]

        async def serve(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_body(got.head, reader)
            writer.write(stream_head(NDJSON))
            for piece in [*pieces, b"0\r\n\r\n"]:
                await taken.get()
                writer.write(piece)

        async with through({"/api/chat": serve}) as t:
            reader, writer = await t.connect()
            writer.write(CHAT.request_bytes)
            assert await reader.readuntil(b"\r\n\r\n") == stream_head(NDJSON)
            for piece in [*pieces, b"0\r\n\r\n"]:
                taken.put_nowait(None)
                assert await reader.read(65536) == piece
            writer.close()

    run(main())


def test_500_streams_at_once_are_the_same_as_without_it() -> None:
    """Each stream has a text of its own, and they come mixed."""

    async def main() -> None:
        async def serve(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.body = await read_body(got.head, reader)
            mark = got.json["prompt"]
            writer.write(stream_head(NDJSON))
            for i in range(10):
                await asyncio.sleep(0)
                writer.write(chunk(b'{"model":"tiny","response":"%d of %d","done":false}\n' % (i, mark)))
                await writer.drain()
            writer.write(chunk(b'{"model":"tiny","done":true,"eval_count":%d}\n' % mark) + b"0\r\n\r\n")

        def request(i: int) -> bytes:
            return Case("/api/generate", {"model": "tiny", "prompt": i}, b"", None).request_bytes

        async with through({"/api/generate": serve}) as t:
            direct = await asyncio.gather(*(t.ask(request(i), t.server.port) for i in range(500)))
            proxied = await asyncio.gather(*(t.ask(request(i)) for i in range(500)))
            assert proxied == direct
            assert len(set(proxied)) == 500
            measured = [await t.measured.get() for _ in range(500)]
            assert sorted(m.request.completion_tokens or 0 for m in measured) == list(range(500))
            assert {m.request.outcome for m in measured} == {Outcome.OK}
            await t.idle()
            assert t.proxy.running == 0

    run(main())


def endless(left: asyncio.Future[float], begun: asyncio.Event) -> object:
    """Give a script that streams until the client is gone, and notes when."""

    async def serve(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(got.head, reader)
        if "prefill" not in got.head.decode():
            writer.write(stream_head(NDJSON) + chunk(ndjson(ollama_chat("a"))[0]))
        begun.set()
        try:
            await reader.read(1)
        except ConnectionError:
            pass
        left.set_result(time.monotonic())
        writer.close()

    return serve


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("when", ["prefill", "streaming"])
def test_a_client_that_leaves_is_told_to_the_server_within_100_ms(how: str, when: str) -> None:
    """Before the first token and in the middle of a stream, by a proper end and by a reset."""

    async def main() -> None:
        left: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        begun = asyncio.Event()
        async with through({"/api/chat": endless(left, begun)}) as t:  # type: ignore[dict-item]
            reader, writer = await t.connect()
            request = CHAT.request_bytes.replace(b"Host: a", b"Host: a\r\nX-Mode: " + when.encode())
            writer.write(request)
            await begun.wait()
            if when == "streaming":
                await reader.readuntil(b"false}\n")
            if how == "reset":
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            at = time.monotonic()
            writer.close()
            assert await left - at < 0.1
            measured = await t.measured.get()
            assert measured.request.outcome is Outcome.CANCELLED
            assert measured.request.completion_tokens == (1 if when == "streaming" else None)
            await t.idle()

    run(main())


HEADS = {
    "chunked": b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunk(b"{}\n"),
    "length": b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
    "nothing": b"",
}


@pytest.mark.parametrize("form", HEADS)
@pytest.mark.parametrize("how", ["end", "reset"])
def test_the_servers_death_is_no_proper_end(form: str, how: str) -> None:
    """The client gets what came, and then an end in the middle of a message, which no client takes for a whole one."""

    async def main() -> None:
        async def serve(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_body(got.head, reader)
            writer.write(HEADS[form])
            if how == "reset":
                _reset(writer)
            writer.close()

        async with through({"/api/chat": serve}) as t:
            reader, writer = await t.connect()
            writer.write(CHAT.request_bytes)
            try:
                got = await reader.read()
            except ConnectionResetError:
                pass
            else:
                assert got == HEADS[form] or how == "reset"
                assert not got.endswith(b"0\r\n\r\n")
            writer.close()
            measured = await t.measured.get()
            assert (measured.request.outcome, measured.error) == (Outcome.ERROR, "connection")

    run(main())


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def test_a_reset_is_passed_on_where_an_end_would_look_clean() -> None:
    """A body that lasts until the connection's end must not be taken for whole."""

    async def main() -> None:
        begun = asyncio.Event()

        async def serve(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_body(got.head, reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n{}\n")
            await begun.wait()
            _reset(writer)

        async with through({"/api/chat": serve}) as t:
            reader, writer = await t.connect()
            writer.write(CHAT.request_bytes)
            await reader.readuntil(b"{}\n")
            begun.set()
            with pytest.raises(ConnectionResetError):
                await reader.read()
            assert (await t.measured.get()).request.outcome is Outcome.ERROR

    run(main())


def test_a_killed_server_ends_all_streams_with_an_error() -> None:
    """All of fifty, and the proxy serves on: 502 as long as nobody is there."""

    async def main() -> None:
        async def serve(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_body(got.head, reader)
            writer.write(HEADS["chunked"])
            await reader.read(1)

        async with through({"/api/chat": serve}) as t:
            streams = [await t.connect() for _ in range(50)]
            for reader, writer in streams:
                writer.write(CHAT.request_bytes)
                await reader.readuntil(b"{}\n\r\n")
            t.server.stop()
            for reader, writer in streams:
                assert await reader.read() == b""
                writer.close()
            outcomes = [(await t.measured.get()).request.outcome for _ in range(50)]
            assert set(outcomes) == {Outcome.ERROR}
            answer = await t.ask(CHAT.request_bytes)
            assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
            assert answer.endswith(b'{"error": "gpumon\'s proxy cannot reach the model server"}')
            measured = await t.measured.get()
            assert (measured.request.outcome, measured.request.model) == (Outcome.ERROR, "tiny:latest")
            assert (await t.health())["unreachable_total"] == 1

    run(main())


def test_connections_are_kept_as_long_as_both_want() -> None:
    """Five requests of a client take one connection to the server; when the client closes, that ends."""

    async def main() -> None:
        async with through({"/api/chat": CHAT.response}) as t:
            reader, writer = await t.connect()
            for _ in range(5):
                writer.write(CHAT.request_bytes)
                assert await reader.readexactly(len(CHAT.response)) == CHAT.response
            assert len({got.peer for got in t.server.got if got.method == "POST"}) == 1
            writer.close()
            await t.idle()
            while any(not w.is_closing() for w in t.server.connections):
                await asyncio.sleep(0.001)

    run(main())


def test_a_client_that_closes_its_half_gets_its_answer() -> None:
    """As it would from the server itself."""

    async def main() -> None:
        async def serve(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_body(got.head, reader)
            assert await reader.read() == b""  # the end has come up
            writer.write(CHAT.response)

        async with through({"/api/chat": serve}) as t:
            assert await t.ask(CHAT.request_bytes) == CHAT.response
            assert (await t.measured.get()).request.outcome is Outcome.OK
            await t.idle()

    run(main())


def test_websockets_pass() -> None:
    """The switch of protocols, and frames both ways at any time."""

    async def main() -> None:
        async def serve(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            key = header(got.head, "sec-websocket-key") or ""
            digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            accept = base64.b64encode(digest)
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n\x81\x05hello"
            )
            assert (await reader.readexactly(6 + 3))[:2] == b"\x81\x83"  # a masked text of three letters
            writer.write(b"\x81\x02ok")
            assert (await reader.readexactly(6))[0] == 0x88  # it closes
            writer.write(b"\x88\x00")
            writer.close()

        async with through({"/v1/realtime": serve}) as t:
            async with aiohttp.ClientSession() as session, session.ws_connect(t.url + "/v1/realtime?model=x") as ws:
                assert await ws.receive_str() == "hello"
                await ws.send_str("abc")
                assert await ws.receive_str() == "ok"
            assert (await t.health())["unreadable_total"] == 0
            await t.idle()

    run(main())


def test_what_is_no_http_passes() -> None:
    """Whatever both sides speak; it is counted, and that is all."""

    async def main() -> None:
        async with through({}) as t:

            async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                while data := await reader.read(1000):
                    writer.write(data[::-1])
                writer.close()

            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            t.proxy._where = ("127.0.0.1", server.sockets[0].getsockname()[1])
            reader, writer = await t.connect()
            for text in (b"\x00\x01\r\n\r\n", b"\r\n\r\nSSH-2.0", b"abc"):
                writer.write(text)
                assert await reader.readexactly(len(text)) == text[::-1]
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            assert (await t.health())["unreadable_total"] == 1
            server.close()

    run(main())


def test_a_client_may_wait_to_be_told_to_continue() -> None:
    """100 Continue passes before the body is sent."""

    async def main() -> None:
        async def serve(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            got.body = await read_body(got.head, reader)
            writer.write(CHAT.response)

        async with through({"/api/chat": serve}) as t:
            reader, writer = await t.connect()
            head, body = CHAT.request_bytes.split(b"\r\n\r\n")
            writer.write(head + b"\r\nExpect: 100-continue\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            assert await reader.readexactly(len(CHAT.response)) == CHAT.response
            writer.close()
            assert (await t.measured.get()).request.completion_tokens == 5

    run(main())


LARGE = 64 << 20


async def held(t: Through) -> int:
    """Give how many bytes the proxy has taken and not yet handed on."""
    total = 0
    for client in t.proxy._clients:
        total += client.transport.get_write_buffer_size()
        if client.other is not None:
            total += client.other.transport.get_write_buffer_size()
    return total


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_slow_side_slows_the_other(way: str) -> None:
    """Of 64 MB that nobody takes, the proxy holds one read at most; then all of it comes through, unchanged."""

    async def main() -> None:
        take = asyncio.Event()
        total = hashlib.sha256()

        async def swallow(reader: asyncio.StreamReader) -> None:
            await take.wait()
            left = LARGE
            while left:
                data = await reader.read(1 << 20)
                assert data
                total.update(data)
                left -= len(data)

        async def pour(writer: asyncio.StreamWriter, digest: object) -> int:
            """Write until it is all taken; give the bytes written before it stuck for the first time."""
            block = bytes(range(256)) * 1024
            stuck = 0
            for i in range(LARGE // len(block)):
                writer.write(block)
                digest.update(block)  # type: ignore[attr-defined]
                try:
                    async with asyncio.timeout(0.3 if not take.is_set() else 20):
                        await writer.drain()
                except TimeoutError:
                    stuck = i * len(block)
                    assert await held(t) <= READ_BYTES
                    take.set()
                    await writer.drain()
            return stuck

        sent = hashlib.sha256()

        async def serve(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if way == "up":
                await swallow(reader)
                writer.write(whole(b"{}"))
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
                assert await pour(writer, sent)

        async with through({"/api/blobs/x": serve}) as t:
            reader, writer = await t.connect()
            if way == "up":
                writer.write(b"POST /api/blobs/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % LARGE)
                assert await pour(writer, sent)
                assert await reader.readexactly(len(whole(b"{}"))) == whole(b"{}")
            else:
                writer.write(b"GET /api/blobs/x HTTP/1.1\r\nHost: a\r\n\r\n")
                await reader.readuntil(b"\r\n\r\n")
                await swallow(reader)
            assert total.digest() == sent.digest()
            writer.close()

    run(main())


def test_too_many_connections_are_refused() -> None:
    """With 503 and a sentence; when one ends there is room again."""

    async def main() -> None:
        async with through({"/api/chat": CHAT.response}, max_connections=2) as t:
            first, second = await t.connect(), await t.connect()
            for reader, writer in (first, second):
                writer.write(CHAT.request_bytes)
                await reader.readexactly(len(CHAT.response))
            answer = await t.ask(CHAT.request_bytes)
            assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"too many connections" in answer
            first[1].close()
            second[1].close()
            await t.idle()
            assert await t.ask(closing(CHAT.request_bytes)) == CHAT.response
            assert (await t.health())["refused_total"] == 1

    run(main())


def test_the_host_is_rewritten_where_asked() -> None:
    """And nothing else; what cannot be rewritten is answered with 400."""

    async def main() -> None:
        async with through({"/api/chat": CHAT.response}, rewrite_host=True) as t:
            assert await t.ask(CHAT.request_bytes) == CHAT.response
            got = t.server.got[-1]
            assert (
                got.head
                == CHAT.request_bytes.split(b"\r\n\r\n")[0].replace(b"Host: a", b"Host: 127.0.0.1:%d" % t.server.port)
                + b"\r\n\r\n"
            )
            reader, writer = await t.connect()
            for at in range(0, len(CHAT.request_bytes), 40):
                writer.write(CHAT.request_bytes[at : at + 40])
                await asyncio.sleep(0)
            assert await reader.readexactly(len(CHAT.response)) == CHAT.response
            writer.close()
            answer = await t.ask(b"no http\r\nat all\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")

    run(main())


def test_stopping_ends_everything() -> None:
    """Streams are broken off, and nothing is left open."""

    async def main() -> None:
        left: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        begun = asyncio.Event()
        async with through({"/api/chat": endless(left, begun)}) as t:  # type: ignore[dict-item]
            reader, writer = await t.connect()
            writer.write(CHAT.request_bytes)
            await begun.wait()
            await t.proxy.stop()
            await left
            assert (await t.health())["open_connections"] == 0
            assert not (await reader.read()).endswith(b"0\r\n\r\n")
            writer.close()

    run(main())


def test_what_is_under_way_may_be_given_time_at_the_end() -> None:
    """No new connection is taken, one that idles ends, and a stream goes on to its end."""

    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def serve(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_body(got.head, reader)
            half = len(CHAT.response) // 2
            writer.write(CHAT.response[:half])
            begun.set()
            await go_on.wait()
            writer.write(CHAT.response[half:])

        async with through({"/api/chat": serve}, drain_secs=20) as t:
            idle, _ = await t.connect()
            reader, writer = await t.connect()
            writer.write(CHAT.request_bytes)
            await begun.wait()
            stopping = asyncio.create_task(t.proxy.stop())
            assert await idle.read() == b""
            with pytest.raises(ConnectionRefusedError):
                await t.connect()
            go_on.set()
            assert await reader.read() == CHAT.response
            await stopping
            assert (await t.measured.get()).request.outcome is Outcome.OK
            writer.close()
            _.close()

    run(main())


def test_the_server_may_speak_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its certificate is checked against the system's list, and the bytes are the same."""
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    async def main() -> None:
        async with through({"/api/chat": CHAT.response}, tls=context, rewrite_host=True) as t:
            reader, writer = await t.connect()
            for _ in range(2):
                writer.write(CHAT.request_bytes)
                assert await reader.readexactly(len(CHAT.response)) == CHAT.response
            assert (await t.measured.get()).request.model == "tiny:latest"
            assert b"Host: localhost:%d\r\n" % t.server.port in t.server.got[-1].head
            writer.close()
            await t.idle()

    run(main())


def test_an_upstream_with_a_path_is_refused() -> None:
    """Requests pass unchanged, so that nothing can be put before their paths."""
    settings = ProxySettings(listen="127.0.0.1:0")
    with pytest.raises(SettingsError, match="URL without a path"):
        Proxy(settings, "http://127.0.0.1:1/v1", structlog.get_logger(), lambda _: None)


def test_a_port_in_use_is_refused() -> None:
    """By one sentence that names the setting."""

    async def main() -> None:
        async with through({}) as t:
            settings = ProxySettings(listen=f"127.0.0.1:{t.proxy.port}")
            second = Proxy(settings, t.server.url, structlog.get_logger(), lambda _: None)
            with pytest.raises(
                SettingsError, match=r"Cannot listen on 127.0.0.1:\d+ \(Address already in use\); .*proxy"
            ):
                await second.start()

    run(main())
