"""Passes bytes between a client and the model server: unchanged, at once, and no faster than the other side takes them.

Each client's connection has one to the server of its own, so that whatever either side says or does to its connection
happens to the other's: heads and chunks stay as they are, HTTP's rules about connections hold by themselves, and
what is not HTTP passes as well.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Protocol

from gpumon.llm.proxy.conversation import Conversation, Ledger
from gpumon.llm.proxy.host import HostRewriter
from gpumon.llm.proxy.http import HttpError

# A server that has not accepted a connection by then is taken for unreachable.
CONNECT_SECONDS = 10.0
# How long a client that is refused may take to ask, and to go on sending, so that it gets to read the refusal.
LINGER_SECONDS = 2.0
# A peer that vanished without a word is noticed after 60 + 3 × 20 s of silence.
KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_PROBES = 60, 20, 3


class Port(Ledger, Protocol):
    """What a connection needs of the proxy it came in by."""

    buffer: memoryview
    host: bytes | None

    def admit(self, client: Client) -> bool:
        """Say whether there is room for one more connection, and remember it."""

    def leave(self, client: Client) -> None:
        """Forget a connection."""

    def unreachable(self, error: Exception | None) -> None:
        """Note whether the server could be reached; None is that it could."""

    def connect(self, factory: Callable[[], Server]) -> Awaitable[object]:
        """Connect to the server."""

    def now(self) -> float:
        """Give the monotonic time in seconds."""


class Side(asyncio.BufferedProtocol):
    """One of the two connections; `other` is the one that its bytes go to, None while there is none."""

    __slots__ = ("other", "port", "transport")

    transport: asyncio.Transport

    def __init__(self, port: Port) -> None:
        self.port = port
        self.other: Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # Whatever the socket does not take at once stops the reading of the other side: the kernel's buffers do for both.
        transport.set_write_buffer_limits(0)
        _watch(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.port.buffer  # one for all, because it is emptied before anything else is read

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def part(self) -> None:
        """Forget the other side, so that both can go."""
        if self.other is not None:
            self.other.other = None
        self.other = None


class Client(Side):
    """The connection of a client."""

    __slots__ = ("_connecting", "_early", "_refusal", "_rewriter", "conversation", "ending")

    def __init__(self, port: Port) -> None:
        super().__init__(port)
        self.conversation = Conversation(port)
        self._early: bytes | None = None  # what came before the server was connected: one read at most
        self._refusal: bytes | None = None  # what to answer for the server; empty once that is done
        self.ending = False  # the connection ends once no reply is owed any more
        self._connecting: asyncio.Task[None] | None = None
        self._rewriter = HostRewriter(port.host) if port.host else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.port.admit(self):
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        else:
            self._refuse(503, "too many connections to gpumon's proxy")

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self.port.connect(lambda: Server(self))
        except OSError as error:  # TimeoutError is one
            self.port.unreachable(error)
            self._refuse(502, "gpumon's proxy cannot reach the model server")
        else:
            self.port.unreachable(None)
        self._connecting = None

    def connected(self, server: Server) -> None:
        """Take the connection to the server; what came meanwhile goes first."""
        self.other = server
        if self.transport.is_closing():
            server.transport.abort()
            return
        if self._early is not None:
            self._early, early = None, self._early
            self.transport.resume_reading()
            if early:
                server.transport.write(early)

    def buffer_updated(self, nbytes: int) -> None:
        if self._refusal is not None:
            if self._refusal:
                self.conversation.request_bytes(bytes(self.port.buffer[:nbytes]), self.port.now())
                self._answer()
            return  # what comes after the answer is thrown away
        data = bytes(self.port.buffer[:nbytes])
        now = self.port.now()
        if self._rewriter is not None:
            try:
                data = self._rewriter.feed(data)
            except HttpError:
                self._refuse(400, "gpumon's proxy cannot read this request")
                self._answer()
                return
        if self.other is None:
            self._early = data
            self.transport.pause_reading()
        elif data:
            self.other.transport.write(data)
        self.conversation.request_bytes(data, now)

    def eof_received(self) -> bool:
        """Pass the end on: a server that works for a client takes it for a sign that the client left."""
        server = self.other.transport if self.other is not None else None
        self.ending = True
        self.conversation.client_left()
        if server is None or server.is_closing() or not self.conversation.busy or not server.can_write_eof():
            return False
        server.write_eof()
        return True

    def end(self) -> None:
        """End the connection, as soon as no reply is owed."""
        self.ending = True
        if not self.conversation.busy:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.port.leave(self)
        self.conversation.client_gone(self.port.now())
        if self._connecting is not None:
            self._connecting.cancel()
        self._drop_server()

    def _refuse(self, status: int, reason: str) -> None:
        """Answer for the server, as soon as the client has asked something."""
        body = json.dumps({"error": reason}).encode()
        head = (
            f"HTTP/1.1 {status} {PHRASES[status]}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._refusal = head.encode() + body
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.abort)
        self._drop_server()
        if self._early is not None:
            self.transport.resume_reading()
            self._answer()

    def _answer(self) -> None:
        if not self._refusal:
            return
        refusal, self._refusal = self._refusal, b""
        self.conversation.server_gone(self.port.now())
        if not self.transport.is_closing():
            self.transport.write(refusal)
            self.transport.write_eof()

    def _drop_server(self) -> None:
        if self.other is not None:
            self.other.transport.abort()
        self.part()


class Server(Side):
    """The connection to the server for one client."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        super().__init__(client.port)
        self._client: Client | None = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._client is not None
        self.other = self._client
        self._client.connected(self)

    def buffer_updated(self, nbytes: int) -> None:
        client = self._client
        if client is None or self.other is None:
            return
        data = bytes(self.port.buffer[:nbytes])
        client.transport.write(data)
        client.conversation.response_bytes(data, self.port.now())
        if client.ending and not client.conversation.busy:
            client.transport.close()

    def eof_received(self) -> bool:
        """Pass the end on, after all that came before it."""
        if self._client is not None and self.other is not None:
            self._client.conversation.server_ended(self.port.now())
            self._client.transport.close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        client, self._client = self._client, None
        if client is None or self.other is None:
            return
        conversation = client.conversation
        broken = exc is not None and conversation.end_looks_clean
        conversation.server_gone(self.port.now())
        self.part()
        if client.transport.is_closing():
            return
        if broken:
            _reset(client.transport)
        else:
            client.transport.close()


PHRASES = {400: "Bad Request", 502: "Bad Gateway", 503: "Service Unavailable"}


def _watch(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def _reset(transport: asyncio.Transport) -> None:
    """Close by a reset, where the connection's proper end would be taken for the end of a reply."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
