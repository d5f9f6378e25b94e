"""A snapshot as OTLP metrics: the requests a collector gets, with start times and, when asked for, differences.

Built straight from the messages of opentelemetry-proto: 2,000 points cost 4 ms, through the SDK's data classes 25 to 30.
A series' attributes are encoded once, when it is first seen.
Source: OpenTelemetry specification, metrics data model; opentelemetry/proto/metrics/v1/metrics.proto.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, NumberDataPoint

from gpumon.catalog import HOST, EntityKind, Since, Snapshot
from gpumon.export.exposition import DOWN
from gpumon.export.otlp_flow import Batch, Collect
from gpumon.export.otlp_series import Count, Row, Series, deliver, rows_of
from gpumon.export.otlp_signal import Sender

CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
# About 150 bytes each: a third of the 4 MB that gRPC servers take unless told otherwise.
POINTS_PER_REQUEST = 10_000
# Entities gone whose counters are remembered: far more than a node has devices, and at most a megabyte.
GONE_LIMIT = 1_000


Key = tuple[EntityKind, tuple[str, ...]]


class Encoder:
    """Turns snapshots into requests. Keeps one `Series` per entity of the newest snapshot, and some of those gone.

    `started` is the Unix time from which gpumon's own counters count; `delta` sends counters as differences.
    """

    def __init__(self, sender: Sender, started: float, *, delta: bool = False) -> None:
        self._sender = sender
        self._started = _nanoseconds(started)
        self._delta = delta
        self._rows: dict[EntityKind, tuple[Row, ...]] = {}
        self._series: dict[Key, Series] = {}
        self._gone: dict[Key, Series] = {}

    def encode(self, snapshot: Snapshot) -> Batch:
        """Give the requests for a snapshot; once they are delivered, call the batch's `delivered`."""
        at = _nanoseconds(snapshot.time)
        since = {Since.GPUMON: self._started, Since.BOOT: _boot_time(snapshot) or at, Since.SOURCE: at}
        requests = _Requests(self._sender, self._delta)
        newest: dict[Key, Series] = {}
        counts: list[Count] = []
        for entity in snapshot.entities:
            key = (entity.kind, entity.labels)
            if key in newest:
                continue  # as /metrics has it: of entities with equal labels the first is meant
            known = self._series if key in self._series else self._gone
            series = newest[key] = known.pop(key) if key in known else Series(entity)
            rows = self._rows.get(entity.kind)
            if rows is None:
                rows = self._rows[entity.kind] = rows_of(entity.kind)
            for row in rows:
                value = entity.values[row.index]
                if value is None or not -inf < value < inf:  # what is not finite was no reading
                    continue
                start = 0
                if row.counter:
                    count = series.observe(row, since[row.since], at, value)
                    counts.append(count)
                    if self._delta and count.delivered_at == at:
                        continue
                    start, value = count.difference() if self._delta else (count.start, value)
                requests.add(row, series.attributes, start, at, value)
        self._keep(newest)
        return Batch(requests.serialize(), requests.items, delivered=lambda: deliver(counts))

    def _keep(self, newest: dict[Key, Series]) -> None:
        """Keep the newest series, and of those that are gone the counters, for they may come back (a GPU that hung)."""
        self._gone.update((key, series) for key, series in self._series.items() if series.counts)
        for key in list(self._gone)[: max(0, len(self._gone) - GONE_LIMIT)]:
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


class _Requests:
    """Collects points by metric, and begins another request when one is full."""

    def __init__(self, sender: Sender, delta: bool) -> None:
        self._sender = sender
        self._temporality = DELTA if delta else CUMULATIVE
        self._full: list[bytes] = []
        self.items = 0
        self._begin()

    def _begin(self) -> None:
        self._request = ExportMetricsServiceRequest()
        metrics = self._request.resource_metrics.add(resource=self._sender.resource)
        self._metrics = metrics.scope_metrics.add(scope=self._sender.scope).metrics
        self._points: dict[str, Callable[..., NumberDataPoint]] = {}

    def add(self, row: Row, attributes: bytes, start: int, at: int, value: float) -> None:
        """Add one point; `start` of 0 is none."""
        add = self._points.get(row.name) or self._declare(row)
        point = add(start_time_unix_nano=start, time_unix_nano=at, as_double=value / row.divisor)
        point.MergeFromString(attributes + row.attributes)
        self.items += 1
        if self.items % POINTS_PER_REQUEST == 0:
            self._full.append(self._request.SerializeToString())
            self._begin()

    def _declare(self, row: Row) -> Callable[..., NumberDataPoint]:
        reading = row.column.reading
        metric = self._metrics.add(name=row.name, unit=reading.otel_unit, description=reading.help)
        if row.counter:
            metric.sum.aggregation_temporality = self._temporality
            metric.sum.is_monotonic = True
            points = metric.sum.data_points
        elif reading.otel and reading.otel.additive:
            metric.sum.aggregation_temporality = CUMULATIVE
            points = metric.sum.data_points
        else:
            points = metric.gauge.data_points
        add = self._points[row.name] = points.add
        return add

    def serialize(self) -> tuple[bytes, ...]:
        """Give all requests, encoded."""
        rest = (self._request.SerializeToString(),) if self._points else ()
        return (*self._full, *rest)
