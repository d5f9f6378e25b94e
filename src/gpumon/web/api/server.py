"""The server of the API and the page: finds what is asked for, checks it, answers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar

import structlog
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse

from gpumon.export.exposition import STALE_TICKS, accepts_gzip
from gpumon.hub import Hub
from gpumon.memory import give_back
from gpumon.settings import Settings
from gpumon.store.job import Job
from gpumon.web.api.answer import Content, document, error, respond
from gpumon.web.api.endpoints import BY_PATH, Endpoint
from gpumon.web.api.guard import PREFLIGHT, Guard, is_open
from gpumon.web.api.page import Page
from gpumon.web.api.past import ChartQuery, HistoryQuery, Past, UnavailableError
from gpumon.web.api.present import About, Processes, info, processes
from gpumon.web.api.query import BadRequestError, read
from gpumon.web.api.snapshots import NoSnapshotError, Snapshots
from gpumon.web.api.stream import Stream
from gpumon.web.api.told import EventsQuery, ProcessEventsQuery, SessionsQuery, SummariesQuery, Told
from gpumon.web.listen import LONGEST_LINE, Listener

T = TypeVar("T")

METHODS = "GET, HEAD, OPTIONS"
EVERYWHERE = {
    "Server": "gpumon",  # else aiohttp tells its version and Python's
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
HTTP_OURS = 500
NO_REQUEST = f"this is no HTTP request, or its URL or a header is longer than {LONGEST_LINE} bytes"
NO_STORAGE = "storage.enabled is false, so nothing of the past is kept: this gpumon tells the present only"


class ApiServer:
    """Serves the hub's newest snapshot, the history and the page; never touches a driver.

    `processes` gives every process on the GPUs; None where they are not read.
    """

    def __init__(
        self,
        settings: Settings,
        hub: Hub,
        *,
        started: float,
        processes: Processes | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        page: Page | None = None,
    ) -> None:
        self._settings = settings.api
        self._hub = hub
        self._wall = wall
        self._processes = processes
        interval = settings.service.poll_interval_secs
        self._about = About(
            host=socket.gethostname(),
            started=started,
            poll_interval_secs=interval,
            storage=settings.storage.enabled,
        )
        self._guard = Guard(settings.api)
        self._page = page or Page()
        self._snapshots = Snapshots(hub, STALE_TICKS * interval, clock)
        self._stream = Stream(hub, self._snapshots, settings.api.max_streams)
        self._past: Past | None = None
        self._told: Told | None = None
        if settings.storage.enabled:
            from gpumon.store.history import Reader
            from gpumon.store.records import Records

            job, longest = Job.of(settings), settings.api.max_range_days
            children = asyncio.Semaphore(1)  # for both: a child takes 75 MB before it has read anything
            self._past = Past(Reader(job, children), longest, interval)
            self._told = Told(Records(job, children), longest)
        most = settings.api.max_connections
        self._logger = structlog.get_logger()
        self._listener = Listener(self._respond, self._logger, fault=_fault, most_connections=most)
        self.port = settings.api.port

    @property
    def streams(self) -> int:
        """Give how many read the stream."""
        return self._stream.readers

    @property
    def renders(self) -> int:
        """Give how many snapshots were rendered so far."""
        return self._snapshots.renders

    @classmethod
    def answered(cls) -> tuple[str, ...]:
        """Give the paths that have a function here."""
        return tuple(cls._ask)

    async def start(self) -> None:
        """Listen; SettingsError says in one sentence why that does not work."""
        settings = self._settings
        self.port = await self._listener.start(settings.address, settings.port, "api.address", "api.port")
        self._stream.start()
        if is_open(settings):
            self._logger.warning(
                "the API can be read by everyone who reaches it: set api.token", address=settings.address
            )

    async def stop(self) -> None:
        """End every stream and connection, and stop listening."""
        await self._stream.stop()
        await self._listener.stop()

    async def _respond(self, request: BaseRequest) -> StreamResponse:
        headers = EVERYWHERE | self._guard.headers(request)
        response = self._guard.refuse(request) or await self._find(request, headers)
        if not response.prepared:
            for name, value in headers.items():
                if name == "Vary" and name in response.headers:
                    value = f"{response.headers[name]}, {value}"
                response.headers[name] = value
        return response

    async def _find(self, request: BaseRequest, headers: dict[str, str]) -> StreamResponse:
        """Find what is asked for; the page's files need no token, because they are no secret."""
        path = request.path
        endpoint = BY_PATH.get(path)
        file = None if endpoint is not None else self._page.content(path)
        if endpoint is None and file is None:
            return error(404, f"there is nothing at {path[:100]}: see /api/openapi.json")
        if request.method == "OPTIONS":
            return Response(status=204, headers={"Allow": METHODS} | PREFLIGHT)
        if request.method not in ("GET", "HEAD"):
            return error(405, f"{path} takes GET and HEAD", Allow=METHODS)
        if endpoint is None:
            assert file is not None
            return await respond(request, file)
        stranger = self._guard.refuse_stranger(request)
        if stranger is not None:
            return stranger
        return await self._answer(request, endpoint, headers)

    async def _answer(self, request: BaseRequest, endpoint: Endpoint, headers: dict[str, str]) -> StreamResponse:
        given = request.query
        try:
            query: Any = read(endpoint.query, list(given.items()))
            if endpoint.path == "/api/stream":
                return await self._stream.serve(request, headers)
            content = await self._ask[endpoint.path](self, request, query)
        except BadRequestError as bad:
            return error(400, str(bad))
        except NoSnapshotError:
            return error(503, "there are no readings yet: the first come with the first tick", Retry_After="1")
        except UnavailableError as reason:
            return error(503, str(reason), Retry_After="10")
        response = await respond(request, content)
        give_back()
        return response

    # One function per path.

    async def _info(self, _: BaseRequest, __: object) -> Content:
        return document(info(self._about, self._hub.latest, self._wall()))

    async def _realtime(self, request: BaseRequest, _: object) -> Content:
        gzip = accepts_gzip(request.headers.get("Accept-Encoding", ""))
        number, stale = self._snapshots.state
        tag = f"{self._about.started:.3f}-{number}{'-stale' if stale else ''}"
        return Content(self._snapshots.page(gzip=gzip), compressed=gzip, tag=tag)

    async def _list_processes(self, _: BaseRequest, __: object) -> Content:
        if self._processes is None:
            raise UnavailableError("processes are not read: processes.enabled is false, or the GPUs are replayed")
        if self._snapshots.state[1]:  # stale, as with /metrics: what was so a while ago is not told as what is
            raise UnavailableError("sampling has stopped, so the processes on the GPUs are not known")
        return document(processes(self._processes(), self._hub.latest))

    async def _historical(self, _: BaseRequest, query: HistoryQuery) -> Content:
        return await _kept(self._past).history(query, self._wall())

    async def _chart(self, _: BaseRequest, query: ChartQuery) -> Content:
        return await _kept(self._past).chart(query, self._wall())

    async def _events(self, _: BaseRequest, query: EventsQuery) -> Content:
        return document(await _kept(self._told).events(query, self._wall()))

    async def _process_events(self, _: BaseRequest, query: ProcessEventsQuery) -> Content:
        return document(await _kept(self._told).process_events(query, self._wall()))

    async def _sessions(self, _: BaseRequest, query: SessionsQuery) -> Content:
        return document(await _kept(self._told).sessions(query, self._wall()))

    async def _summaries(self, _: BaseRequest, query: SummariesQuery) -> Content:
        return document(await _kept(self._told).summaries(query, self._wall()))

    async def _openapi(self, _: BaseRequest, __: object) -> Content:
        from gpumon.web.api.openapi import openapi

        return document(openapi(token=self._guard.asks_token))

    _ask: ClassVar[dict[str, Callable[[Any, BaseRequest, Any], Awaitable[Content]]]] = {
        "/api/info": _info,
        "/api/realtime": _realtime,
        "/api/processes": _list_processes,
        "/api/historical": _historical,
        "/api/chart": _chart,
        "/api/events": _events,
        "/api/process-events": _process_events,
        "/api/llm-sessions": _sessions,
        "/api/summaries": _summaries,
        "/api/openapi.json": _openapi,
    }


def _fault(status: int) -> Response:
    """Give the answer to what is no request, or to a fault of ours, which the log tells."""
    sentence = NO_REQUEST if status < HTTP_OURS else "this is a fault of gpumon: see its log"
    return error(status, sentence, **EVERYWHERE)


def _kept(part: T | None) -> T:
    """Give a part that answers about the past. UnavailableError where nothing is kept."""
    if part is None:
        raise UnavailableError(NO_STORAGE)
    return part
