"""Whatever a collector does: nothing is sent twice that is not newest, memory is bounded, and it is told once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from tests.export import otlp_made as made
from tests.export.otlp_receiver import Receiver, black_hole, logger, passing_on, silence, unused_port

from gpumon.catalog import Snapshot
from gpumon.export.otlp_flow import LONGEST_PAUSE, Batch, Flow
from gpumon.export.otlp_metrics import Encoder, newest
from gpumon.export.otlp_signal import sender, transport
from gpumon.export.otlp_target import resolve
from gpumon.log import Onsets

INTERVAL = 10.0


class Bench:
    """A flow of metrics with a clock, a newest snapshot and a log of its own."""

    def __init__(self, endpoint: str, timeout: float = 5.0, **environ: str) -> None:
        self.now = 1000.0
        self.number = 1
        log, self.lines = logger()
        target = resolve("metrics", endpoint, environ)
        assert target is not None
        encoder = Encoder(sender({"service.name": "gpumon"}, "1"), made.START)
        self.flow = Flow(
            "otlp",
            transport(target, "metrics"),
            newest(self.latest, encoder, 6.0, monotonic=lambda: 0.0),
            interval=INTERVAL,
            timeout=timeout,
            onsets=Onsets(log),
            chance=random.Random(1),
            clock=lambda: self.now,
        )

    def latest(self) -> Snapshot:
        """Give the newest snapshot."""
        return made.snapshot(self.number, devices=1)

    def export(self) -> float | None:
        """Export, and give the success that is told of it."""
        self.flow.export()
        return self.flow.entity["success"]

    @property
    def pause(self) -> float:
        """Give the seconds until the next export."""
        return self.flow.due - self.now

    @property
    def said(self) -> list[str]:
        """Give what was logged."""
        return [line["event"] for line in self.lines]


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Give benches whose connections are closed afterwards."""
    made_here: list[Bench] = []

    def make(endpoint: str, **kwargs: Any) -> Bench:
        made_here.append(Bench(endpoint, **kwargs))
        return made_here[-1]

    yield make
    for each in made_here:
        each.flow.close()


def points(request: Any) -> int:
    """Give how many points a request holds."""
    return sum(
        len(getattr(metric, metric.WhichOneof("data")).data_points)
        for metric in request.resource_metrics[0].scope_metrics[0].metrics
    )


def number(request: Any) -> float:
    """Give the number of the snapshot a request was made of."""
    first = request.resource_metrics[0].scope_metrics[0].metrics[0]
    time = getattr(first, first.WhichOneof("data")).data_points[0].time_unix_nano
    return (time / 1e9 - made.START) / 2


def abort(code: grpc.StatusCode, details: str = "") -> Callable[[grpc.ServicerContext], bytes]:
    """Give an answer that is an error."""

    def answer(context: grpc.ServicerContext) -> bytes:
        context.abort(code, details)
        raise AssertionError

    return answer


def test_an_export_arrives_and_is_told_of(bench: Callable[..., Bench]) -> None:
    """The collector has the snapshot; success is 1, and the next export is an interval away."""
    with Receiver() as receiver:
        subject = bench(receiver.endpoint)
        assert 0 <= subject.pause <= INTERVAL
        assert subject.flow.entity["success"] is None
        assert subject.export() == 1
        assert number(receiver.next()) == 1
        assert subject.pause == INTERVAL
        assert subject.flow.entity["duration_seconds"] == 0
        assert subject.said == []


def test_no_snapshot_twice(bench: Callable[..., Bench]) -> None:
    """While nothing new is sampled nothing is sent, and what was said of the last export stays."""
    with Receiver() as receiver:
        subject = bench(receiver.endpoint)
        assert subject.export() == subject.export() == 1
        assert len(receiver.taken()) == 1


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_refused_connections_fail_at_once(bench: Callable[..., Bench], protocol: str) -> None:
    """Nobody listens: a failure, its reason once in the log, and a pause that doubles with jitter up to a minute."""
    subject = bench(f"http://127.0.0.1:{unused_port()}", OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    for attempt in range(12):
        assert subject.export() == 0
        assert subject.flow.entity["failures_total"] == attempt + 1
        assert 0.8 <= subject.pause / min(2.0**attempt, LONGEST_PAUSE) <= 1.2
    assert subject.said == ["export fails"]
    assert "efused" in subject.lines[0]["reason"]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_black_hole_costs_the_time_out(bench: Callable[..., Bench], protocol: str) -> None:
    """Packets vanish: the export fails after its time-out."""
    with black_hole() as address:
        subject = bench(f"http://{address}", timeout=0.2, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
        assert subject.export() == 0


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_silent_collector_costs_the_time_out(bench: Callable[..., Bench], protocol: str) -> None:
    """It takes the connection and never answers."""
    with silence() as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        subject = bench(endpoint, timeout=0.2, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
        assert subject.export() == 0


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_name_that_does_not_resolve_fails(bench: Callable[..., Bench], protocol: str) -> None:
    """RFC 6761 keeps .invalid from ever resolving."""
    subject = bench("http://collector.invalid:4317", OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    assert subject.export() == 0
    assert subject.said == ["export fails"]


def test_a_slow_collector_is_waited_for_only_so_long(bench: Callable[..., Bench]) -> None:
    """An answer that takes longer than the time-out is a failure, and the next export connects anew."""
    gate = threading.Event()

    def answer(context: grpc.ServicerContext) -> bytes:
        gate.wait(5)
        return b""

    with Receiver(answer) as receiver:
        subject = bench(receiver.endpoint, timeout=0.2)
        assert subject.export() == 0
        assert subject.lines[0]["reason"].startswith("DEADLINE_EXCEEDED")
        gate.set()
        assert subject.export() == 1


def test_after_a_failure_only_the_newest_is_sent(bench: Callable[..., Bench]) -> None:
    """What failed is sent again while it is the newest; given up for a newer one, its points are counted as dropped."""
    with Receiver(abort(grpc.StatusCode.UNAVAILABLE, "later")) as receiver:
        subject = bench(receiver.endpoint)
        subject.export()
        subject.export()
        assert [number(request) for request in receiver.taken()] == [1, 1]
        assert subject.flow.entity["dropped_total"] == 0
        subject.number = 4
        receiver.answer = lambda context: b""
        assert subject.export() == 1
        [request] = receiver.taken()
        assert number(request) == 4
        assert subject.flow.entity["dropped_total"] == points(request)
        assert subject.flow.entity["failures_total"] == 2
        assert subject.said == ["export fails", "export works again"]


def test_a_restarting_collector_is_found_again(bench: Callable[..., Bench]) -> None:
    """It goes and comes back at the same address: one line each, and the flow goes on."""
    with Receiver() as receiver:
        subject = bench(receiver.endpoint)
        assert subject.export() == 1
    for attempt in range(2, 5):
        subject.number = attempt
        assert subject.export() == 0
    with Receiver(port=receiver.port) as again:
        subject.number = 9
        assert subject.export() == 1
        assert number(again.next()) == 9
    assert subject.said == ["export fails", "export works again"]


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # without a word on when to come back
    ],
)
def test_what_is_refused_for_good_is_not_sent_again(bench: Callable[..., Bench], code: grpc.StatusCode) -> None:
    """An error that a repetition does not heal drops the snapshot; the next one is tried an interval later."""
    with Receiver(abort(code, "no")) as receiver:
        subject = bench(receiver.endpoint)
        subject.export()
        assert subject.flow.entity["dropped_total"] == points(receiver.next())
        assert subject.pause >= 0.8 * INTERVAL
        subject.export()
        assert receiver.taken() == []
        assert subject.lines[0]["reason"] == f"{code.name}: no"


def test_a_collector_that_asks_for_a_pause_gets_it(bench: Callable[..., Bench]) -> None:
    """RESOURCE_EXHAUSTED with google.rpc.RetryInfo: the pause is what it says, and the snapshot may be sent again."""

    def answer(context: grpc.ServicerContext) -> bytes:
        retry, detail = RetryInfo(), AnyMessage()
        retry.retry_delay.seconds = 30
        detail.Pack(retry)
        status = Status(code=8, message="full", details=[detail])
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        raise AssertionError

    with Receiver(answer) as receiver:
        subject = bench(receiver.endpoint)
        subject.export()
        assert 0.8 * 30 <= subject.pause <= 1.2 * 30
        receiver.answer = lambda context: b""
        assert subject.export() == 1
        assert [number(request) for request in receiver.taken()] == [1, 1]


def test_what_is_partly_rejected_is_counted_and_said_once(bench: Callable[..., Bench]) -> None:
    """A partial success is a success; the rejected points are dropped, the reason is logged once, and its end."""
    response = ExportMetricsServiceResponse()
    response.partial_success.rejected_data_points = 5
    response.partial_success.error_message = "too old"
    with Receiver(lambda context: response.SerializeToString()) as receiver:
        subject = bench(receiver.endpoint)
        for subject.number in (1, 2, 3):
            assert subject.export() == 1
        assert subject.flow.entity["dropped_total"] == 15
        assert subject.flow.entity["failures_total"] == 0
        assert subject.said == ["collector complains"]
        assert subject.lines[0]["reason"] == "too old"
        receiver.answer = lambda context: b""
        subject.number = 4
        subject.export()
        assert subject.said == ["collector complains", "collector takes everything again"]


def test_an_answer_that_is_no_otlp_is_a_failure(bench: Callable[..., Bench]) -> None:
    """Something else listens there."""
    with Receiver(lambda context: b"<html>") as receiver:
        subject = bench(receiver.endpoint)
        assert subject.export() == 0
        assert subject.lines[0]["reason"] == "the answer is not OTLP"


def test_a_defect_is_told_and_does_not_end_the_flow(bench: Callable[..., Bench]) -> None:
    """An exception nobody foresaw counts as a failure with its name; the next export is tried."""
    subject = bench("http://127.0.0.1:1")

    def broken(waiting: Batch | None) -> Batch | None:
        raise ZeroDivisionError("oops")

    subject.flow._collect = broken
    assert subject.export() == 0
    assert subject.lines[0]["reason"] == "ZeroDivisionError: oops"


def test_headers_and_tls_reach_the_collector(bench: Callable[..., Bench], tmp_path: Path) -> None:
    """The standard variables work against a server that demands a client certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    client = authority.issue_cert("gpumon.test")
    client.private_key_pem.write_to_path(tmp_path / "key.pem")
    client.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    server = authority.issue_cert("localhost", "127.0.0.1")
    credentials = grpc.ssl_server_credentials(
        [(server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())], authority.cert_pem.bytes(), True
    )
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20token",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.pem"),
    }
    with Receiver(credentials=credentials) as receiver:
        endpoint = receiver.endpoint.replace("http:", "https:")
        assert bench(endpoint, **environ).export() == 0  # no client certificate
        environ["OTEL_EXPORTER_OTLP_CLIENT_KEY"] = str(tmp_path / "key.pem")
        environ["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"] = str(tmp_path / "cert.pem")
        assert bench(endpoint, **environ).export() == 1
        assert receiver.metadata["authorization"] == "Bearer token"
        missing = bench(endpoint, **(environ | {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "none.pem")}))
        assert missing.export() == 0
        assert missing.lines[0]["reason"] == f"cannot read {tmp_path}/none.pem: No such file or directory"


@pytest.mark.parametrize(("compression", "most"), [("none", 1.2), ("gzip", 0.33)])
def test_compression_makes_requests_small(bench: Callable[..., Bench], compression: str, most: float) -> None:
    """With gzip a request takes a third of its bytes at most on the way, and arrives whole."""
    with Receiver() as receiver, passing_on(receiver.port) as (port, count):
        subject = bench(f"http://127.0.0.1:{port}", OTEL_EXPORTER_OTLP_COMPRESSION=compression)
        assert subject.export() == 1
        subject.flow.close()
        assert 0 < sum(count) < most * receiver.next().ByteSize()


def test_memory_stays_flat_over_a_thousand_exports_to_nobody(bench: Callable[..., Bench]) -> None:
    """A dead collector costs no memory: after 1,000 exports within 1 MB of what it was after 200."""
    subject = bench(f"http://127.0.0.1:{unused_port()}")

    def anonymous() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    for subject.number in range(1, 201):
        assert subject.export() == 0
    before = anonymous()
    for subject.number in range(201, 1001):
        subject.export()
    assert anonymous() - before < 1024
    assert subject.said == ["export fails"]
