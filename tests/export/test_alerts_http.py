"""Alerts over HTTP, to a server that does what servers do: takes, refuses, hangs, breaks off, and speaks TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.export.test_alerts_outbox import incident

from gpumon.export import alerts_http
from gpumon.export.alerts_http import Alertmanager, Webhook
from gpumon.export.alerts_outbox import RefusedError

SENDER = {"host": "node-1"}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Server:
    """Answers every request with the same bytes, and keeps what it was asked."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.port = 0
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[Any] = []
        self.asked = asyncio.Event()
        self.release = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            self.paths.append(head[0])
            self.headers.append(headers)
            self.bodies.append(json.loads(await reader.readexactly(int(headers["content-length"]))))
            self.asked.set()
            if self.answer is None:
                await self.release.wait()
            else:
                writer.write(self.answer)
                await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(answer: bytes | None = OK, tls: ssl.SSLContext | None = None, port: int = 0) -> Any:
    """Serve on loopback."""
    server = Server(answer)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", port, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        server.release.set()
        listening.close()
        await listening.wait_closed()


def run(work: Callable[[], Coroutine[object, object, None]]) -> None:
    asyncio.run(work())


async def send(target: Webhook | Alertmanager) -> None:
    """Send one alert that began, and close."""
    try:
        await target.send([incident()], [incident()])
    finally:
        await target.close()


def webhook(port: int, *, host: str = "127.0.0.1", scheme: str = "http", token: str = "") -> Webhook:
    return Webhook(f"{scheme}://{host}:{port}/hook?key=1", {"X-Key": "secret"}, token, SENDER)


def test_a_webhook_gets_what_alertmanager_would_send_it() -> None:
    """Beginnings and ends with labels, words and times, and the headers of the settings."""

    async def work() -> None:
        async with serving() as server:
            target = webhook(server.port)
            await target.send([incident(), incident(1, ended=1100.5)], [])
            await target.close()
        assert server.paths == ["POST /hook?key=1 HTTP/1.1"]
        assert server.headers[0]["x-key"] == "secret"
        assert server.headers[0]["content-type"] == "application/json"
        (body,) = server.bodies
        assert (body["version"], body["status"], body["receiver"]) == ("4", "firing", "gpumon")
        begun, ended = body["alerts"]
        assert begun["status"] == "firing"
        assert begun["labels"] == {
            "alertname": "gpu_temperature",
            "severity": "warning",
            "gpu_id": "0",
            "gpu_name": "H100",
            "gpu_uuid": "GPU-0",
            "host": "node-1",
        }
        assert begun["annotations"]["description"] == "GPU 0 is hot: 91 °C, above 85 °C"
        assert begun["annotations"]["runbook"] == "docs/runbooks.md#gpu_temperature"
        assert (begun["startsAt"], begun["endsAt"]) == ("1970-01-01T00:16:40.000Z", "0001-01-01T00:00:00Z")
        assert (ended["status"], ended["endsAt"]) == ("resolved", "1970-01-01T00:18:20.500Z")

    run(work)


def test_an_alertmanager_gets_what_is_active_and_what_ended() -> None:
    """What is active ends by itself four intervals later, unless it is sent again."""

    async def work() -> None:
        async with serving() as server:
            url = f"http://127.0.0.1:{server.port}/prefix/"
            target = Alertmanager(url, "", SENDER, 60.0, clock=lambda: 2000.0)
            await target.send([incident(1, ended=1500.0)], [incident(0)])
            await target.send([], [])
            await target.close()
        assert server.paths == ["POST /prefix/api/v2/alerts HTTP/1.1"]
        ended, active = server.bodies[0]
        assert (ended["labels"]["gpu_id"], ended["endsAt"]) == ("1", "1970-01-01T00:25:00.000Z")
        assert (active["labels"]["gpu_id"], active["endsAt"]) == ("0", "1970-01-01T00:37:20.000Z")

    run(work)


ANSWERS = {
    "busy": (b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 5\r\n\r\nlater", "HTTP 503: later", True, 7),
    "wrong": (b"HTTP/1.1 400 Bad\r\nContent-Length: 6\r\n\r\nno\n me", "HTTP 400: no me", False, 0),
    "token": (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", "HTTP 401", True, 0),
    "elsewhere": (b"HTTP/1.1 302 Found\r\nLocation: http://other/\r\nContent-Length: 0\r\n\r\n", "HTTP 302", True, 0),
    "odd pause": (b"HTTP/1.1 429 Slow\r\nRetry-After: soon\r\nContent-Length: 0\r\n\r\n", "HTTP 429", True, 0),
    "endless": (b"HTTP/1.1 500 Ill\r\n\r\n" + b"x" * 100_000, "HTTP 500: " + "x" * 200, True, 0),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n", "does not speak HTTP (", True, 0),
    "nothing": (b"", "does not speak HTTP (ServerDisconnectedError)", True, 0),
}


@pytest.mark.parametrize(("answer", "reason", "transient", "pause"), ANSWERS.values(), ids=ANSWERS)
def test_a_refusal_says_why_and_whether_to_try_again(answer: bytes, reason: str, transient: bool, pause: int) -> None:
    """No redirect is followed, and of a long answer only the beginning is read."""

    async def work() -> None:
        async with serving(answer) as server:
            with pytest.raises(RefusedError) as refusal:
                await send(webhook(server.port))
        assert str(refusal.value).startswith(reason)
        assert len(str(refusal.value)) < 300
        assert "key" not in str(refusal.value)
        assert (refusal.value.transient, refusal.value.pause) == (transient, pause)

    run(work)


def test_a_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while that is bounded."""
    monkeypatch.setattr(alerts_http, "TIMEOUT_SECS", 0.05)

    async def work() -> None:
        async with serving(None) as server:
            with pytest.raises(RefusedError, match="no answer within"):
                await send(webhook(server.port))

    run(work)


def test_a_server_that_is_not_there_is_said_so(unused_port: int) -> None:
    """So is a name that nobody knows."""

    async def work() -> None:
        with pytest.raises(RefusedError, match="cannot be reached: Connect"):
            await send(webhook(unused_port))
        with pytest.raises(RefusedError, match="cannot be reached: "):
            await send(webhook(80, host="nowhere.invalid"))

    run(work)


@pytest.fixture
def unused_port() -> int:
    """Give a port that nobody listens on."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_a_name_is_looked_up() -> None:
    """Not only addresses work."""

    async def work() -> None:
        async with serving() as server:
            await send(webhook(server.port, host="localhost"))
        assert len(server.bodies) == 1

    run(work)


def test_a_token_is_read_anew_each_time(tmp_path: Path) -> None:
    """Tokens are renewed in place; one that cannot be read is a refusal that names the file."""

    async def work() -> None:
        token = tmp_path / "token"
        async with serving() as server:
            for text in ("first\n", "second"):
                token.write_text(text)
                await send(webhook(server.port, token=str(token)))
            assert [headers["authorization"] for headers in server.headers] == ["bearer first", "bearer second"]
            token.unlink()
            with pytest.raises(RefusedError, match=f"{token}: No such file"):
                await send(webhook(server.port, token=str(token)))

    run(work)


def test_tls_is_spoken_and_certificates_are_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An authority that the system does not know can be named by SSL_CERT_FILE."""
    ca = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))

    async def work() -> None:
        async with serving(tls=context) as server:
            with pytest.raises(RefusedError, match="its certificate is not trusted"):
                await send(webhook(server.port, host="localhost", scheme="https"))
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
            await send(webhook(server.port, host="localhost", scheme="https"))
        assert len(server.bodies) == 1

    run(work)
