"""Points put together into the requests a collector gets, none longer than a server takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric

from gpumon.catalog import Histogram
from gpumon.export.otlp_count import Value
from gpumon.export.otlp_series import Row
from gpumon.export.otlp_signal import Sender

CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
# gRPC servers take 4 MB unless told otherwise; the rest is for names and helps of metrics, 300 bytes each, and the resource.
BYTES_PER_REQUEST = 3_000_000
# A point without its attributes, and what a histogram's has besides: count and sum; bound and number of a bucket.
POINT_BYTES, HISTOGRAM_BYTES, BUCKET_BYTES = 32, 24, 16


class Requests:
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
        self._points: dict[str, Callable[..., Any]] = {}
        self._room = BYTES_PER_REQUEST

    def add(self, row: Row[float], attributes: bytes, start: int, at: int, value: float) -> None:
        """Add one point; `start` of 0 is none."""
        add = self._points.get(row.name) or self._declare_number(row)
        point = add(start_time_unix_nano=start, time_unix_nano=at, as_double=value / row.divisor)
        more = attributes + row.attributes
        point.MergeFromString(more)
        self._count(POINT_BYTES + len(more))

    def add_histogram(self, row: Row[Histogram], attributes: bytes, start: int, at: int, histogram: Histogram) -> None:
        """Add one point with a histogram's own bounds."""
        add = self._points.get(row.name) or self._declare_histogram(row)
        counts = [int(count) for count in histogram.counts]
        point = add(
            start_time_unix_nano=start,
            time_unix_nano=at,
            count=sum(counts),
            sum=histogram.sum,
            bucket_counts=counts,
            explicit_bounds=histogram.bounds,
        )
        more = attributes + row.attributes
        point.MergeFromString(more)
        self._count(POINT_BYTES + HISTOGRAM_BYTES + BUCKET_BYTES * len(counts) + len(more))

    def _count(self, size: int) -> None:
        self.items += 1
        self._room -= size
        if self._room <= 0:
            self._full.append(self._request.SerializeToString())
            self._begin()

    def _declare_number(self, row: Row[float]) -> Callable[..., Any]:
        reading = row.column.reading
        metric = self._declare(row)
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

    def _declare_histogram(self, row: Row[Histogram]) -> Callable[..., Any]:
        metric = self._declare(row)
        metric.histogram.aggregation_temporality = self._temporality
        add = self._points[row.name] = metric.histogram.data_points.add
        return add

    def _declare(self, row: Row[Value]) -> Metric:
        reading = row.column.reading
        return self._metrics.add(name=row.name, unit=reading.otel_unit, description=reading.help)

    def serialize(self) -> tuple[bytes, ...]:
        """Give all requests, encoded."""
        rest = (self._request.SerializeToString(),) if self._points else ()
        return (*self._full, *rest)
