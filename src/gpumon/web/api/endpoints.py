"""Every path of the API: what it gives and which query it takes. The document and the server follow from these rows."""

from __future__ import annotations

from dataclasses import dataclass

from gpumon.web.api.past import ChartQuery, HistoryQuery
from gpumon.web.api.told import EventsQuery, ProcessEventsQuery, SessionsQuery, SummariesQuery


@dataclass(frozen=True, slots=True)
class Nothing:
    """A query without parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One path. `query` declares its parameters; `unavailable` says when it answers 503, if ever."""

    path: str
    summary: str
    help: str
    query: type = Nothing
    unavailable: str = ""


NO_HISTORY = "storage.enabled is false, or the history cannot be read now"
NO_READINGS = "there are no readings yet"

ENDPOINTS = (
    Endpoint(
        path="/api/info",
        summary="What this gpumon is",
        help="Version, host, driver, and every GPU seen since it started, also those that are down, with the reason.",
    ),
    Endpoint(
        path="/api/realtime",
        summary="The newest readings",
        help="Every entity of the newest snapshot, by the name of its kind. A reading that is not known is left out. "
        "When sampling has stopped, stale is true and only gpumon's own health is given.",
        unavailable=NO_READINGS,
    ),
    Endpoint(
        path="/api/stream",
        summary="Every snapshot as it comes",
        help="Server-sent events called snapshot, with what /api/realtime gives as data and its sequence as id; the "
        "first comes at once. A reader that is slow gets the newest and misses the rest. A comment keeps it alive.",
        unavailable="api.max_streams read it already",
    ),
    Endpoint(
        path="/api/historical",
        summary="Readings of the past",
        help="Average, minimum and maximum in spans of step_seconds, by entity. Reaches into the archive.",
        query=HistoryQuery,
        unavailable=NO_HISTORY,
    ),
    Endpoint(
        path="/api/chart",
        summary="Readings of the past of one GPU, for plotting",
        help="The same as columns of numbers; null where there was no reading. Times are Unix seconds.",
        query=ChartQuery,
        unavailable=NO_HISTORY,
    ),
    Endpoint(
        path="/api/processes",
        summary="The processes on the GPUs",
        help="One row per process and GPU, as of the newest snapshot. Command lines only with processes.command_lines.",
        unavailable="processes are not read, there are no readings yet, or sampling has stopped",
    ),
    Endpoint(
        path="/api/events",
        summary="What happened",
        help="XIDs, devices lost and back, throttling, memory faults, alerts, models that came and went: newest first.",
        query=EventsQuery,
        unavailable=NO_HISTORY,
    ),
    Endpoint(
        path="/api/process-events",
        summary="Processes that came and went",
        help="Starts, ends with what each process did, and changes of category: newest first.",
        query=ProcessEventsQuery,
        unavailable=NO_HISTORY,
    ),
    Endpoint(
        path="/api/llm-sessions",
        summary="Requests that model servers answered",
        help="One by one, with tokens, times and energy; never a prompt or reply. Newest first.",
        query=SessionsQuery,
        unavailable=NO_HISTORY,
    ),
    Endpoint(
        path="/api/summaries",
        summary="What weeks came down to",
        help="One row per GPU and per model for each week, from Monday 00:00 UTC; newest first.",
        query=SummariesQuery,
        unavailable=NO_HISTORY,
    ),
    Endpoint(
        path="/api/openapi.json",
        summary="This document",
        help="OpenAPI 3.1, made from the same declarations that check the parameters.",
    ),
)

BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}
