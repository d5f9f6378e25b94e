"""The export thread: it exports by itself, ends in time whatever the collector does, and costs nothing when off."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.export import otlp_made as made
from tests.export.otlp_receiver import Receiver, black_hole, logger, silence, unused_port

from gpumon.catalog import EXPORT, Snapshot
from gpumon.export import otlp
from gpumon.settings import Settings, Telemetry
from gpumon.trace import OFF, Recorder

# How long all of gpumon may take to end; its thread has to leave something to the rest.
END_SECS = 3.0


class Export:
    """A running export whose newest snapshot a test sets."""

    def __init__(self, endpoint: str, interval: float = 0.02, recorder: Any = OFF, **environ: str) -> None:
        self.latest: Snapshot | None = made.snapshot(1, devices=1)
        log, self.lines = logger()
        settings = Settings(telemetry=Telemetry(otlp_endpoint=endpoint, otlp_interval_secs=interval))
        started = otlp.start(
            settings,
            lambda: self.latest,
            environ=environ,
            version="1",
            started=made.START,
            logger=log,
            recorder=recorder,
        )
        assert started is not None
        self.otlp = started

    def stop(self) -> float:
        """End it and give the seconds that took."""
        began = time.monotonic()
        assert self.otlp.stop()
        return time.monotonic() - began


def times(request: Any) -> set[int]:
    """Give the times of a request's points."""
    metrics = request.resource_metrics[0].scope_metrics[0].metrics
    return {p.time_unix_nano for m in metrics for p in getattr(m, m.WhichOneof("data")).data_points}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Give a collector that takes everything."""
    with Receiver() as running:
        yield running


def test_snapshots_are_exported_as_they_come(receiver: Receiver) -> None:
    """Each newer snapshot goes out at the next interval with its own time, and how it fared is told."""
    export = Export(receiver.endpoint)
    for number in (1, 2, 5):
        export.latest = made.snapshot(number, devices=1)
        expected = {int(export.latest.time * 1e9)}
        while times(receiver.next()) != expected:
            pass
    export.stop()
    [entity] = export.otlp.entities()
    assert (entity.kind, entity.labels, entity["success"]) == (EXPORT, ("otlp",), 1)
    assert [line["event"] for line in export.lines] == ["otlp exports"]


def test_the_resource_is_sent(receiver: Receiver) -> None:
    """Who sends and what the environment adds to it is in every request."""
    export = Export(receiver.endpoint, OTEL_RESOURCE_ATTRIBUTES="team=vision", NODE_NAME="gpu-7")
    request = receiver.next()
    export.stop()
    attributes = {pair.key: pair.value.string_value for pair in request.resource_metrics[0].resource.attributes}
    assert attributes["service.name"] == "gpumon"
    assert attributes["team"] == "vision"
    assert attributes["host.name"] == attributes["k8s.node.name"] == "gpu-7"


def test_the_last_snapshot_is_flushed(receiver: Receiver) -> None:
    """What came since the last export goes out when gpumon ends."""
    export = Export(receiver.endpoint, interval=3600)
    export.stop()
    assert times(receiver.next()) == {int(made.snapshot(1).time * 1e9)}


def test_spans_go_out_by_the_same_thread(receiver: Receiver) -> None:
    """With a recorder, gpumon's own spans are sent, and the exports are among them."""
    recorder = Recorder()
    with recorder.span("tick", {"gpus": 8, "late": False, "load": 0.5, "source": "gpu"}) as tick:
        pass
    export = Export(receiver.endpoint, recorder=recorder)
    seen: dict[str, Any] = {}
    while not {"tick", "export"} <= seen.keys():
        request = receiver.next()
        if hasattr(request, "resource_spans"):
            seen |= {span.name: span for span in request.resource_spans[0].scope_spans[0].spans}
    export.stop()
    assert seen["tick"].trace_id == tick.context.trace_id
    assert seen["tick"].parent_span_id == b""
    assert {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in seen["tick"].attributes} == {
        "gpus": 8,
        "late": False,
        "load": 0.5,
        "source": "gpu",
    }
    assert {entity.labels for entity in export.otlp.entities()} == {("otlp",), ("otlp_traces",)}


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_it_ends_in_time_when_the_collector_is_silent(protocol: str) -> None:
    """An export under way is ended, one last flush is tried, and that is that."""
    with silence() as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        export = Export(endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
        taken, _ = listener.accept()  # an export is under way
        assert export.stop() < END_SECS
        listener.accept()[0].close()  # the last flush
        taken.close()


def test_it_ends_in_time_in_a_black_hole() -> None:
    """Nothing comes back at all."""
    with black_hole() as address:
        export = Export(f"http://{address}")
        while export.otlp._flows[0].due > time.monotonic():  # until the first export has begun
            threading.Event().wait(0.01)
        assert export.stop() < END_SECS


def test_it_ends_at_once_when_nobody_listens() -> None:
    """A refused connection needs no waiting for."""
    assert Export(f"http://127.0.0.1:{unused_port()}").stop() < 1


def test_no_endpoint_is_said_once_and_nothing_is_started() -> None:
    """Switched off, or with no collector named, there is no thread and one line."""
    threads = threading.active_count()
    for settings, environ, said in (
        (Settings(), {}, "otlp exports nothing"),
        (
            Settings(telemetry=Telemetry(enable_opentelemetry=False, otlp_endpoint="http://c:1")),
            {},
            "otlp is switched off",
        ),
        (
            Settings(telemetry=Telemetry(otlp_endpoint="http://c:1")),
            {"OTEL_SDK_DISABLED": "true"},
            "otlp is switched off",
        ),
    ):
        log, lines = logger()
        nothing = otlp.start(
            settings, lambda: None, environ=environ, version="1", started=0.0, logger=log, recorder=OFF
        )
        assert nothing is None
        assert [line["event"] for line in lines] == [said]
    assert threading.active_count() == threads


def child(endpoint: str, environ: dict[str, str]) -> str:
    """Run a Python that starts and ends an export, and give what it has imported."""
    code = f"""
        import sys, structlog
        from gpumon.export import otlp
        from gpumon.settings import Settings, Telemetry
        from gpumon.trace import OFF
        settings = Settings(telemetry=Telemetry(otlp_endpoint={endpoint!r}))
        running = otlp.start(settings, lambda: None, environ={environ!r}, version="1", started=0.0,
                             logger=structlog.wrap_logger(structlog.PrintLogger(sys.stderr)), recorder=OFF)
        print(sorted({{"grpc", "opentelemetry", "google"}} & set(sys.modules)))
        if running is not None:
            running.stop()
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return done.stdout.strip()


def test_off_imports_neither_grpc_nor_opentelemetry() -> None:
    """Without a collector they cost nothing; by HTTP grpc costs nothing."""
    assert child("", {}) == "[]"
    assert (
        child("http://127.0.0.1:1", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}) == "['google', 'opentelemetry']"
    )
    assert child("http://127.0.0.1:1", {}) == "['google', 'grpc', 'opentelemetry']"
