"""A snapshot as OTLP metrics: the requests a collector gets, with start times and, when asked for, differences.

Built straight from the messages of opentelemetry-proto: 2,000 points cost 4 ms, through the SDK's data classes 25 to 30.
A series' attributes are encoded once, when it is first seen.
Source: OpenTelemetry specification, metrics data model; opentelemetry/proto/metrics/v1/metrics.proto.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

from gpumon.catalog import HOST, Entity, EntityKind, Histogram, Since, Snapshot, own_names
from gpumon.export.exposition import DOWN
from gpumon.export.otlp_count import Count, Value
from gpumon.export.otlp_flow import Batch, Collect
from gpumon.export.otlp_requests import Requests
from gpumon.export.otlp_series import Row, Rows, Series, rows_of
from gpumon.export.otlp_signal import Sender

# Entities gone whose counters are remembered: far more than a node has devices, and at most a megabyte.
GONE_LIMIT = 1_000
# Those with histograms take ten kilobytes each.
GONE_HISTOGRAMS_LIMIT = 100

Key = tuple[EntityKind, tuple[str, ...]]


class Encoder:
    """Turns snapshots into requests. Keeps one `Series` per entity of the newest snapshot, and some of those gone.

    `started` is the Unix time from which gpumon's own counters count; `delta` sends counters and histograms as differences;
    `own` sends the metrics' and labels' own names instead of those of OpenTelemetry's conventions.
    """

    def __init__(self, sender: Sender, started: float, *, delta: bool = False, own: bool = False) -> None:
        self._sender = sender
        self._started = _nanoseconds(started)
        self._delta = delta
        self._own = own
        self._rows: dict[EntityKind, Rows] = {}
        self._series: dict[Key, Series] = {}
        self._gone: dict[Key, Series] = {}

    def encode(self, snapshot: Snapshot) -> Batch:
        """Give the requests for a snapshot; once they are delivered, call the batch's `delivered`."""
        at = _nanoseconds(snapshot.time)
        begun = {Since.GPUMON: self._started, Since.BOOT: _boot_time(snapshot) or at, Since.SOURCE: at}
        told = _Told(at, begun, self._delta)
        requests = Requests(self._sender, self._delta)
        newest: dict[Key, Series] = {}
        for entity in snapshot.entities:
            key = (entity.kind, entity.labels)
            if key in newest:
                continue  # as /metrics has it: of entities with equal labels the first is meant
            rows = self._rows.get(entity.kind)
            if rows is None:
                rows = self._rows[entity.kind] = rows_of(own_names(entity.kind) if self._own else entity.kind)
            known = self._series if key in self._series else self._gone
            series = newest[key] = known.pop(key) if key in known else Series(entity, rows.labels)
            for row in rows.numbers:
                value = entity.values[row.index]
                if value is None or not -inf < value < inf:  # what is not finite was no reading
                    continue
                if not row.counter:
                    requests.add(row, series.attributes, 0, at, value)
                elif (point := told.number(row, series, value)) is not None:
                    requests.add(row, series.attributes, point[0], at, point[1])
            if entity.histograms:
                _add_histograms(requests, rows, series, entity, told)
        self._keep(newest)
        return Batch(requests.serialize(), requests.items, delivered=told.delivered)

    def _keep(self, newest: dict[Key, Series]) -> None:
        """Keep the newest series, and of those that are gone what counts, for they may come back (a GPU that hung)."""
        self._gone.update((key, series) for key, series in self._series.items() if series.counts or series.histograms)
        large = [key for key, series in self._gone.items() if series.histograms]
        for key in large[:-GONE_HISTOGRAMS_LIMIT]:
            del self._gone[key]
        for key in list(self._gone)[:-GONE_LIMIT]:
            del self._gone[key]
        self._series = newest


def newest(
    latest: Callable[[], Snapshot | None],
    encoder: Encoder,
    stale_secs: float,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> Collect:
    """Give what collects the newest snapshot: once, and again only as long as there is no newer one.

    When the newest is older than `stale_secs`, sampling has stopped: then `gpumon_up` 0 is all there is to say.
    """
    taken = 0

    def collect(waiting: Batch | None) -> Batch | None:
        nonlocal taken
        snapshot = latest()
        if snapshot is not None and monotonic() - snapshot.monotonic > stale_secs:
            return encoder.encode(Snapshot(clock(), monotonic(), 0, (DOWN,)))
        if snapshot is None or snapshot.number == taken:
            return waiting
        taken = snapshot.number
        return encoder.encode(snapshot)

    return collect


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _boot_time(snapshot: Snapshot) -> int | None:
    return next((_nanoseconds(boot) for host in snapshot.of(HOST) if (boot := host["boot_time_seconds"])), None)


class _Told:
    """What is told of counters and histograms in one export: from when, and how much."""

    def __init__(self, at: int, begun: dict[Since, int], delta: bool) -> None:
        self.at = at
        self._begun = begun
        self._delta = delta
        self._counts: list[Count[float]] = []
        self._histograms: list[Count[Histogram]] = []

    def number(self, row: Row[float], series: Series, value: float) -> tuple[int, float] | None:
        """Give the start of a counter and its value, or None while there is no difference to be told."""
        return self._point(row, series, series.counts, self._counts, value)

    def histogram(self, row: Row[Histogram], series: Series, value: Histogram) -> tuple[int, Histogram] | None:
        """Give the same of a histogram."""
        return self._point(row, series, series.histograms, self._histograms, value)

    def delivered(self) -> None:
        """Let the next differences begin here."""
        for count in self._counts:
            count.deliver()
        for histogram in self._histograms:
            histogram.deliver()

    def _point(
        self,
        row: Row[Value],
        series: Series,
        known: dict[int, Count[Value]],
        counts: list[Count[Value]],
        value: Value,
    ) -> tuple[int, Value] | None:
        since = Since.GPUMON if series.counted_here else row.since
        count = row.observe(known, since, self._begun[since], self.at, value)
        counts.append(count)
        if not self._delta:
            return count.start, value
        return None if count.delivered_at == self.at else row.difference(count)


def _add_histograms(requests: Requests, rows: Rows, series: Series, entity: Entity, told: _Told) -> None:
    for row in rows.histograms:
        histogram = entity.histograms[row.index]
        if histogram is not None and histogram.believable:
            point = told.histogram(row, series, histogram)
            if point is not None:
                requests.add_histogram(row, series.histogram_attributes, point[0], told.at, point[1])
