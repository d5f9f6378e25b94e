"""Snapshots made from the catalogue: every kind and every column has a value."""

from __future__ import annotations

import time
from typing import Any

from gpumon.catalog import AGE, KINDS, Entity, EntityKind, Histogram, Reading, Snapshot

START = 1_790_000_000.0
GPU_COUNT = 8


def label_value(kind: EntityKind, label: str, device: int) -> str:
    """Give a value for a label that tells devices, and parts of a device, apart."""
    return {
        "gpu_id": str(device),
        "gpu_name": "NVIDIA H100 80GB HBM3",
        "gpu_uuid": f"GPU-{device:08d}-0000-0000-0000-000000000000",
        "mig_uuid": f"MIG-{device:08d}-0000-0000-0000-000000000000",
        "server": "127.0.0.1:11434",
    }.get(label, f"{label} of {kind.name}")


def entity(kind: EntityKind, device: int, number: int) -> Entity:
    """Give one entity; a counter grows by one from snapshot to snapshot, a gauge stays between 0 and 1."""
    labels = tuple(label_value(kind, label.name, device) for label in kind.labels)
    values = tuple(
        float(1000 * device + index + number) if column.reading.counter else (device * 10 + index) / 1000
        for index, column in enumerate(kind.columns)
    )
    return Entity(kind, labels, values, tuple(histogram(kind, index, number) for index in range(len(kind.histograms))))


def histogram(kind: EntityKind, index: int, number: int) -> Histogram:
    """Give a histogram with its reading's bounds, else others; one more is in its first bucket at every snapshot."""
    bounds = kind.histograms[index].buckets or (0.5, 2.0)
    counts = (float(number), *(float(index + place) for place in range(len(bounds))))
    return Histogram(bounds, counts, number + sum(counts) / 8)


def snapshot(number: int = 1, *, devices: int = GPU_COUNT, interval: float = 2.0) -> Snapshot:
    """Give a snapshot of everything in the catalogue, for so many devices; AGE belongs to the moment of a scrape."""
    entities = []
    for kind in KINDS:
        if kind is not AGE:
            count = devices if any(label.name == "gpu_id" for label in kind.labels) else 1
            entities.extend(entity(kind, device, number) for device in range(count))
    return Snapshot(START + number * interval, time.monotonic(), number, tuple(entities))


def text(value: Any) -> str:
    """Give an attribute's value as text, whatever it is."""
    return str(getattr(value, value.WhichOneof("value")))


# Unit suffixes of a collector's Prometheus exporter, for the units that gpumon sends.
SUFFIXES = {"By": "bytes", "Cel": "celsius", "s": "seconds", "Hz": "hertz", "W": "watts", "J": "joules", "%": "percent"}


def prometheus_name(metric: Any) -> str:
    """Give the name that a collector's Prometheus exporter makes of a metric: words, unit, ratio, total."""
    form = metric.WhichOneof("data")
    ratio = "ratio" if metric.unit == "1" and form == "gauge" else ""
    total = "total" if form == "sum" and metric.sum.is_monotonic else ""
    return "_".join(filter(None, (metric.name.replace(".", "_"), SUFFIXES.get(metric.unit, ""), ratio, total)))


def attributes(entity: Entity, reading: Reading, key: tuple[str, ...] = ()) -> dict[str, str]:
    """Give the attributes of one value or histogram as text, put together from the catalogue's rows; none is empty."""
    found = {
        name: str(some)
        for label, value in zip(entity.kind.labels, entity.labels, strict=True)
        for name, some in label.attributes(value)
    }
    renamed = dict(reading.otel.labels) if reading.otel else {}
    found |= {renamed.get(label, label): value for label, value in zip(reading.labels, key, strict=True)}
    return found | (dict(reading.otel.attributes) if reading.otel else {})
