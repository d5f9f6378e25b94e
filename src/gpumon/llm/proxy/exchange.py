"""One request to a model and its reply, measured while a copy of both goes by."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpumon.llm.proxy.apis import MILLISECONDS, NANOSECONDS, Api, facts, has_content, has_error
from gpumon.llm.proxy.documents import DECODERS, Body, DocumentError, Events, Lines, Whole
from gpumon.llm.proxy.http import Headers
from gpumon.llm.proxy.outline import Document
from gpumon.llm.request import ModelRequest, Outcome, RequestSource
from gpumon.trace import Span, model_request

# What Ollama answers when asked to load or unload a model: nothing was generated, so it is no request to the model.
NOT_GENERATED = ("load", "unload")

# By content type, how a stream's documents are set apart; any other type is one document.
STREAMS: dict[bytes, type[Whole]] = {
    b"text/event-stream": Events,
    b"application/x-ndjson": Lines,
    b"application/ndjson": Lines,
    b"application/jsonl": Lines,
    b"application/stream+json": Lines,
}

# A reason is a word of a server's, never a text of a reply; the first are no reasons but say that it goes on.
_REASON = re.compile(r"(?!in_progress$|queued$)[A-Za-z_-]{1,40}")

# More than any request has, or a token count takes: what lies above is no count.
_MOST_TOKENS = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A finished request, and what only its span needs besides.

    `request.model` is a name as it was sent until the server's list is consulted; `names` are all that were sent.
    `operation` is OpenTelemetry's gen_ai.operation.name, `traceparent` the caller's header,
    `error` the kind of failure: a status code, "stream", "incomplete", "connection"; None when nothing failed.
    """

    request: ModelRequest
    names: tuple[str, ...]
    operation: str
    traceparent: str | None
    error: str | None

    def span(self) -> Span:
        """Give the request as a span of its caller's trace."""
        request = self.request
        start = int(request.started_at * 1e9)
        return model_request(
            traceparent=self.traceparent,
            operation=self.operation,
            provider=request.kind,
            model=request.model,
            start=start,
            end=start + int(request.duration_seconds * 1e9),
            input_tokens=request.prompt_tokens,
            output_tokens=request.completion_tokens,
            error=self.error,
        )


class Exchange:
    """A request under way. Times are seconds: `clock` Unix, all others monotonic."""

    __slots__ = (
        "_api",
        "_body",
        "_clock",
        "_contents",
        "_error",
        "_facts",
        "_first",
        "_last",
        "_now",
        "_path",
        "_request",
        "_started",
        "_streamed",
        "_streaming_asked",
        "_traceparent",
        "_wanted",
        "unreadable",
    )

    def __init__(self, api: Api, target: bytes, headers: Headers, *, started: float, clock: float) -> None:
        self._api = api
        self._path = api.path
        self._clock = clock
        self._started = started
        self._now = started
        self._request: Body | None = Whole(self._take_request) if _encoding(headers) in PLAIN else None
        self._body: Body | None = None
        self._streaming_asked: bool | None = None
        self._streamed = False
        self._wanted: str | None = None
        self._facts: dict[str, object] = {}
        self._first: float | None = None
        self._last: float | None = None
        self._contents = 0
        self._error: str | None = None
        self._traceparent = headers.get(b"traceparent", b"").decode("latin-1")[:256] or None
        self.unreadable = 0  # times that something could not be read, so that less is known

    def request_body(self, data: bytes) -> None:
        """Take a piece of the request's body."""
        if self._request is not None:
            try:
                self._request.feed(data)
            except DocumentError:
                self._lose_request()

    def request_end(self) -> None:
        """Note that the request is complete."""
        if self._request is not None:
            try:
                self._request.end()
            except DocumentError:
                self._lose_request()
            self._request = None

    def response_head(self, status: int, headers: Headers) -> None:
        """Take the head of the final response."""
        if not 200 <= status < 300:
            self._error = str(status)
        content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        form = STREAMS.get(content_type, Whole)
        self._streamed = form is not Whole
        decoder = DECODERS.get(_encoding(headers))
        # What is compressed in a way that is not read here passes by: its tokens are not known, which is no failure.
        self._body = decoder(form(self._take)) if decoder else None

    def response_body(self, data: bytes, now: float) -> None:
        """Take a piece of the response's body."""
        if self._body is not None:
            self._now = now
            try:
                self._body.feed(data)
            except DocumentError:
                self._lose_body()

    def response_end(self, now: float) -> None:
        """Note that the response is complete."""
        if self._body is not None:
            self._now = now
            try:
                self._body.end()
            except DocumentError:
                self._lose_body()
            else:
                if self._incomplete:
                    self._error = self._error or "incomplete"
            self._body = None

    @property
    def _incomplete(self) -> bool:
        says_done = self._api.dialect.says_done and self._api.generates and self._streamed
        return says_done and not self.done

    @property
    def done(self) -> bool:
        """Say whether the reply said that it is whole, so that it does not matter who leaves now."""
        return bool(self._facts.get("done")) or (self._streamed and self._reason() is not None)

    def measured(self, outcome: Outcome, server: str, kind: str, now: float, error: str | None) -> Measured | None:
        """Give what is known when it is over; None when it was no request to the model."""
        if self._reason() in NOT_GENERATED:
            return None
        error = self._error or error
        if error is not None and outcome is Outcome.OK:
            outcome = Outcome.ERROR
        counted = self._count("completion_tokens")
        # A stream that broke off may have said how many tokens there were so far, or only that it began.
        estimated = self._contents > (0 if counted is None else self._contents if self.done else counted)
        tokens = self._contents if estimated else counted
        sent = (self._facts.get("model"), self._wanted)
        names = tuple(name for name in sent if isinstance(name, str) and name)
        request = ModelRequest(
            server=server,
            kind=kind,
            model=names[0] if names else "",
            source=RequestSource.PROXY,
            started_at=self._clock,
            duration_seconds=now - self._started,
            outcome=outcome,
            streamed=self._streamed or bool(self._streaming_asked),
            endpoint=self._path,
            prompt_tokens=self._prompt_tokens(),
            cached_tokens=self._count("cached_tokens"),
            completion_tokens=tokens if self._api.generates else None,
            completion_tokens_estimated=estimated,
            load_seconds=self._seconds("load_ns", NANOSECONDS),
            queue_seconds=self._queue_seconds(),
            time_to_first_token_seconds=None if self._first is None else self._first - self._started,
            time_per_output_token_seconds=self._pace(tokens),
            finish_reason=self._reason() if outcome is Outcome.OK else None,
        )
        return Measured(
            request=request,
            names=names,
            operation=self._api.operation,
            traceparent=self._traceparent,
            error=error if outcome is not Outcome.OK else None,
        )

    def _take_request(self, document: Document) -> None:
        wanted, stream = document.get("model"), document.get("stream")
        self._wanted = wanted if isinstance(wanted, str) else None
        self._streaming_asked = stream if isinstance(stream, bool) else self._api.streams

    def _take(self, document: Document) -> None:
        dialect = self._api.dialect
        if self._streamed and self._api.generates and has_content(dialect, document):
            self._contents += 1
            self._last = self._now
            if self._first is None:
                self._first = self._now
        self._facts.update(facts(dialect, document))
        if self._error is None and has_error(dialect, document):
            self._error = "stream"

    def _lose_request(self) -> None:
        self._request = None
        self.unreadable += 1

    def _lose_body(self) -> None:
        self._body = None
        # An error's page may be in any form.
        self.unreadable += self._error is None

    def _count(self, name: str) -> int | None:
        count = self._facts.get(name)
        if isinstance(count, bool) or not isinstance(count, (int, float)) or not 0 <= count < _MOST_TOKENS:
            return None
        return int(count)

    def _prompt_tokens(self) -> int | None:
        prompt = self._count("prompt_tokens")
        if prompt is None or not self._api.dialect.cache_apart:
            return prompt
        return prompt + (self._count("cached_tokens") or 0) + (self._count("cache_write_tokens") or 0)

    def _seconds(self, name: str, scale: float) -> float | None:
        count = self._count(name)
        return None if count is None else count * scale

    def _queue_seconds(self) -> float | None:
        """Give what Ollama's total leaves over: waiting for a slot, and parsing; None when a part is not stated."""
        total = self._count("total_ns")
        parts = [self._count(name) for name in ("load_ns", "prompt_ns", "generation_ns")]
        known = [part for part in parts if part is not None]
        if total is None or len(known) < len(parts):
            return None
        return max(0, total - sum(known)) * NANOSECONDS

    def _pace(self, tokens: int | None) -> float | None:
        """Give seconds per token after the first: by the server's own clock where it tells, else by the arrivals."""
        if tokens is None or tokens < 2:
            return None
        spent = self._seconds("generation_ns", NANOSECONDS)
        if spent is None:
            spent = self._seconds("generation_ms", MILLISECONDS)
        if spent is None and self._first is not None and self._last is not None:
            spent = self._last - self._first
        return spent / (tokens - 1) if spent else None

    def _reason(self) -> str | None:
        reason = self._facts.get("finish_reason")
        return reason if isinstance(reason, str) and _REASON.fullmatch(reason) else None


PLAIN = (b"", b"identity")


def _encoding(headers: Headers) -> bytes:
    return headers.get(b"content-encoding", b"").strip().lower()
