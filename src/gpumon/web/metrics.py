"""The metrics port: /metrics from the newest snapshot, /healthz, /readyz; on this machine /-/release and /-/resume."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import structlog
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response

from gpumon.export.exposition import STALE_TICKS, Exposition, accepts_gzip, choose_form
from gpumon.export.prometheus import Form
from gpumon.hub import Hub
from gpumon.settings import Settings
from gpumon.web.listen import Connection, Listener

if TYPE_CHECKING:
    from gpumon.export.dcgm import Dcgm
    from gpumon.web.gate import Gate
    from gpumon.web.webconfig import WebConfig

Alive = Callable[[], str | None]
Action = Callable[[], Awaitable[str]]

# What a request carries that came through a browser or a proxy, and so not from whom its address says.
FOREIGN_HEADERS = ("Origin", "Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "Via")

LANDING = """<!doctype html><title>gpumon</title><h1>gpumon</h1>
<p><a href="/metrics">/metrics</a> what Prometheus scrapes
<p><a href="/healthz">/healthz</a> 200 while gpumon works
<p><a href="/readyz">/readyz</a> 200 once there are readings
"""


class MetricsServer:
    """Serves the hub's newest snapshot; never touches a driver.

    `alive` gives None or the reason why gpumon is not well.
    `release` and `resume` give up the driver and take it up again, and give a sentence that says so.
    """

    def __init__(
        self,
        settings: Settings,
        hub: Hub,
        *,
        alive: Alive,
        release: Action | None = None,
        resume: Action | None = None,
        clock: Callable[[], float] = time.monotonic,
        web_config: WebConfig | None = None,
    ) -> None:
        self._telemetry = settings.telemetry
        self._hub = hub
        self._alive = alive
        self._actions = {"/-/release": release, "/-/resume": resume}
        self._pages: dict[str, Callable[[BaseRequest], Response]] = {
            "/": self._landing,
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }
        stale_secs = STALE_TICKS * settings.service.poll_interval_secs
        self._exposition = Exposition(hub, stale_secs, clock, _dcgm(settings))
        self._gate = _gate(web_config, clock)
        self._listener = Listener(self._respond, structlog.get_logger(), self._gate)
        self.port = settings.telemetry.metrics_port

    @property
    def renders(self) -> Mapping[tuple[Form, bool], int]:
        """Give how many pages were rendered so far, by form and whether compressed."""
        return self._exposition.renders

    async def start(self) -> None:
        """Listen; SettingsError says in one sentence why that does not work."""
        self.port = await self._listener.start(
            self._telemetry.metrics_address,
            self._telemetry.metrics_port,
            "telemetry.metrics_address",
            "telemetry.metrics_port",
        )

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        await self._listener.stop()
        if self._gate:
            self._gate.close()

    async def _respond(self, request: BaseRequest) -> Response:
        refusal = await self._gate.refuse(request) if self._gate else None
        response = refusal or await self._page(request)
        response.headers["Server"] = "gpumon"  # else aiohttp tells its version and Python's
        if self._gate:
            response.headers.update(self._gate.headers)
        return response

    async def _page(self, request: BaseRequest) -> Response:
        path = request.path
        action = self._actions.get(path)
        if action:
            return await self._act(request, action)
        page = self._pages.get(path)
        if page is None:
            return text_response(404, "there is nothing here; see /")
        if request.method not in ("GET", "HEAD"):
            return text_response(405, f"{path} takes GET and HEAD", Allow="GET, HEAD")
        return page(request)

    async def _act(self, request: BaseRequest, action: Action) -> Response:
        if request.method != "POST":
            return text_response(405, f"{request.path} takes POST", Allow="POST")
        if not local(request):
            return text_response(403, f"{request.path} is for this machine's own address, without a proxy")
        return text_response(200, await action())

    def _metrics(self, request: BaseRequest) -> Response:
        form = choose_form(request.headers.get("Accept", ""))
        gzip = accepts_gzip(request.headers.get("Accept-Encoding", ""))
        headers = {"Content-Type": form.value}
        if gzip:
            headers["Content-Encoding"] = "gzip"
        if self._gate is None and request.keep_alive and isinstance(request.protocol, Connection):
            request.protocol.repeat(partial(self._metrics_again, headers, form, gzip))
        return Response(body=self._exposition.page(form, gzip), headers=headers)

    def _metrics_again(self, headers: Mapping[str, str], form: Form, gzip: bool) -> bytes:
        """Give the same response as before, with the page as of now."""
        page = self._exposition.page(form, gzip)
        lines = [f"{name}: {value}" for name, value in headers.items()]
        lines += ["Server: gpumon", f"Content-Length: {len(page)}", f"Date: {rfc822_formatted_time()}"]
        return b"HTTP/1.1 200 OK\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + page

    def _healthz(self, _: BaseRequest) -> Response:
        reason = self._alive()
        return text_response(200, "ok") if reason is None else text_response(503, reason)

    def _readyz(self, _: BaseRequest) -> Response:
        return text_response(503, "no snapshot yet") if self._hub.latest is None else text_response(200, "ok")

    def _landing(self, _: BaseRequest) -> Response:
        return Response(text=LANDING, content_type="text/html")


def _dcgm(settings: Settings) -> Dcgm | None:
    if settings.telemetry.dcgm_compat == "off":
        return None
    from gpumon.export.dcgm import Dcgm

    # As dcgm-exporter does: the node's name where the pod was told it, because a pod's host name is the pod's own.
    hostname = settings.kubernetes.node_name or os.environ.get("NODE_NAME") or socket.gethostname()
    return Dcgm(settings.telemetry.dcgm_compat, hostname)


def _gate(web_config: WebConfig | None, clock: Callable[[], float]) -> Gate | None:
    if web_config is None:
        return None
    from gpumon.web.gate import Gate  # its imports take 2 MB, which only those pay who configure it

    return Gate(web_config, clock)


def text_response(status: int, text: str, **headers: str) -> Response:
    """Answer with one line of text."""
    return Response(status=status, text=text + "\n", headers=headers)


def local(request: BaseRequest) -> bool:
    """Say whether a request comes from this machine itself, and not through a browser's page or a proxy."""
    if any(name in request.headers for name in FOREIGN_HEADERS):
        return False
    try:
        peer = ip_address(request.remote or "")
    except ValueError:
        return False
    return (getattr(peer, "ipv4_mapped", None) or peer).is_loopback
