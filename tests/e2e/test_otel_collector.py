"""A simulated node's readings arrive in an official OpenTelemetry Collector as /metrics has them.

Needs Go once, to build the collector (see tests/tools/otelcol.py); run by `make e2e`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.export.otlp_process import ROOT, STARTED, TICKS, Gpumon, Series, free_port, label_set, page, until
from tests.tools import otelcol

from gpumon.catalog import KINDS

pytestmark = pytest.mark.e2e

CONFIG = ROOT / "examples" / "otel-collector" / "config.yaml"
UNITS = {"By": "bytes", "Cel": "celsius", "s": "seconds", "Hz": "hertz", "W": "watts", "J": "joules", "%": "percent"}


class Collector:
    """A collector with the example's configuration, at ports of its own."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary = binary
        self.file = folder / "otlp.jsonl"
        self.grpc, self.http, self.prometheus = free_port(), free_port(), free_port()
        self.log = folder / "otelcol.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        environ = os.environ | {
            "OTLP_GRPC_ENDPOINT": f"127.0.0.1:{self.grpc}",
            "OTLP_HTTP_ENDPOINT": f"127.0.0.1:{self.http}",
            "PROMETHEUS_ENDPOINT": f"127.0.0.1:{self.prometheus}",
            "OTLP_FILE": str(self.file),
            "RESOURCE_LABELS": "false",
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([self._binary, "--config", CONFIG], env=environ, stdout=log, stderr=log)
        until(lambda: _listening(self.grpc) and _listening(self.http), f"the collector: {self.log.read_text()}")

    def stop(self) -> None:
        """End it; what it has is written."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def requests(self, kind: str) -> list[Any]:
        """Give the resourceMetrics or resourceSpans received, oldest first."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        found = []
        for line in lines:
            try:
                found += json.loads(line).get(kind, [])
            except json.JSONDecodeError:
                pass  # the last one is being written
        return found


def _listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def exported(port: int) -> dict[Series, float]:
    """Give the samples of the collector's page without the labels that it adds itself."""
    added = {"instance", "job", "otel_scope_name", "otel_scope_version", "otel_scope_schema_url"}
    samples = {
        (name, frozenset((key, text) for key, text in labels if key not in added)): number
        for (name, labels), number in page(port).items()
    }
    return {series: number for series, number in samples.items() if series[0] != "target_info"}


def points(resource_metrics: Any) -> dict[Series, dict[str, Any]]:
    """Give the points of what the collector wrote, with the metric they belong to."""
    found: dict[Series, dict[str, Any]] = {}
    for metric in resource_metrics["scopeMetrics"][0]["metrics"]:
        form = "sum" if "sum" in metric else "gauge"
        for point in metric[form]["dataPoints"]:
            key = metric["name"], label_set({a["key"]: a["value"]["stringValue"] for a in point.get("attributes", ())})
            assert key not in found
            found[key] = {**point, "metric": metric, "form": form}
    return found


def value(found: dict[Series, dict[str, Any]], name: str) -> float | None:
    """Give the value of a metric that has one point without attributes."""
    point = found.get((name, frozenset()))
    return None if point is None else float(point["asDouble"])


def translated(series: Series) -> tuple[Series, float]:
    """Give the OTLP name, attributes and divisor of a sample of /metrics, as the catalogue has it."""
    name, labels = series
    given = dict(labels)
    for kind in KINDS:
        attribute = {label.name: label.attribute for label in kind.labels}
        for column in kind.columns:
            own = dict(zip(column.reading.labels, column.key, strict=True))
            rest = {key: text for key, text in given.items() if key not in own}
            if kind.metric(column.reading) != name or own.items() - given.items() or rest.keys() - attribute.keys():
                continue
            attributes = {attribute[key]: text for key, text in rest.items()} | dict(column.attributes)
            divisor = 1 / column.reading.otel.scale if column.reading.otel else 1.0
            return (kind.otel_name(column.reading), label_set(attributes)), divisor
    raise AssertionError(f"{series} is not in the catalogue")


def by_prometheus_rules(found: dict[Series, dict[str, Any]]) -> dict[Series, float]:
    """Give what a Prometheus exporter makes of points: names with unit and type, attributes as labels."""
    result = {}
    for (name, attributes), point in found.items():
        metric = point["metric"]
        unit = UNITS.get(metric.get("unit", ""), "")
        monotonic = metric.get("sum", {}).get("isMonotonic", False)
        ratio = metric.get("unit") == "1" and point["form"] == "gauge"
        parts = [name.replace(".", "_"), unit, "ratio" if ratio else "", "total" if monotonic else ""]
        labels = {key.replace(".", "_"): text for key, text in attributes}
        result["_".join(filter(None, parts)), label_set(labels)] = float(point["asDouble"])
    return result


@pytest.fixture(scope="session")
def binary() -> Path:
    """Give the collector's binary."""
    try:
        return otelcol.build()
    except RuntimeError as error:
        pytest.skip(f"NOT TESTED against a real collector: {error}")


@pytest.fixture
def collector(binary: Path, tmp_path: Path) -> Iterator[Collector]:
    """Give a running collector."""
    running = Collector(binary, tmp_path)
    running.start()
    yield running
    running.stop()


def same_snapshot(gpumon: Gpumon, collector: Collector) -> tuple[dict[Series, float], dict[Series, dict[str, Any]]]:
    """Give what /metrics served and what the collector wrote of one snapshot, told by its number."""

    def look() -> Any:
        samples = gpumon.samples()
        ticks = samples.get(TICKS, 0)
        if ticks < 3:
            return None

        def written() -> Any:
            requests = map(points, collector.requests("resourceMetrics"))
            return [each for each in requests if value(each, "gpumon.ticks") == ticks]

        return samples, until(written, f"snapshot {ticks}")[0]

    return until(look, "a third snapshot")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("protocol", "environ"),
    [
        ("grpc", {}),
        ("grpc", {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}),
        ("http/protobuf", {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}),
    ],
)
def test_the_collector_has_what_metrics_says(
    protocol: str, environ: dict[str, str], collector: Collector, tmp_path: Path
) -> None:
    """Every sample of a page is a point of that snapshot with the same value and labels, and no point is more."""
    endpoint = f"http://127.0.0.1:{collector.grpc if protocol == 'grpc' else collector.http}"
    with Gpumon(tmp_path, endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, NODE_NAME="gpu-7", **environ) as gpumon:
        samples, written = same_snapshot(gpumon, collector)
    assert len(samples) > 1000
    assert len({point["timeUnixNano"] for point in written.values()}) == 1
    for series, sample in samples.items():
        if series[0] != "gpumon_snapshot_age_seconds":  # of the moment of the scrape; OTLP has time stamps
            key, divisor = translated(series)
            assert float(written.pop(key)["asDouble"]) == sample / divisor, series
    assert written == {}
    resource = collector.requests("resourceMetrics")[0]["resource"]["attributes"]
    attributes = {pair["key"]: pair["value"]["stringValue"] for pair in resource}
    assert attributes["service.name"] == "gpumon"
    assert attributes["host.name"] == attributes["k8s.node.name"] == "gpu-7"


def test_counters_have_starts_and_prometheus_gets_the_same_names(collector: Collector, tmp_path: Path) -> None:
    """What the collector makes of it for Prometheus has our own names where the conventions have none."""
    # Snapshots far enough apart to look at both pages in between.
    poll = {"GPUMON_SERVICE_POLL_INTERVAL_SECS": "5"}
    with Gpumon(tmp_path, f"http://127.0.0.1:{collector.grpc}", **poll) as gpumon:
        samples, written = same_snapshot(gpumon, collector)
        served = until(lambda: _if_ticks(exported(collector.prometheus), samples[TICKS]), "the same snapshot")
    assert served == by_prometheus_rules(written)
    ours = {
        kind.metric(reading)
        for kind in KINDS
        for reading in kind.readings
        if not reading.otel and kind.prefix is not None
    }
    assert {name for name, _ in samples} & ours - {"gpumon_snapshot_age_seconds"} <= {name for name, _ in served}
    for point in written.values():
        if point["metric"].get("sum", {}).get("isMonotonic"):
            assert 0 < int(point["startTimeUnixNano"]) <= int(point["timeUnixNano"])


def _if_ticks(samples: dict[Series, float], ticks: float) -> dict[Series, float] | None:
    return samples if samples.get(TICKS) == ticks else None


def test_a_restart_of_the_collector_is_survived(collector: Collector, tmp_path: Path) -> None:
    """That exports fail and that they work again is told once, on /metrics as in the log; nothing else is said."""
    success = ("gpumon_export_success", frozenset({("exporter", "otlp")}))
    with Gpumon(tmp_path, f"http://127.0.0.1:{collector.grpc}") as gpumon:
        until(lambda: gpumon.samples().get(success) == 1, "a first export")
        collector.stop()
        until(lambda: gpumon.samples().get(success) == 0, "a failure")
        collector.start()
        until(lambda: gpumon.samples().get(success) == 1, "an export after the restart")
        assert gpumon.stop() < 3
    assert gpumon.events() == [*STARTED, "export fails", "export works again", "stopped"]
    written = [value(points(each), "gpumon.ticks") for each in collector.requests("resourceMetrics")]
    assert written == sorted(set(written)), "a snapshot was sent twice, or an older one after a newer"


def test_the_last_snapshot_and_the_spans_arrive(collector: Collector, tmp_path: Path) -> None:
    """SIGTERM sends what came last; with traces on, devices belong to sources, and these to ticks."""
    environ = {"GPUMON_TELEMETRY_OTLP_TRACES": "true", "GPUMON_TELEMETRY_OTLP_INTERVAL_SECS": "3600"}
    with Gpumon(tmp_path, f"http://127.0.0.1:{collector.grpc}", **environ) as gpumon:
        until(lambda: gpumon.samples().get(TICKS, 0) >= 2, "a second snapshot")
        assert gpumon.stop() < 3
    spans = until(lambda: collector.requests("resourceSpans"), "spans")[0]["scopeSpans"][0]["spans"]
    [request] = until(lambda: collector.requests("resourceMetrics"), "readings")
    assert (value(points(request), "gpumon.ticks") or 0) >= 2
    by_id = {span["spanId"]: span for span in spans}
    parents = {(span["name"], by_id.get(span.get("parentSpanId", ""), {}).get("name")) for span in spans}
    assert {("tick", None), ("source", "tick"), ("device", "source")} <= parents
