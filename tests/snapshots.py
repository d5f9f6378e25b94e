"""Snapshots for tests of what is made from them, and the same written by prometheus_client."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from itertools import accumulate

from hypothesis import strategies as st
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gpumon.catalog import (
    BUILD,
    DAEMON,
    GPU,
    GPU_HEALTH,
    GPU_INFO,
    HOST,
    KINDS,
    NVLINK,
    PROCESS,
    SOURCE,
    Column,
    Entity,
    EntityKind,
    Histogram,
    Reading,
    Snapshot,
)


def node(gpus: int = 8, links: int = 43, *, seed: int = 1, monotonic: float = 0.0, number: int = 1) -> Snapshot:
    """Give a snapshot of a node with about 2,000 series for the default numbers; values differ by `seed`, labels do not."""
    labels = random.Random(0)
    values = random.Random(seed)
    whole: tuple[tuple[EntityKind, tuple[str, ...]], ...] = (
        (DAEMON, ()),
        (BUILD, ("0.1.0", "3.11.7", "13.580.65", "nvml")),
        (HOST, ()),
        (PROCESS, ()),
        (SOURCE, ("gpu",)),
    )
    entities = [_entity(kind, texts, values) for kind, texts in whole]
    for gpu in range(gpus):
        device = (str(gpu), "NVIDIA H100 80GB HBM3", f"GPU-{labels.getrandbits(128):032x}")
        entities += [_entity(kind, device, values) for kind in (GPU_HEALTH, GPU)]
        facts = tuple(label.name for label in GPU_INFO.labels[len(device) :])
        entities.append(_entity(GPU_INFO, device + facts, values))
        entities += [_entity(NVLINK, (*device, str(link)), values) for link in range(links)]
    return Snapshot(1.7e9 + number, monotonic, number, tuple(entities))


def _entity(kind: EntityKind, labels: tuple[str, ...], values: random.Random) -> Entity:
    return Entity(kind, labels, tuple(_value(column, values) for column in kind.columns))


def _value(column: Column, values: random.Random) -> float:
    """Give a value of the size that the unit suggests; the sizes decide how long a page is and takes."""
    match column.reading.unit:
        case "bytes":
            return float(values.randrange(2**44 if column.reading.counter else 80 * 2**30))
        case "ratio":
            return values.random()
        case "watts" | "joules":
            return values.randrange(700_000) / 1000
        case "seconds":
            return values.random() * 1e5
        case "hertz":
            return values.randrange(200, 2000) * 1e6
        case _:
            return float(values.randrange(101))


def entities(values: st.SearchStrategy[float] | None = None) -> st.SearchStrategy[tuple[Entity, ...]]:
    """Give entities with any texts as labels and any floats (or `values`), no two with the same labels."""
    kinds = st.sampled_from(KINDS)
    floats = st.floats() if values is None else values
    some = st.lists(kinds.flatmap(lambda kind: _any_entity(kind, floats)), max_size=8, unique_by=_identity)
    return some.map(tuple)


def _identity(entity: Entity) -> tuple[str, tuple[str, ...]]:
    return entity.kind.name, entity.labels


def _any_entity(kind: EntityKind, floats: st.SearchStrategy[float]) -> st.SearchStrategy[Entity]:
    def build(labels: tuple[str, ...], some: list[float | None], spread: list[Histogram | None]) -> Entity:
        values = tuple(some[i % len(some)] for i in range(len(kind.columns)))
        return Entity(kind, labels, values, tuple(spread[i % len(spread)] for i in range(len(kind.histograms))))

    # A few values are dealt out in turn, else a GPU with its 70 columns would be too much for hypothesis.
    some = st.lists(st.none() | floats, min_size=1, max_size=7)
    spread = st.lists(st.none() | histograms(floats), min_size=1, max_size=2) if kind.histograms else st.just([None])
    return st.builds(build, st.tuples(*(st.text(max_size=8) for _ in kind.labels)), some, spread)


def histograms(sums: st.SearchStrategy[float]) -> st.SearchStrategy[Histogram]:
    """Give histograms with any rising bounds, also none, and any counts."""
    bounds = st.lists(st.floats(0, 1e9, allow_subnormal=False), max_size=4, unique=True).map(sorted)

    def build(some: list[float], counts: list[int], total: float) -> Histogram:
        return Histogram(tuple(some), tuple(float(counts[i]) for i in range(len(some) + 1)), total)

    return st.builds(build, bounds, st.lists(st.integers(0, 2**40), min_size=5, max_size=5), sums)


class Written(Collector):
    """The families of some entities as prometheus_client's own objects, made from the catalogue independently."""

    def __init__(self, entities: Iterable[Entity], kinds: Iterable[EntityKind] = KINDS) -> None:
        self._entities = tuple(entities)
        self._kinds = tuple(kinds)

    def collect(self) -> Iterator[Metric]:
        """Give the families that have samples, in the catalogue's order."""
        families: dict[str, Metric] = {}
        for kind in self._kinds:
            for reading in kind.readings:
                name = kind.metric(reading)
                family = families.setdefault(
                    name,
                    Metric(
                        name.removesuffix("_total") if reading.counter else name,
                        reading.help,
                        "counter" if reading.counter else "gauge",
                        reading.unit or "",
                    ),
                )
                for entity in self._entities:
                    if entity.kind is not kind:
                        continue
                    for column, value in zip(kind.columns, entity.values, strict=True):
                        if column.reading is reading and value is not None and math.isfinite(value):
                            labels = dict(zip((label.name for label in kind.labels), entity.labels, strict=True))
                            labels |= dict(zip(reading.labels, column.key, strict=True))
                            family.add_sample(name, labels, value)
            for position, reading in enumerate(kind.histograms):
                name = kind.metric(reading)
                spread = families.setdefault(name, _distribution(name, kind, reading))
                for entity in self._entities:
                    histogram = entity.histograms[position] if entity.kind is kind and entity.histograms else None
                    if histogram is not None and math.isfinite(histogram.sum):
                        assert isinstance(spread, HistogramMetricFamily)
                        seen = accumulate(histogram.counts)
                        names = (*map(floatToGoString, histogram.bounds), "+Inf")
                        spread.add_metric(entity.labels, list(zip(names, seen, strict=True)), histogram.sum)
        return (family for family in families.values() if family.samples)


def _distribution(name: str, kind: EntityKind, reading: Reading) -> Metric:
    labels = [label.name for label in kind.labels]
    return HistogramMetricFamily(name, reading.help, labels=labels, unit=reading.unit or "")
