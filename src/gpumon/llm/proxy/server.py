"""The proxy as a whole: listens, reaches the model server, counts, and names models before it hands requests on."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp

from gpumon.catalog import Entity
from gpumon.catalog.proxy import LLM_PROXY
from gpumon.llm.discovery import Target, address, unique
from gpumon.llm.names import OTHER
from gpumon.llm.proxy.exchange import Measured
from gpumon.llm.proxy.names import Names
from gpumon.llm.proxy.pump import Client, Server
from gpumon.llm.request import Outcome
from gpumon.log import Logger, Onsets
from gpumon.settings import Proxy as ProxySettings
from gpumon.settings import Settings, SettingsError
from gpumon.source import SourceReading

if TYPE_CHECKING:
    import ssl

# Bytes read at once. A piece of a reply is far smaller; large bodies go through in pieces of this size, and what
# a side that is slow to take has not taken is never more.
READ_BYTES = 32 << 10
# Time to answer the question what models there are, and bytes of the answer: 10,000 models at 400 bytes each.
LIST_SECONDS = 5.0
LIST_BYTES = 4 << 20
# Requests that wait for the list of models to be fetched; those that come on top are "other".
MOST_UNNAMED = 1000
# How long addresses of the server's name hold; a container that is made anew gets another.
RESOLVED_SECONDS = 10.0
# Connections that wait to be accepted while the loop does something else: as many as Linux keeps by default.
BACKLOG = 4096

# Files that the rest of gpumon has open: devices, databases, scrapers, sockets.
OTHER_FILES = 512

OnRequest = Callable[[Measured], None]


class Proxy:
    """Stands before one model server; also the source of what is known of the proxy itself.

    `server` is the model server's address, as in `127.0.0.1:11434`; `running` counts requests to a model under way.
    `on_request` is given every finished request to a model, on the loop; it must not raise, nor take long.
    """

    name = "proxy"

    def __init__(
        self,
        settings: ProxySettings,
        upstream: str,
        logger: Logger,
        on_request: OnRequest,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        parts = urlsplit(upstream)
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise SettingsError(
                f'proxy.upstream is "{upstream}"; allowed is a URL without a path, because requests pass unchanged.'
            )
        host = parts.hostname or ""
        self._tls = _tls() if parts.scheme == "https" else None
        self._where = (host, parts.port or (443 if self._tls else 80))
        self.server = address(upstream)
        self.upstream = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self.kind = ""
        self.running = 0
        self.port = 0
        self._clock = clock
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.host = parts.netloc.rpartition("@")[2].encode() if settings.rewrite_host else None
        self._settings = settings
        self._logger = logger
        self._onsets = Onsets(logger)
        self._on_request = on_request
        self._names = Names(self._fetch)
        self._unnamed: deque[Measured] = deque()
        self._naming: asyncio.Task[None] | None = None
        self._clients: set[Client] = set()
        self._left = asyncio.Event()
        self._addresses: list[str] = []
        self._resolved = 0.0  # when; by name, addresses hold for a while only
        self._connections = self._refused = self._unreachable = self._unreadable = self._requests = 0
        self._listening: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; SettingsError says in one sentence why that does not work."""
        self._allow_files()
        host, _, port = self._settings.listen.rpartition(":")
        host = host.strip("[]") or "127.0.0.1"
        loop = asyncio.get_running_loop()
        try:
            self._listening = await loop.create_server(lambda: Client(self), host, int(port), backlog=BACKLOG)
        except OSError as error:
            raise SettingsError(
                f"Cannot listen on {self._settings.listen} ({_reason(error)}); change proxy.listen."
            ) from error
        self.port = self._listening.sockets[0].getsockname()[1]
        self._naming = loop.create_task(self._name())

    def _allow_files(self) -> None:
        """Raise the limit of open files to what the connections take, as far as that is allowed."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = 2 * self._settings.max_connections + OTHER_FILES
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        if soft != resource.RLIM_INFINITY and soft < allowed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < needed:
            self._logger.warning(
                "too few files may be open for all the proxy's connections", allowed=hard, needed=needed
            )

    async def stop(self) -> None:
        """Stop listening, and end every connection: what is under way has `proxy.drain_secs`. Harmless when not started."""
        if self._listening is None:
            return
        self._listening.close()
        for client in tuple(self._clients):
            client.end()
        try:
            async with asyncio.timeout(self._settings.drain_secs):
                await self._drained()
        except TimeoutError:
            pass
        for client in tuple(self._clients):
            client.transport.abort()
        if self._naming is not None:
            self._naming.cancel()
        await asyncio.sleep(0)  # transports tell of their end in the next turn of the loop
        self._hand_on_unnamed()

    async def _drained(self) -> None:
        while self._clients:
            self._left.clear()
            await self._left.wait()

    async def read(self, now: float, timeout: float) -> SourceReading:
        """Give what is known of the proxy itself."""
        values = (
            len(self._clients),
            self._connections,
            self._refused,
            self._unreachable,
            self.running,
            self._requests,
            self._unreadable,
        )
        return SourceReading((Entity(LLM_PROXY, (self.server,), values),), success=True)

    # What a connection needs.

    def now(self) -> float:
        """Give the monotonic time in seconds."""
        return time.monotonic()

    def wall(self) -> float:
        """Give Unix seconds."""
        return self._clock()

    def admit(self, client: Client) -> bool:
        """Say whether there is room for one more connection, and remember it."""
        self._connections += 1
        self._clients.add(client)
        if len(self._clients) > self._settings.max_connections:
            self._refused += 1
            return False
        return True

    def leave(self, client: Client) -> None:
        """Forget a connection."""
        self._clients.discard(client)
        self._left.set()

    def unreachable(self, error: Exception | None) -> None:
        """Note whether the server could be reached."""
        if error is None:
            self._onsets.mend("upstream", "the model server can be reached again", upstream=self.upstream)
            return
        self._unreachable += 1
        self._resolved = 0.0
        self._onsets.fail("upstream", "cannot reach the model server", upstream=self.upstream, reason=_reason(error))

    async def connect(self, factory: Callable[[], Server]) -> None:
        """Connect to the server, by the first of its addresses that answers. OSError: none does."""
        loop = asyncio.get_running_loop()
        host, port = self._where
        if _is_address(host):
            self._addresses = [host]
        elif not self._addresses or self.now() - self._resolved > RESOLVED_SECONDS:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self._addresses = list(dict.fromkeys(str(where[4][0]) for where in found))
            self._resolved = self.now()
        for i, found_address in enumerate(self._addresses):
            try:
                if self._tls:
                    await loop.create_connection(factory, found_address, port, ssl=self._tls, server_hostname=host)
                else:
                    await loop.create_connection(factory, found_address, port)
            except OSError:
                if i == len(self._addresses) - 1:
                    raise
            else:
                return

    # What is learnt.

    def finished(self, measured: Measured) -> None:
        """Give a finished request to whoever wants it, once its model has a name that may be shown."""
        self._requests += 1
        name = self._listed(measured)
        if name is None and not self._names.fresh and len(self._unnamed) < MOST_UNNAMED:
            self._unnamed.append(measured)
            if self._naming is None or self._naming.done():
                self._naming = asyncio.get_running_loop().create_task(self._name())
            return
        self._hand_on(measured, name or OTHER)

    def unreadable(self, error: Exception | None) -> None:
        """Count something that could not be read; an error of gpumon's own is said once per kind."""
        self._unreadable += 1
        if error is not None:
            kind = type(error).__name__
            self._onsets.fail(f"reader {kind}", "the proxy cannot read what it passes on", error=kind)

    def _listed(self, measured: Measured) -> str | None:
        return self._names.listed(measured.names, answered=measured.request.outcome is Outcome.OK)

    async def _name(self) -> None:
        await self._names.refresh()
        self.kind = self._names.known.kind
        self._hand_on_unnamed()

    def _hand_on_unnamed(self) -> None:
        while self._unnamed:
            measured = self._unnamed.popleft()
            self._hand_on(measured, self._listed(measured) or OTHER)

    def _hand_on(self, measured: Measured, model: str) -> None:
        request = replace(measured.request, model=model, kind=measured.request.kind or self.kind)
        self._on_request(replace(measured, request=request, names=()))

    async def _fetch(self, path: str) -> bytes:
        """Ask the server itself; empty when it does not have that. OSError: it does not answer."""
        timeout = aiohttp.ClientTimeout(total=LIST_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(self.upstream + path, ssl=self._tls or True) as response,
            ):
                page = bytearray()
                async for piece in response.content.iter_any():
                    page += piece
                    if len(page) > LIST_BYTES:
                        return b""
                return bytes(page) if response.status == 200 else b""
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error


def upstream(settings: Settings) -> str:
    """Give the URL of the model server: the proxy's own setting, or else where Ollama is."""
    ollama = settings.ollama
    return settings.proxy.upstream or ollama.api_url or f"http://127.0.0.1:{ollama.api_port}"


def watched(targets: Iterable[Target], settings: Settings) -> tuple[Target, ...]:
    """Give the servers to watch beside the proxy: its upstream among them, and not the proxy itself."""
    listen, _, port = settings.proxy.listen.rpartition(":")
    own = (f"127.0.0.1:{port}", f"[::1]:{port}", f"{listen}:{port}")
    others = (target for target in targets if not any(address(url) in own for url in target.urls))
    return unique((Target(urls=(upstream(settings),), kind=None, found_by="settings"), *others))


def _tls() -> ssl.SSLContext:
    """Give one context for all connections, because reading the certificates takes longer than a connection."""
    import ssl

    return ssl.create_default_context()


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return True
    return False


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
