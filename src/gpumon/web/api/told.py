"""What happened: events, requests to models, processes that came and went, and what weeks came down to."""

from __future__ import annotations

import json
from dataclasses import dataclass

from gpumon.catalog.records import Event, LlmSession, ProcessEvent, Record
from gpumon.store.records import Page, Records, Row
from gpumon.store.schema import TABLES, Value, text_of
from gpumon.web.api.past import HOURS, Range, checked, telling_why
from gpumon.web.api.query import DAY, BadRequestError, Day, Json, Moment, Number, Text, parameter
from gpumon.web.api.times import iso_of

MOST_ROWS = 1000
USUAL_ROWS = 100

_LIMIT = Number(1, MOST_ROWS, whole=True)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended: a time, and after a tilde the id of its last row; or just a time."""

    allowed: str = "what an answer before this one has in next, or a time with its zone"

    def take(self, text: str) -> tuple[str, int]:
        moment, tilde, number = text.partition("~")
        if tilde and not (number.isascii() and number.isdigit() and len(number) < 19):
            raise ValueError(text)
        return text_of(Moment().take(moment)), int(number) if tilde else 0

    def schema(self) -> Json:
        return {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)(~\d{1,18})?$"}


_BEFORE = Cursor()
_PAGE_HELP = "Only what came before; next of the answer before this one."


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsQuery(Range):
    """Which events."""

    hours: float | None = parameter(None, HOURS, "The last so many hours; 24 where no start is given.", example=24)
    kind: str | None = parameter(None, Text(64), "Only of this kind, as in xid.", example="xid")
    gpu_id: int | None = parameter(None, Number(0, 255, whole=True), "Only of the GPU with this index.", example=0)
    limit: int = parameter(USUAL_ROWS, _LIMIT, "Most events in the answer.")
    before: tuple[str, int] | None = parameter(None, _BEFORE, _PAGE_HELP)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEventsQuery(Range):
    """Which comings and goings of processes."""

    hours: float | None = parameter(None, HOURS, "The last so many hours; 24 where no start is given.", example=24)
    pid: int | None = parameter(None, Number(1, 2**31 - 1, whole=True), "Only of this process.", example=4711)
    gpu_id: int | None = parameter(None, Number(0, 255, whole=True), "Only of the GPU with this index.", example=0)
    category: str | None = parameter(
        None, Text(64), "Only of this kind of work, as in ml_training.", example="ml_training"
    )
    pod: str | None = parameter(None, Text(), "Only of this pod.")
    limit: int = parameter(USUAL_ROWS, _LIMIT, "Most events in the answer.")
    before: tuple[str, int] | None = parameter(None, _BEFORE, _PAGE_HELP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Days:
    """A span of days in UTC, or of moments."""

    start_date: float | None = parameter(
        None, Day(), "First day; 7 days before the end where left out.", example="2026-01-24"
    )
    end_date: float | None = parameter(None, Day(end=True), "Last day; today where left out.", example="2026-01-31")

    def span(self, now: float, longest_days: float, days: float = 7.0) -> tuple[float, float]:
        """Give start and end as Unix seconds. BadRequestError where they are no span, or one that is too long."""
        end = now if self.end_date is None else self.end_date
        return checked(end - days * DAY if self.start_date is None else self.start_date, end, longest_days)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsQuery(Days):
    """Which requests to models."""

    model: str | None = parameter(None, Text(), "Only of this model.", example="llama3.1:8b")
    limit: int = parameter(USUAL_ROWS, _LIMIT, "Most sessions in the answer.")
    before: tuple[str, int] | None = parameter(None, _BEFORE, _PAGE_HELP)


@dataclass(frozen=True, slots=True, kw_only=True)
class SummariesQuery(Days):
    """Which weeks: those that begin in the span."""

    limit: int = parameter(MOST_ROWS, _LIMIT, "Most rows in the answer.")


class Told:
    """Answers about what happened, from the store."""

    def __init__(self, records: Records, longest_days: float) -> None:
        self._records = records
        self._longest_days = longest_days

    async def events(self, query: EventsQuery, now: float) -> dict[str, object]:
        """Give events, newest first."""
        where: dict[str, Value] = {"kind": query.kind, "gpu_id": query.gpu_id}
        span = query.span(now, self._longest_days, 24.0)
        return await self._page(Event, "events", span, where, query.limit, query.before)

    async def process_events(self, query: ProcessEventsQuery, now: float) -> dict[str, object]:
        """Give what happened to processes, newest first."""
        where: dict[str, Value] = {
            "pid": query.pid,
            "gpu_id": query.gpu_id,
            "category": query.category,
            "pod": query.pod,
        }
        span = query.span(now, self._longest_days, 24.0)
        return await self._page(ProcessEvent, "events", span, where, query.limit, query.before)

    async def sessions(self, query: SessionsQuery, now: float) -> dict[str, object]:
        """Give requests to models, newest first."""
        span = query.span(now, self._longest_days)
        return await self._page(LlmSession, "sessions", span, {"model": query.model}, query.limit, query.before)

    async def summaries(self, query: SummariesQuery, now: float) -> dict[str, object]:
        """Give weekly summaries, newest first."""
        start, end = query.span(now, max(self._longest_days, 3660.0), 366.0)
        with telling_why():
            rows = await self._records.weeks(text_of(start), text_of(end), query.limit)
        return {"summaries": [_week(row) for row in rows]}

    async def _page(
        self,
        record: type[Record],
        name: str,
        span: tuple[float, float],
        where: dict[str, Value],
        limit: int,
        before: tuple[str, int] | None,
    ) -> dict[str, object]:
        start, end = map(text_of, span)
        if before is not None and before[0] < start:
            raise BadRequestError("before lies before the start: allowed is a time in the span")
        given = {name: value for name, value in where.items() if value is not None}
        # One more than asked for tells whether there are more.
        page = Page(source=record.table, start=start, end=end, limit=limit + 1, where=given, before=before)
        with telling_why():
            rows = await self._records.page(page)
        time = TABLES[record.table].time
        answer: dict[str, object] = {name: [_record(row, time) for row in rows[:limit]]}
        if len(rows) > limit:
            last = rows[limit - 1]
            answer["next"] = f"{iso_of(str(last[time]))}~{last['id']}"
        return answer


def _record(row: Row, time: str) -> dict[str, object]:
    """Give a row as it is told: without what is not known, with its details as an object, and the advice beside them."""
    found: dict[str, object] = {name: value for name, value in row.items() if value is not None}
    told = {"id": found.pop("id"), "time": iso_of(str(found.pop(time)))} | found
    if "detail" in told:
        detail = json.loads(str(told["detail"]))
        if advice := detail.pop("advice", None):
            told["advice"] = advice
        told["detail"] = detail
    return told


def _week(row: Row) -> dict[str, object]:
    found: dict[str, object] = {name: value for name, value in row.items() if value is not None}
    for name in ("week_start", "week_end"):
        found[name] = iso_of(str(found[name]))
    return found
