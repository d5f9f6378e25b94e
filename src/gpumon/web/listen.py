"""A port that HTTP is spoken on, with a bound on everything a client can take: connections, time and bytes."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import StreamResponse
from aiohttp.web_server import Server

from gpumon.log import Logger

if TYPE_CHECKING:
    import ssl
from gpumon.settings import SettingsError

# Scrapers and people of one node are few; each connection beyond them takes memory from the sampling.
MOST_CONNECTIONS = 64
# Prometheus's default scrape time-out: who has not asked by then would not wait for the answer either.
HEAD_SECS = 10.0
# Longer than the usual scrape interval of a minute, so that scrapers keep their connection.
IDLE_SECS = 75.0
# Bytes of the request line and of each header; the longest honest ones are browsers' cookies of 4 KiB.
LONGEST_LINE = 8190
MOST_HEADERS = 64
# A client that has not closed a TLS connection by then never will.
TLS_CLOSE_SECS = 1.0
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 21\r\n\r\ntoo many connections\n"

Respond = Callable[[BaseRequest], Awaitable[StreamResponse]]


class Door(Protocol):
    """What a connection passes before HTTP is spoken."""

    def context(self) -> ssl.SSLContext | None:
        """Give the TLS settings for the next connection; None is no TLS."""

    def admits(self, certificate: Mapping[str, Any]) -> bool:
        """Say whether the owner of this client certificate (as ssl.SSLSocket.getpeercert gives it) may speak."""


class Connection(RequestHandler):
    """aiohttp's connection, with a deadline for whatever comes next.

    A scraper asks the same, byte for byte, every time: what `repeat` remembered is answered without taking the request
    apart again, at a third of the cost.
    """

    __slots__ = ("_again", "_answering", "_asked", "_data", "_listener", "_refused", "deadline")

    def __init__(self, listener: Listener, server: Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._listener = listener
        self._answering = False
        self._refused = False
        self._data = self._asked = b""
        self._again: Callable[[], bytes] | None = None
        self.deadline = self._loop.time() + listener.head_secs

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless the client shows a certificate that the door does not admit."""
        super().connection_made(transport)
        certificate = transport.get_extra_info("peercert")
        if certificate and self._listener.door and not self._listener.door.admits(certificate):
            self._refused = True
            self.drop()

    def data_received(self, data: bytes) -> None:
        """Take bytes; the first ones after a request start the time for the next."""
        if self._refused:
            return
        if self._again is not None and data == self._asked and self._idle():
            assert self.transport is not None
            self.deadline = self._loop.time() + self._listener.idle_secs
            self.transport.write(self._again())
            return
        if self._answering:
            self._answering = False
            self.deadline = self._loop.time() + self._listener.head_secs
        self._data = data
        super().data_received(data)

    def repeat(self, again: Callable[[], bytes]) -> None:
        """Answer by `again` when exactly the same bytes come again as for the request that is under way.

        `again` gives a whole response. Only for a request without a body, on a connection that stays.
        """
        if self._data.startswith(b"GET ") and self._data.find(b"\r\n\r\n") == len(self._data) - 4:
            self._asked, self._again = self._data, again

    def _idle(self) -> bool:
        """Say whether all that was asked is answered and taken: aiohttp waits for a request, nothing waits to be sent."""
        waiting = self._waiter is not None and not self._messages
        return waiting and self.transport is not None and not self.transport.get_write_buffer_size()

    def answer(self) -> None:
        """Note that a whole request is here: what comes next is that the client takes the answer, and idles."""
        self._answering = True
        self.deadline = self._loop.time() + self._listener.idle_secs

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """Answer what went wrong, without telling the versions of Python and aiohttp."""
        response = super().handle_error(request, status, exc, message)
        if self._listener.fault is not None:
            return self._listener.fault(status)
        response.headers["Server"] = "gpumon"
        return response

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self._listener.connections.discard(self)
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close at once, whatever is under way."""
        if self.transport is not None:
            self.transport.abort()


class Listener:
    """Accepts connections on one address and port, and hands each whole request to `respond`.

    `fault` gives the answer, by status, to what is no request and to a fault of ours; without it that is a line of text.
    """

    def __init__(
        self,
        respond: Respond,
        logger: Logger,
        door: Door | None = None,
        *,
        fault: Callable[[int], StreamResponse] | None = None,
        most_connections: int = MOST_CONNECTIONS,
        head_secs: float = HEAD_SECS,
        idle_secs: float = IDLE_SECS,
    ) -> None:
        self.door = door
        self.fault = fault
        self.head_secs = head_secs
        self.idle_secs = idle_secs
        self.connections: set[Connection] = set()  # those that still shake hands included
        self._most_connections = most_connections
        self._respond = respond
        self._logger = logger
        self._sockets: list[socket.socket] = []
        self._greetings: set[asyncio.Task[None]] = set()

    async def start(self, address: str, port: int, address_setting: str, port_setting: str) -> int:
        """Listen; give the port, which is a free one for port 0.

        SettingsError says in one sentence what is wrong and which setting to change.
        """
        self._loop = asyncio.get_running_loop()
        # Who has gone needs no answer: what is being done for it ends.
        self._server = Server(self._handle, handler_cancellation=True, loop=self._loop)
        self._options: dict[str, Any] = {
            "loop": self._loop,
            "keepalive_timeout": self.idle_secs,
            "access_log": None,
            "logger": _error_log(self._logger),
            "max_line_size": LONGEST_LINE,
            "max_field_size": LONGEST_LINE,
            "max_headers": MOST_HEADERS,
            "lingering_time": 0,  # no request needs a body, so none is waited for
        }
        self._sockets = await _listen(address, port, address_setting, port_setting)
        for sock in self._sockets:
            self._loop.add_reader(sock, self._accept, sock)
        self._sweep()
        bound: int = self._sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Listen no more; requests under way get a second to finish. Harmless when not started."""
        if not self._sockets:
            return
        self._sweeping.cancel()
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets = []
        for task in self._greetings:
            task.cancel()
        await asyncio.gather(*self._greetings, return_exceptions=True)
        self._server.pre_shutdown()  # closes those that idle, which would be waited for
        await self._server.shutdown(timeout=0.5)  # aiohttp waits for that long twice before it cancels
        for connection in self.connections:
            connection.drop()

    async def _handle(self, request: BaseRequest) -> StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        connection.answer()
        return await self._respond(request)

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:  # no file descriptors or memory left: wait for better times instead of spinning
            self._logger.warning("cannot accept a connection", error=error.strerror)
            self._loop.remove_reader(listening)
            self._loop.call_later(1.0, self._resume, listening)
            return
        sock.setblocking(False)
        if len(self.connections) >= self._most_connections:
            _refuse(sock)
            return
        connection = Connection(self, self._server, **self._options)
        self.connections.add(connection)
        task = self._loop.create_task(self._greet(sock, connection))
        self._greetings.add(task)
        task.add_done_callback(self._greetings.discard)

    def _resume(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            self._loop.add_reader(listening, self._accept, listening)

    async def _greet(self, sock: socket.socket, connection: Connection) -> None:
        """Connect a socket; with TLS that takes the client's part, and may fail."""
        context = self.door.context() if self.door else None
        tls = {"ssl_handshake_timeout": self.head_secs, "ssl_shutdown_timeout": TLS_CLOSE_SECS} if context else {}
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock, ssl=context, **tls)
        except OSError:  # TLS's errors are of this class too; that a client does not get through is no news
            sock.close()
        finally:
            if not connection.connected:
                self.connections.discard(connection)

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in self.connections:
            if connection.deadline <= now:
                connection.drop()
        # Often enough that no time-out is noticed later than half of the shortest.
        self._sweeping = self._loop.call_later(min(self.head_secs, self.idle_secs) / 2, self._sweep)


def _refuse(sock: socket.socket) -> None:
    """Close a socket for which there is no room, with a word that only a client without TLS understands."""
    try:
        sock.send(REFUSAL)
    except OSError:
        pass
    sock.close()


async def _listen(address: str, port: int, address_setting: str, port_setting: str) -> list[socket.socket]:
    """Open listening sockets for every address that `address` stands for."""
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    try:
        found = await loop.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, where in dict.fromkeys(found):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and len(found) > 1:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # the IPv4 addresses are listed as well
            sock.bind(where)
            sock.listen(MOST_CONNECTIONS)
            sock.setblocking(False)
    except (OSError, UnicodeError, ValueError) as error:
        for sock in sockets:
            sock.close()
        raise SettingsError(_trouble(error, address, port, address_setting, port_setting)) from error
    return sockets


def _trouble(error: Exception, address: str, port: int, address_setting: str, port_setting: str) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return f"Port {port} on {address} is in use by another program; set {port_setting} to a free one."
    if code in (errno.EACCES, errno.EPERM):
        return f"Port {port} on {address} takes privileges to listen on; set {port_setting} to 1024 or more."
    if code == errno.EADDRNOTAVAIL or not isinstance(error, OSError) or isinstance(error, socket.gaierror):
        return f"{address_setting} is {address!r}, which is no address of this machine; set it to one, or to 0.0.0.0."
    return f"Cannot listen on port {port} of {address} ({error.strerror}); change {address_setting} or {port_setting}."


class _Errors(logging.Handler):
    """What aiohttp reports, in our log: nothing of what clients send, an error of our own once per kind."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._logger = logger
        self._said: set[type[BaseException]] = set()

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or isinstance(error, (HttpProcessingError, ConnectionError)) or type(error) in self._said:
            return
        self._said.add(type(error))
        self._logger.error("request failed", exc_info=error)


def _error_log(logger: Logger) -> logging.Logger:
    log = logging.Logger("gpumon.web", logging.ERROR)
    log.addHandler(_Errors(logger))
    return log
