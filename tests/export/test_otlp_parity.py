"""What goes out by OTLP and what /metrics serves are the same readings: value, labels and time."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families
from tests.export import otlp_made as made
from tests.node import Node

from gpumon.catalog import Entity, Snapshot
from gpumon.export.otlp_metrics import Encoder
from gpumon.export.otlp_signal import sender
from gpumon.export.prometheus import Form, Renderer

Series = tuple[str, frozenset[tuple[str, str]]]


def scraped(snapshot: Snapshot) -> dict[Series, float]:
    """Give every sample of the page that a scraper gets."""
    page = b"".join(Renderer().render(snapshot.entities, Form.TEXT)).decode()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    found = {(sample.name, _labels(sample.labels)): sample.value for sample in samples}
    assert len(found) == len(samples)
    return found


def pushed(snapshot: Snapshot) -> dict[Series, tuple[float, int]]:
    """Give value and time of every point that a collector gets."""
    batch = Encoder(sender({}, ""), made.START).encode(snapshot)
    found: dict[Series, tuple[float, int]] = {}
    for body in batch.bodies:
        for metric in ExportMetricsServiceRequest.FromString(body).resource_metrics[0].scope_metrics[0].metrics:
            for point in getattr(metric, metric.WhichOneof("data")).data_points:
                key = metric.name, _labels({pair.key: pair.value.string_value for pair in point.attributes})
                assert key not in found
                found[key] = point.as_double, point.time_unix_nano
    return found


def _labels(pairs: dict[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in pairs.items() if value)  # an empty label is none


def names(entity: Entity, index: int) -> tuple[Series, Series]:
    """Give what one value is called on the page and in OTLP, as the catalogue's rows have it."""
    column = entity.kind.columns[index]
    reading = column.reading
    own = dict(zip(reading.labels, column.key, strict=True))
    label = {label.name: value for label, value in zip(entity.kind.labels, entity.labels, strict=True)}
    attribute = {
        label.otel or label.name: value for label, value in zip(entity.kind.labels, entity.labels, strict=True)
    }
    renamed = dict(reading.otel.labels) if reading.otel else {}
    attribute |= {renamed.get(name, name): value for name, value in own.items()}
    attribute |= dict(reading.otel.attributes) if reading.otel else {}
    return (entity.kind.metric(reading), _labels(label | own)), (entity.kind.otel_name(reading), _labels(attribute))


def assert_alike(snapshot: Snapshot) -> None:
    """Hold both outputs of a snapshot together, both ways."""
    page, points = scraped(snapshot), pushed(snapshot)
    for entity in snapshot.entities:
        for index, value in enumerate(entity.values):
            if value is not None:
                there, here = names(entity, index)
                otel = entity.kind.columns[index].reading.otel
                percent = otel is not None and otel.scale == 0.01
                assert page.pop(there) == value
                assert points.pop(here) == (value / 100 if percent else value, int(snapshot.time * 1e9))
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


def test_what_is_gone_is_in_neither_output() -> None:
    """The second snapshot has only what it has: nothing of the first remains."""
    whole = made.snapshot(1)
    subject, page = Encoder(sender({}, ""), made.START), Renderer()
    subject.encode(whole)
    list(page.render(whole.entities, Form.TEXT))
    rest = Snapshot(whole.time + 2, 2.0, 2, whole.entities[:1])
    assert subject.encode(rest).items == len(rest.entities[0].values)
    assert b"".join(page.render(rest.entities, Form.TEXT)).count(b"\n") == 3 * len(rest.entities[0].values)
