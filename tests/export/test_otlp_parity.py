"""What goes out by OTLP and what /metrics serves are the same readings: value, labels and time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families
from tests.export import otlp_made as made
from tests.llm.servers import PAGES
from tests.node import Node

from gpumon.catalog import Entity, Histogram, Reading, Snapshot
from gpumon.export.otlp_metrics import Encoder
from gpumon.export.otlp_signal import sender
from gpumon.export.prometheus import Form, Renderer
from gpumon.llm.kinds import BY_NAME
from gpumon.llm.normal import NormalForm

Series = tuple[str, frozenset[tuple[str, str]]]


def scraped(snapshot: Snapshot) -> dict[Series, float]:
    """Give every sample of the page that a scraper gets."""
    page = b"".join(Renderer().render(snapshot.entities, Form.TEXT)).decode()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    found = {(sample.name, _labels(sample.labels)): sample.value for sample in samples}
    assert len(found) == len(samples)
    return found


def pushed(snapshot: Snapshot) -> dict[Series, tuple[float | Histogram, int]]:
    """Give value and time of every point that a collector gets."""
    batch = Encoder(sender({}, ""), made.START).encode(snapshot)
    found: dict[Series, tuple[float | Histogram, int]] = {}
    for body in batch.bodies:
        for metric in ExportMetricsServiceRequest.FromString(body).resource_metrics[0].scope_metrics[0].metrics:
            form = str(metric.WhichOneof("data"))
            for point in getattr(metric, form).data_points:
                key = metric.name, _labels({pair.key: made.text(pair.value) for pair in point.attributes})
                assert key not in found
                found[key] = _spread(point) if form == "histogram" else point.as_double, point.time_unix_nano
    return found


def _spread(point: Any) -> Histogram:
    assert point.count == sum(point.bucket_counts)
    return Histogram(tuple(point.explicit_bounds), tuple(point.bucket_counts), point.sum)


def _labels(pairs: dict[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in pairs.items() if value)  # an empty label is none


def names(entity: Entity, reading: Reading, key: tuple[str, ...] = ()) -> tuple[Series, Series]:
    """Give what one value is called on the page and in OTLP, as the catalogue's rows have it."""
    own = dict(zip(reading.labels, key, strict=True))
    label = {label.name: value for label, value in zip(entity.kind.labels, entity.labels, strict=True)}
    attributes = _labels(made.attributes(entity, reading, key))
    return (entity.kind.metric(reading), _labels(label | own)), (entity.kind.otel_name(reading), attributes)


def taken_from(page: dict[Series, float], series: Series) -> Histogram:
    """Take a histogram's samples from a page, and give it with what is in each bucket alone."""
    name, labels = series
    buckets = {}
    for key in [key for key in page if key[0] == f"{name}_bucket"]:
        rest = dict(key[1])
        bound = float(rest.pop("le"))
        if _labels(rest) == labels:
            buckets[bound] = page.pop(key)
    bounds = sorted(buckets)
    reached = [0.0, *(buckets[bound] for bound in bounds)]
    assert page.pop((f"{name}_count", labels)) == reached[-1]
    counts = tuple(count - before for before, count in pairwise(reached))
    return Histogram(tuple(bounds[:-1]), counts, page.pop((f"{name}_sum", labels)))


def assert_alike(snapshot: Snapshot) -> None:
    """Hold both outputs of a snapshot together, both ways."""
    page, points = scraped(snapshot), pushed(snapshot)
    at = int(snapshot.time * 1e9)
    for entity in snapshot.entities:
        for column, value in zip(entity.kind.columns, entity.values, strict=True):
            if value is not None:
                there, here = names(entity, column.reading, column.key)
                percent = column.reading.otel is not None and column.reading.otel.scale == 0.01
                assert page.pop(there) == value
                assert points.pop(here) == (value / 100 if percent else value, at)
        for reading, histogram in zip(entity.kind.histograms, entity.histograms, strict=False):
            if histogram is not None:
                there, here = names(entity, reading)
                assert taken_from(page, there) == histogram
                assert points.pop(here) == (histogram, at)
    assert page == {}
    assert points == {}


def test_every_reading_of_the_catalogue_is_in_both_outputs() -> None:
    """A snapshot that has everything the catalogue declares."""
    assert_alike(made.snapshot(7))


@pytest.mark.parametrize("profile", ["h100x8", "h100x2-mig", "rtx4090x1"])
def test_a_nodes_readings_are_in_both_outputs(profile: str) -> None:
    """What the real source gives of a simulated node, absent readings included, while time goes on."""
    with Node(profile) as node:
        for _ in range(3):
            assert_alike(node.tick())


@pytest.mark.parametrize("path", sorted(PAGES.glob("*.prom")), ids=lambda path: path.stem)
def test_a_model_servers_own_histograms_are_in_both_outputs(path: Path) -> None:
    """What is made of each kind's page, whatever bounds its server chose."""
    form = NormalForm(BY_NAME[path.stem.rpartition("-")[0]])
    entities = form.read(path.read_bytes(), "127.0.0.1:8000", "llama")
    assert entities
    assert_alike(Snapshot(made.START, 1.0, 1, entities))


def test_prometheus_names_are_those_of_metrics() -> None:
    """With `own`, each point has the labels of its sample, its value, and a name of which unit and type make the metric's."""
    snapshot = made.snapshot(7)
    batch = Encoder(sender({}, ""), made.START, own=True).encode(snapshot)
    page = scraped(snapshot)
    for body in batch.bodies:
        for metric in ExportMetricsServiceRequest.FromString(body).resource_metrics[0].scope_metrics[0].metrics:
            name = made.prometheus_name(metric)
            for point in getattr(metric, str(metric.WhichOneof("data"))).data_points:
                series = name, _labels({pair.key: made.text(pair.value) for pair in point.attributes})
                if metric.WhichOneof("data") == "histogram":
                    assert taken_from(page, series) == _spread(point)
                else:
                    assert page.pop(series) == point.as_double
    assert page == {}


def test_what_is_gone_is_in_neither_output() -> None:
    """The second snapshot has only what it has: nothing of the first remains."""
    whole = made.snapshot(1)
    subject, page = Encoder(sender({}, ""), made.START), Renderer()
    subject.encode(whole)
    list(page.render(whole.entities, Form.TEXT))
    rest = Snapshot(whole.time + 2, 2.0, 2, whole.entities[:1])
    assert subject.encode(rest).items == len(rest.entities[0].values)
    assert b"".join(page.render(rest.entities, Form.TEXT)).count(b"\n") == 3 * len(rest.entities[0].values)
