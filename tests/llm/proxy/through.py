"""A proxy before an imitation, for tests."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from gpumon.catalog import Entity
from gpumon.llm.proxy.exchange import Measured
from gpumon.llm.proxy.server import Proxy
from gpumon.settings import Proxy as ProxySettings
from tests.llm.proxy.imitation import TAGS, Imitation, Script


@dataclass
class Through:
    """Both, and what was measured."""

    server: Imitation
    proxy: Proxy
    measured: asyncio.Queue[Measured]

    @property
    def url(self) -> str:
        """Give the proxy's base URL."""
        return f"http://127.0.0.1:{self.proxy.port}"

    async def connect(self, port: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the proxy, or to another port."""
        return await asyncio.open_connection("127.0.0.1", port or self.proxy.port)

    async def ask(self, request: bytes, port: int | None = None) -> bytes:
        """Send a request and say that no more comes; give all that is answered."""
        reader, writer = await self.connect(port)
        writer.write(request)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer

    async def health(self) -> Entity:
        """Give what the proxy says of itself."""
        return (await self.proxy.read(0, 1)).entities[0]

    async def idle(self) -> None:
        """Wait until no connection is open."""
        while (await self.health())["open_connections"]:
            await asyncio.sleep(0.001)


@asynccontextmanager
async def through(
    scripts: Mapping[str, Script | bytes], *, tls: ssl.SSLContext | None = None, seconds: float = 20, **options: object
) -> AsyncIterator[Through]:
    """Give an imitation with a proxy before it; everything is to be over within some seconds."""
    measured: asyncio.Queue[Measured] = asyncio.Queue()
    settings = ProxySettings(listen="127.0.0.1:0", **options)  # type: ignore[arg-type]
    async with asyncio.timeout(seconds), Imitation({"/api/tags": TAGS, **scripts}, tls) as server:
        proxy = Proxy(settings, server.url, structlog.get_logger(), measured.put_nowait)
        await proxy.start()
        assert proxy._naming is not None
        await proxy._naming  # so that the first requests do not wait for the list of models
        try:
            yield Through(server, proxy, measured)
        finally:
            await proxy.stop()
