"""Server-sent events: each snapshot to every reader, as the same bytes."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass

import structlog
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse

from gpumon.export.exposition import GZIP_LEVEL, accepts_gzip
from gpumon.hub import Hub
from gpumon.memory import give_back
from gpumon.web.api.answer import error
from gpumon.web.api.snapshots import NoSnapshotError, Snapshots
from gpumon.web.listen import Connection

# Proxies commonly cut a connection on which nothing came for a minute.
ALIVE_SECS = 15.0
ALIVE = b": still here\n\n"
# How long a browser waits until it connects again.
RETRY = b"retry: 2000\n\n"
# RFC 1952: deflate, no name, no time, made by nobody in particular.
GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"

HTTP_11 = (1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """One who reads: how bytes are to be written for it, and where its end is told."""

    connection: Connection
    form: tuple[bool, bool]  # compressed, chunked
    end: asyncio.Future[None]


class Stream:
    """Sends the hub's newest snapshot to all readers. One that is slow misses what came while it was busy.

    A reader costs one write per snapshot: what is written is rendered, compressed and framed once for all.
    """

    def __init__(self, hub: Hub, snapshots: Snapshots, most: int) -> None:
        self._hub = hub
        self._snapshots = snapshots
        self._most = most
        self._readers: set[Reader] = set()
        self._places = 0  # taken, also by those whose first event is under way
        self._task: asyncio.Task[None] | None = None

    @property
    def readers(self) -> int:
        """Give how many read."""
        return self._places

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.create_task(self._send())
        self._task.add_done_callback(_ended)

    async def stop(self) -> None:
        """End every stream."""
        for reader in self._readers:
            if not reader.end.done():
                reader.end.set_result(None)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def serve(self, request: BaseRequest, headers: dict[str, str]) -> StreamResponse:
        """Answer a request with the stream, until the client goes or `stop` is called."""
        if self._places >= self._most:
            return error(503, f"{self._most} read the stream already (api.max_streams)", Retry_After="10")
        gzip = accepts_gzip(request.headers.get("Accept-Encoding", ""))
        about = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"} | headers
        if gzip:
            about["Content-Encoding"] = "gzip"
        if request.method == "HEAD":
            return Response(headers=about)
        connection = request.protocol
        assert isinstance(connection, Connection)
        loop = asyncio.get_running_loop()
        reader = Reader(connection, (gzip, request.version >= HTTP_11), loop.create_future())
        self._places += 1
        try:
            response = StreamResponse(headers=about)
            await response.prepare(request)
            start = RETRY + self._event()
            await response.write(GZIP_HEADER + deflate(start) if gzip else start)
            self._readers.add(reader)
            await reader.end
        finally:
            self._places -= 1
            self._readers.discard(reader)
            if not self._places:
                loop.call_later(1.0, give_back)  # when the connections are gone as well: of a hundred it is 10 MB
        return response

    async def _send(self) -> None:
        news = aiter(self._hub)
        waiting = asyncio.ensure_future(anext(news))
        try:
            while True:
                fresh = self._snapshots.fresh_for()
                # When sampling has stopped, that is sent as well.
                done, _ = await asyncio.wait([waiting], timeout=min(ALIVE_SECS, fresh + 0.001) if fresh else ALIVE_SECS)
                if self._readers:
                    self._tell(self._event() if done or (fresh and not self._snapshots.fresh_for()) else ALIVE)
                if done:
                    waiting = asyncio.ensure_future(anext(news))
        finally:
            waiting.cancel()

    def _event(self) -> bytes:
        """Give the newest snapshot as an event; before there is one, a comment."""
        try:
            page = self._snapshots.page(gzip=False)
            number, _ = self._snapshots.state
        except NoSnapshotError:
            return ALIVE
        return b"id: %d\nevent: snapshot\ndata: %b\n\n" % (number, page)

    def _tell(self, event: bytes) -> None:
        framed: dict[tuple[bool, bool], bytes] = {}
        for reader in self._readers:
            transport = reader.connection.transport
            # What was sent before is not all taken yet: this one is missed.
            if transport is None or transport.get_write_buffer_size():
                continue
            data = framed.get(reader.form)
            if data is None:
                data = framed[reader.form] = _frame(event, *reader.form)
            reader.connection.answer()
            transport.write(data)


def _frame(event: bytes, gzip: bool, chunked: bool) -> bytes:
    data = deflate(event) if gzip else event
    return b"%x\r\n%b\r\n" % (len(data), data) if chunked else data


def deflate(data: bytes) -> bytes:
    """Give a piece of a deflate stream that refers to nothing before it, and ends at a whole byte: fit for any reader."""
    compressor = zlib.compressobj(GZIP_LEVEL, wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        structlog.get_logger().error("snapshots are no longer sent", exc_info=task.exception())
