"""The service with a collector that is of no use: it samples, serves and ends as if there were none."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.export.otlp_process import STARTED, TICKS, Gpumon, until
from tests.export.otlp_receiver import black_hole, silence, unused_port

SUCCESS = ("gpumon_export_success", frozenset({("exporter", "otlp")}))
POLL_SECS, TIMEOUT_SECS = 0.5, 1.0


def serve_and_end(folder: Path, endpoint: str, protocol: str = "grpc") -> None:
    """Hold a service to what it promises while its exports fail, and when it ends during one."""
    environ = {
        "GPUMON_SERVICE_POLL_INTERVAL_SECS": str(POLL_SECS),
        "OTEL_EXPORTER_OTLP_TIMEOUT": str(int(1000 * TIMEOUT_SECS)),
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
    }
    with Gpumon(folder, endpoint, **environ) as gpumon:
        until(lambda: gpumon.samples().get(SUCCESS) == 0, "an export that failed")
        before = gpumon.samples()[TICKS]
        began = time.monotonic()
        until(lambda: gpumon.samples().get(TICKS, 0) >= before + 4, "four more snapshots")
        assert time.monotonic() - began < 4 * TIMEOUT_SECS  # what they would take if exports held them up
        assert gpumon.stop() < 3
    assert gpumon.events() == [*STARTED, "export fails", "stopped"]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_black_hole_holds_nothing_up(protocol: str, tmp_path: Path) -> None:
    """Ticks come on time, scrapes are answered, one line is logged, and SIGTERM ends it within 3 s."""
    with black_hole() as address:
        serve_and_end(tmp_path, f"http://{address}", protocol)


def test_a_silent_collector_holds_nothing_up(tmp_path: Path) -> None:
    """The same when it takes the connection and says nothing."""
    with silence() as listener:
        serve_and_end(tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}")


def test_an_absent_collector_holds_nothing_up(tmp_path: Path) -> None:
    """The same when nobody listens, and when the name does not resolve."""
    serve_and_end(tmp_path, f"http://127.0.0.1:{unused_port()}")
    serve_and_end(tmp_path, "http://collector.invalid:4317")


def test_a_wrong_variable_stops_the_start(tmp_path: Path) -> None:
    """One sentence names the variable, its value and what is allowed."""
    with Gpumon(tmp_path, "http://127.0.0.1:4317", OTEL_EXPORTER_OTLP_COMPRESSION="zip") as gpumon:
        assert gpumon.process.wait(20) != 0
    said = gpumon.log.read_text().splitlines()[-1]
    assert said == "gpumon: OTEL_EXPORTER_OTLP_COMPRESSION is 'zip'; allowed are none, gzip."
