"""Spans of gpumon's own work and of model requests: recorded as frozen objects, sent by whoever drains the recorder.

Off, which is the default, a span costs one method call: `OFF.span("tick")` does nothing and keeps nothing.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")
Value = str | int | float | bool
Attributes = Mapping[str, Value]
NOTHING: Attributes = {}

# About a megabyte of spans; what comes on top pushes out the oldest.
SPAN_LIMIT = 2048
TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class Context:
    """What a span's children need to know of it; `sampled` is False when the caller does not want the trace kept."""

    trace_id: bytes
    span_id: bytes
    sampled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One finished piece of work. Times are Unix nanoseconds; `error` is what failed, None when nothing did.

    `server` marks a request answered for somebody else, as against work of one's own.
    """

    name: str
    context: Context
    parent: Context | None
    start: int
    end: int
    attributes: Attributes
    error: str | None = None
    server: bool = False


# The span under way here: the parent of those that begin inside it, in the same task or thread.
_current: ContextVar[Context | None] = ContextVar("gpumon_span", default=None)


class Off:
    """The recorder that records nothing."""

    def span(self, name: str, attributes: Attributes = NOTHING) -> Self:
        """Give a span that is none."""
        return self

    def around(self, name: str, attributes: Attributes, work: Callable[[], T]) -> Callable[[], T]:
        """Give the work as it is."""
        return work

    def add(self, span: Span) -> None:
        """Forget a span."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


OFF = Off()


class Recorder:
    """Keeps finished spans until they are drained; any thread may record, one drains."""

    def __init__(self, limit: int = SPAN_LIMIT, clock: Callable[[], int] = time.time_ns) -> None:
        self._spans: deque[Span] = deque(maxlen=limit)
        self._clock = clock
        self.pushed_out = 0

    def span(self, name: str, attributes: Attributes = NOTHING) -> Open:
        """Give a span that lasts as long as its `with` block; it belongs to the one under way in this task or thread."""
        return Open(self, name, attributes, _current.get(), self._clock)

    def around(self, name: str, attributes: Attributes, work: Callable[[], T]) -> Callable[[], T]:
        """Give work for another thread, in a span that belongs to the one under way here."""
        parent = _current.get()

        def traced() -> T:
            with Open(self, name, attributes, parent, self._clock):
                return work()

        return traced

    def add(self, span: Span) -> None:
        """Take a finished span; one whose caller does not want the trace kept is left out."""
        if span.parent is not None and not span.parent.sampled:
            return
        if len(self._spans) == self._spans.maxlen:
            self.pushed_out += 1
        self._spans.append(span)

    def drain(self) -> tuple[Span, ...]:
        """Give all finished spans, oldest first, and forget them."""
        spans = []
        while self._spans:
            spans.append(self._spans.popleft())
        return tuple(spans)


class Open:
    """A span under way."""

    __slots__ = ("_attributes", "_clock", "_name", "_parent", "_recorder", "_start", "_token", "context")

    def __init__(
        self, recorder: Recorder, name: str, attributes: Attributes, parent: Context | None, clock: Callable[[], int]
    ) -> None:
        self._recorder = recorder
        self._name = name
        self._attributes = attributes
        self._parent = parent
        self._clock = clock
        self._start = 0
        self.context = child(parent)

    def __enter__(self) -> Self:
        self._token: Token[Context | None] = _current.set(self.context)
        self._start = self._clock()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        _current.reset(self._token)
        self._recorder.add(
            Span(
                name=self._name,
                context=self.context,
                parent=self._parent,
                start=self._start,
                end=max(self._start, self._clock()),  # the wall clock may have been set back
                attributes=self._attributes,
                error=kind.__name__ if kind else None,
            )
        )


def child(parent: Context | None) -> Context:
    """Give the context of a new span: in its parent's trace, or the first of a trace of its own."""
    if parent is None:
        return Context(secrets.token_bytes(16), secrets.token_bytes(8))
    return Context(parent.trace_id, secrets.token_bytes(8), parent.sampled)


def read_traceparent(header: str | None) -> Context | None:
    """Give the caller's context from its `traceparent` header, None when there is none or it is malformed.

    Source: W3C Trace Context, level 1; later versions may add fields behind the flags.
    """
    match = TRACEPARENT.fullmatch(header.strip()) if header else None
    if match is None or (match[1] == "00" and match[5]):
        return None
    return Context(bytes.fromhex(match[2]), bytes.fromhex(match[3]), bool(int(match[4], 16) & 1))


def model_request(
    *,
    traceparent: str | None,
    operation: str,
    provider: str,
    model: str,
    start: int,
    end: int,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    error: str | None = None,
) -> Span:
    """Give the span of one request to a model server, joined to its caller's trace; nothing of its content.

    `operation` is "chat", "text_completion", "embeddings" …, `provider` the server's kind ("ollama", "vllm" …),
    `error` the kind of failure, as a status code or an exception's name; times are Unix nanoseconds.
    Source: OpenTelemetry semantic conventions for generative AI (in development).
    """
    parent = read_traceparent(traceparent)
    attributes: dict[str, Value] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
    }
    if input_tokens is not None:
        attributes["gen_ai.usage.input_tokens"] = input_tokens
    if output_tokens is not None:
        attributes["gen_ai.usage.output_tokens"] = output_tokens
    if error is not None:
        attributes["error.type"] = error
    return Span(
        name=f"{operation} {model}",
        context=child(parent),
        parent=parent,
        start=start,
        end=end,
        attributes=attributes,
        error=error,
        server=True,
    )
