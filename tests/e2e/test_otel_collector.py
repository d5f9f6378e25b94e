"""A simulated node's readings arrive in an official OpenTelemetry Collector as /metrics has them.

Needs Go once, to build the collector (see tests/tools/otelcol.py); run by `make e2e`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from pathlib import Path
from typing import Any

import pytest
from tests.export.otlp_process import STARTED, TICKS, Gpumon, Series, label_set, page, until
from tests.llm import servers
from tests.tools import otelcol
from tests.tools.collector import Collector

from gpumon.catalog import KINDS, EntityKind, Reading

pytestmark = pytest.mark.e2e

UNITS = {"By": "bytes", "Cel": "celsius", "s": "seconds", "Hz": "hertz", "W": "watts", "J": "joules", "%": "percent"}
# What the parts of a histogram are called on a page.
PARTS = ("_bucket", "_count", "_sum")


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
        form = next(form for form in ("sum", "gauge", "histogram") if form in metric)
        for point in metric[form]["dataPoints"]:
            texts = {pair["key"]: "".join(pair["value"].values()) for pair in point.get("attributes", ())}
            key = metric["name"], label_set(texts)
            assert key not in found
            found[key] = {**point, "metric": metric, "form": form}
    return found


def value(found: dict[Series, dict[str, Any]], name: str) -> float | None:
    """Give the value of a metric that has one point without attributes."""
    point = found.get((name, frozenset()))
    return None if point is None else float(point["asDouble"])


def numbers(point: dict[str, Any]) -> Iterator[tuple[str, dict[str, str], float]]:
    """Give the numbers of a point as a page has them: what follows the name, a further label, and the number."""
    if point["form"] != "histogram":
        yield "", {}, float(point["asDouble"])
        return
    seen = 0
    for bound, count in zip((*point.get("explicitBounds", ()), inf), point["bucketCounts"], strict=True):
        seen += int(count)
        yield "_bucket", {"le": str(float(bound))}, seen
    assert int(point["count"]) == seen
    yield "_count", {}, seen
    yield "_sum", {}, float(point["sum"])


def flat(found: dict[Series, dict[str, Any]]) -> dict[Series, float]:
    """Give every number of what the collector wrote, with OpenTelemetry's names."""
    return {
        (name + suffix, attributes | label_set(more)): number
        for (name, attributes), point in found.items()
        for suffix, more, number in numbers(point)
    }


def translated(series: Series) -> tuple[Series, float]:
    """Give the OTLP name, attributes and divisor of a sample of /metrics, as the catalogue has it."""
    for kind in KINDS:
        for column in kind.columns:
            own = dict(zip(column.reading.labels, column.key, strict=True))
            found = _renamed(series, kind, column.reading, own, dict(column.attributes))
            if found is not None:
                return found, 1 / column.reading.otel.scale if column.reading.otel else 1.0
        for reading in kind.histograms:
            for suffix in PARTS:
                bound = {name: text for name, text in series[1] if name == "le"}
                found = _renamed(series, kind, reading, bound, bound, suffix)
                if found is not None:
                    return found, 1.0
    raise AssertionError(f"{series} is not in the catalogue")


def _renamed(
    series: Series, kind: EntityKind, reading: Reading, own: dict[str, str], becomes: dict[str, str], suffix: str = ""
) -> Series | None:
    """Give a sample's OTLP name and attributes if it is of that reading; `own` are the labels its kind does not have."""
    name, given = series[0], dict(series[1])
    labels = {label.name: label for label in kind.labels}
    rest = {key: text for key, text in given.items() if key not in own}
    if kind.metric(reading) + suffix != name or own.items() - given.items() or rest.keys() - labels.keys():
        return None
    attributes = {key: str(some) for label, text in rest.items() for key, some in labels[label].attributes(text)}
    return kind.otel_name(reading) + suffix, label_set(attributes | becomes)


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
        for suffix, more, number in numbers(point):
            result["_".join(filter(None, parts)) + suffix, label_set(labels | more)] = number
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


@pytest.fixture
def model_server() -> Iterator[dict[str, str]]:
    """Give the settings that make gpumon look at a model server, which answers with a page of vLLM's."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(servers.page("vllm-0.11"))
            else:
                self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield {
            "GPUMON_LLM_SERVERS": f"vllm=http://127.0.0.1:{server.server_port}",
            "GPUMON_LLM_POLL_INTERVAL_SECS": "1",
            "GPUMON_OLLAMA_ENABLED": "false",
        }
        server.shutdown()
        thread.join()


def same_snapshot(gpumon: Gpumon, collector: Collector) -> tuple[dict[Series, float], dict[Series, dict[str, Any]]]:
    """Give what /metrics served and what the collector wrote of one snapshot, told by its number.

    It is one in which the model server was looked at.
    """

    def look() -> Any:
        samples = gpumon.samples()
        ticks = samples.get(TICKS, 0)
        if ticks < 3 or not any(name == "gpumon_llm_time_to_first_token_seconds_bucket" for name, _ in samples):
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
    protocol: str, environ: dict[str, str], collector: Collector, model_server: dict[str, str], tmp_path: Path
) -> None:
    """Every sample of a page is a point of that snapshot with the same value and labels, and no point is more."""
    endpoint = f"http://127.0.0.1:{collector.grpc if protocol == 'grpc' else collector.http}"
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "NODE_NAME": "gpu-7", **environ, **model_server}
    with Gpumon(tmp_path, endpoint, **environ) as gpumon:
        samples, written = same_snapshot(gpumon, collector)
    assert len(samples) > 1000
    assert len({point["timeUnixNano"] for point in written.values()}) == 1
    numbers_of = flat(written)
    for series, sample in samples.items():
        if series[0] != "gpumon_snapshot_age_seconds":  # of the moment of the scrape; OTLP has time stamps
            key, divisor = translated(series)
            assert numbers_of.pop(key) == sample / divisor, series
    assert numbers_of == {}
    names = {
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.request.duration",
        "gen_ai.server.time_per_output_token",
    }
    histograms = [(name, point) for (name, _), point in written.items() if point["form"] == "histogram"]
    assert names <= {name for name, _ in histograms}
    assert {point["metric"]["histogram"]["aggregationTemporality"] for _, point in histograms} == {2}  # cumulative
    resource = collector.requests("resourceMetrics")[0]["resource"]["attributes"]
    attributes = {pair["key"]: pair["value"]["stringValue"] for pair in resource}
    assert attributes["service.name"] == "gpumon"
    assert attributes["host.name"] == attributes["k8s.node.name"] == "gpu-7"


def test_counters_have_starts_and_prometheus_gets_the_same_names(
    collector: Collector, model_server: dict[str, str], tmp_path: Path
) -> None:
    """What the collector makes of it for Prometheus has our own names where the conventions have none."""
    # Snapshots far enough apart to look at both pages in between.
    environ = {"GPUMON_SERVICE_POLL_INTERVAL_SECS": "5", **model_server}
    with Gpumon(tmp_path, f"http://127.0.0.1:{collector.grpc}", **environ) as gpumon:
        samples, written = same_snapshot(gpumon, collector)
        served = until(lambda: _if_ticks(exported(collector.prometheus), samples[TICKS]), "the same snapshot")
    assert served == by_prometheus_rules(written)
    ours = {
        kind.metric(reading) + suffix
        for kind in KINDS
        for reading in (*kind.readings, *kind.histograms)
        for suffix in (PARTS if reading in kind.histograms else ("",))
        if not reading.otel and kind.prefix is not None
    }
    assert "gpumon_llm_time_to_first_token_ms_bucket" in ours
    assert {name for name, _ in samples} & ours - {"gpumon_snapshot_age_seconds"} <= {name for name, _ in served}
    for point in written.values():
        if point["form"] == "histogram" or point["metric"].get("sum", {}).get("isMonotonic"):
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
