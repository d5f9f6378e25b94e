"""A metrics server on a free port of this machine, and a client for it that is not ours."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from gpumon.hub import Hub
from gpumon.settings import Settings
from gpumon.web.metrics import MetricsServer


def settings(address: str = "127.0.0.1", port: int = 0) -> Settings:
    """Give settings for a server under test."""
    defaults = Settings()
    return replace(defaults, telemetry=replace(defaults.telemetry, metrics_address=address, metrics_port=port))


@asynccontextmanager
async def serving(hub: Hub | None = None, **options: Any) -> AsyncIterator[MetricsServer]:
    """Serve `hub` for the length of the block."""
    options.setdefault("alive", lambda: None)
    server = MetricsServer(settings(), hub or Hub(), **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def ask(
    port: int,
    path: str = "/metrics",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> Answer:
    """Send one request by Python's own HTTP client, in a thread."""

    def send() -> Answer:
        connection = (
            http.client.HTTPSConnection("localhost", port, context=context, timeout=10)
            if context
            else http.client.HTTPConnection("localhost", port, timeout=10)
        )
        try:
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    return await asyncio.to_thread(send)


async def say(port: int, data: bytes) -> bytes:
    """Send bytes as they are and give all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()
