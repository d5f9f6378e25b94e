"""What OTLP's signals share, who sends, and what differs: their gRPC method and the message of their answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from gpumon.export.otlp_flow import Answer, RefusedError, Transport
from gpumon.export.otlp_target import GRPC, Target


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends, as every request says it."""

    resource: Resource
    scope: InstrumentationScope


@dataclass(frozen=True, slots=True)
class Signal:
    """One of OTLP's signals: its gRPC method, and how an answer says what was rejected and why."""

    method: str
    partial: Callable[[bytes], tuple[int, str]]

    def answer(self, body: bytes) -> Answer:
        """Read a collector's answer; raises RefusedError when it is none."""
        try:
            return Answer(*self.partial(body))
        except DecodeError:
            raise RefusedError("the answer is not OTLP", transient=False) from None


def _rejected_points(body: bytes) -> tuple[int, str]:
    partial = ExportMetricsServiceResponse.FromString(body).partial_success
    return partial.rejected_data_points, partial.error_message


def _rejected_spans(body: bytes) -> tuple[int, str]:
    partial = ExportTraceServiceResponse.FromString(body).partial_success
    return partial.rejected_spans, partial.error_message


SIGNALS = {
    "metrics": Signal("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export", _rejected_points),
    "traces": Signal("/opentelemetry.proto.collector.trace.v1.TraceService/Export", _rejected_spans),
}


def sender(attributes: Mapping[str, str], version: str) -> Sender:
    """Give who sends as OTLP's messages."""
    pairs = [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in attributes.items()]
    return Sender(Resource(attributes=pairs), InstrumentationScope(name="gpumon", version=version))


def transport(target: Target, signal: str) -> Transport:
    """Give what carries a signal's requests to a target."""
    # Each is imported only when it is used: grpc costs 9 MB resident, 2.4 of it anonymous.
    if target.protocol == GRPC:
        # Its core writes lines of its own to stderr when a peer leaves; gpumon says what is to be said.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        from gpumon.export.otlp_grpc import GrpcTransport

        return GrpcTransport(target, SIGNALS[signal])
    from gpumon.export.otlp_http import HttpTransport

    return HttpTransport(target, SIGNALS[signal])
