"""Spans as an OTLP request."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from gpumon.export.otlp_flow import Batch, Collect
from gpumon.export.otlp_signal import Sender
from gpumon.trace import Recorder, Span, Value


def finished(recorder: Recorder, sender: Sender) -> Collect:
    """Give what collects finished spans; those that could not be sent go first."""
    pushed_out = 0

    def collect(waiting: Batch | None) -> Batch | None:
        nonlocal pushed_out
        if waiting is not None:
            return waiting
        spans = recorder.drain()
        lost, pushed_out = recorder.pushed_out - pushed_out, recorder.pushed_out
        return Batch((encode(sender, spans),), len(spans), lost)

    return collect


def encode(sender: Sender, spans: Iterable[Span]) -> bytes:
    """Give the request for some spans, encoded."""
    request = ExportTraceServiceRequest()
    messages = request.resource_spans.add(resource=sender.resource).scope_spans.add(scope=sender.scope).spans
    for span in spans:
        message = messages.add(
            trace_id=span.context.trace_id,
            span_id=span.context.span_id,
            parent_span_id=span.parent.span_id if span.parent else b"",
            name=span.name,
            kind=trace_pb2.Span.SPAN_KIND_SERVER if span.server else trace_pb2.Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=span.start,
            end_time_unix_nano=span.end,
            attributes=[KeyValue(key=key, value=_any(value)) for key, value in span.attributes.items()],
        )
        if span.error is not None:
            message.status.code = trace_pb2.Status.STATUS_CODE_ERROR
            message.status.message = span.error
    return request.SerializeToString()


def _any(value: Value) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=value)
