"""Finished requests as rows, counters and histograms: what gpumon measured itself, whoever brought it."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from gpumon.catalog import LLM_RECORDS, LLM_TRAFFIC, Entity, Histogram, Reading
from gpumon.catalog.records import LlmSession
from gpumon.llm.names import OTHER, ModelNames
from gpumon.llm.request import ModelRequest

# Rows that wait for the store, which comes at every tick: two seconds of a node that ends a thousand requests a second.
WAITING_LIMIT = 2_000

# What fills each histogram of LLM_TRAFFIC; one that is not here is filled by servers only.
OBSERVED: dict[str, Callable[[ModelRequest], float | None]] = {
    "tokens_per_second": lambda request: request.tokens_per_second,
    "time_to_first_token_ms": lambda request: _milliseconds(request.time_to_first_token_seconds),
    "time_to_first_token_seconds": lambda request: request.time_to_first_token_seconds,
    "time_per_output_token_seconds": lambda request: request.time_per_output_token_seconds,
    "request_duration_seconds": lambda request: request.duration_seconds,
    "request_queue_seconds": lambda request: request.queue_seconds,
}

# What adds up to each counter of LLM_TRAFFIC, but for the outcomes.
ADDED: dict[str, Callable[[ModelRequest], float | None]] = {
    "prompt_tokens_total": lambda request: request.prompt_tokens,
    "cached_prompt_tokens_total": lambda request: request.cached_tokens,
    "generated_tokens_total": lambda request: request.completion_tokens,
    "session_count": lambda _request: 1,
}


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


class Buckets:
    """A histogram that is being filled."""

    def __init__(self, reading: Reading) -> None:
        self._bounds = reading.buckets
        self._counts = [0.0] * (len(reading.buckets) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value: in the first bucket whose bound it does not pass."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def histogram(self) -> Histogram | None:
        """Give what was observed so far; None while that is nothing."""
        return Histogram(self._bounds, tuple(self._counts), self._sum) if any(self._counts) else None


class _Traffic:
    """What one model did, as one source measured it."""

    def __init__(self) -> None:
        self.added: dict[str, float] = {f"requests_{outcome}_total": 0.0 for outcome in ("ok", "error", "cancelled")}
        self.buckets = {
            reading.name: Buckets(reading) for reading in LLM_TRAFFIC.histograms if reading.name in OBSERVED
        }

    def record(self, request: ModelRequest) -> None:
        self.added[f"requests_{request.outcome.value}_total"] += 1
        for name, number in ADDED.items():
            value = number(request)
            if value is not None:
                self.added[name] = self.added.get(name, 0.0) + value
        for name, observe in OBSERVED.items():
            value = observe(request)
            if value is not None:
                self.buckets[name].observe(value)

    def entity(self, labels: tuple[str, ...]) -> Entity:
        values = tuple(self.added.get(column.name) for column in LLM_TRAFFIC.columns)
        buckets = (self.buckets.get(reading.name) for reading in LLM_TRAFFIC.histograms)
        histograms = tuple(None if some is None else some.histogram() for some in buckets)
        return Entity(LLM_TRAFFIC, labels, values, histograms)


def row(request: ModelRequest) -> LlmSession:
    """Give a request as it is stored."""
    return LlmSession(
        started_at=request.started_at,
        model=request.model,
        server=request.server,
        source=request.source.value,
        prompt_tokens=request.prompt_tokens,
        completion_tokens=request.completion_tokens,
        total_tokens=request.total_tokens,
        tokens_per_second=request.tokens_per_second,
        time_to_first_token_ms=_milliseconds(request.time_to_first_token_seconds),
        time_per_output_token_ms=_milliseconds(request.time_per_output_token_seconds),
        duration_ms=_milliseconds(request.duration_seconds),
        outcome=request.outcome.value,
    )


class Sessions:
    """Takes finished requests. Use on one event loop; `record` is cheap enough to be called when a stream ends.

    The number of series is bounded by the limit of `names`, that of rows that wait by `waiting_limit`;
    0 where nobody stores them.
    """

    def __init__(self, names: ModelNames, waiting_limit: int = WAITING_LIMIT) -> None:
        self.names = names
        self._traffic: dict[tuple[str, ...], _Traffic] = {}
        self._waiting: deque[LlmSession] = deque(maxlen=waiting_limit)
        self._dropped = 0
        self._renamed = 0

    def record(self, request: ModelRequest) -> None:
        """Count a request under the label of its model, and keep it until it is drained."""
        label = self.names.label(request.server, request.model)
        self._renamed += label == OTHER
        request = replace(request, model=label)
        key = (request.server, request.kind, label, request.source.value)
        traffic = self._traffic.get(key)
        if traffic is None:
            traffic = self._traffic[key] = _Traffic()
        traffic.record(request)
        self._dropped += 0 < len(self._waiting) == self._waiting.maxlen
        if self._waiting.maxlen:
            self._waiting.append(row(request))

    def drain(self) -> tuple[LlmSession, ...]:
        """Give the rows of `llm_sessions` since the last time, oldest first."""
        rows = tuple(self._waiting)
        self._waiting.clear()
        return rows

    def entities(self) -> Iterator[Entity]:
        """Give what was measured since gpumon started; nothing while nothing was."""
        for labels, traffic in self._traffic.items():
            yield traffic.entity(labels)
        if self._traffic:
            yield Entity(LLM_RECORDS, (), (self._dropped, self._renamed))
