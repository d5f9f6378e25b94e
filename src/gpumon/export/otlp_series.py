"""What OTLP keeps of a series between exports: its attributes, encoded once, and since when its counters count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint, NumberDataPoint

from gpumon.catalog import Column, Entity, EntityKind, Histogram, Label, Since
from gpumon.export.otlp_count import HISTOGRAMS, NUMBERS, Arithmetic, Count, Value


@dataclass(frozen=True, slots=True)
class Row(Generic[Value]):
    """One column of a kind, or one of its histograms, as the encoder needs it."""

    index: int
    column: Column
    name: str
    divisor: float
    attributes: bytes
    counter: bool
    since: Since
    arithmetic: Arithmetic[Value]

    def observe(self, known: dict[int, Count[Value]], since: Since, begun: int, at: int, value: Value) -> Count[Value]:
        """Give what is known of a counter now that it has this value; since when it counts matters at first sight.

        Where nobody says since when it counts, it counts from the first sight of it: its first point has no length,
        and later ones tell what was added since. A value that fell is a new count, begun since it was last seen.
        """
        count = known.get(self.index)
        if count is None:
            # As a difference, what others counted before gpumon saw it was told before, or is nobody's business.
            ours = since is Since.GPUMON
            told_at, told = (begun, self.arithmetic.nothing(value)) if ours else (at, value)
            count = known[self.index] = Count(begun, at, value, told_at, told)
        elif self.arithmetic.is_new(count.seen, value):
            count.start = count.delivered_at = count.seen_at
            count.delivered = self.arithmetic.nothing(value)
        count.seen_at, count.seen = at, value
        return count

    def difference(self, count: Count[Value]) -> tuple[int, Value]:
        """Give since when the last delivery is, and what was counted since."""
        return count.delivered_at, self.arithmetic.difference(count.seen, count.delivered)


@dataclass(frozen=True, slots=True)
class Rows:
    """A kind as the encoder needs it."""

    labels: tuple[Label, ...]
    numbers: tuple[Row[float], ...]
    histograms: tuple[Row[Histogram], ...]


class Series:
    """What is kept of one entity between exports: its attributes, encoded, and its counters by column or position."""

    __slots__ = ("attributes", "counted_here", "counts", "histogram_attributes", "histograms")

    def __init__(self, entity: Entity, names: tuple[Label, ...]) -> None:
        labels = tuple(zip(names, entity.labels, strict=True))
        attributes = tuple(pair for label, value in labels for pair in label.attributes(value))
        self.attributes = encode_attributes(attributes, NumberDataPoint)
        self.histogram_attributes = encode_attributes(attributes, HistogramDataPoint) if entity.kind.histograms else b""
        self.counted_here = any(value in label.counted_here for label, value in labels)
        self.counts: dict[int, Count[float]] = {}
        self.histograms: dict[int, Count[Histogram]] = {}


def encode_attributes(
    pairs: Iterable[tuple[str, str | int]], point: type[NumberDataPoint | HistogramDataPoint]
) -> bytes:
    """Give attributes as the bytes of a data point that has nothing else.

    What UTF-8 cannot hold becomes a question mark, as in /metrics.
    """
    return point(attributes=[KeyValue(key=key, value=_any(value)) for key, value in pairs]).SerializeToString()


def _any(value: str | int) -> AnyValue:
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(string_value=value.encode("utf-8", "replace").decode())


def rows_of(kind: EntityKind) -> Rows:
    """Give a kind's columns and histograms as the encoder needs them."""
    return Rows(
        kind.labels,
        tuple(_number_row(kind, index, column) for index, column in enumerate(kind.columns)),
        tuple(_histogram_row(kind, index) for index in range(len(kind.histograms))),
    )


def _number_row(kind: EntityKind, index: int, column: Column) -> Row[float]:
    reading = column.reading
    # Divided and not multiplied, so that 57 % are 0.57 and not 0.5700000000000001.
    divisor = round(1 / reading.otel.scale, 9) if reading.otel else 1.0
    attributes = encode_attributes(column.attributes, NumberDataPoint)
    return Row(index, column, kind.otel_name(reading), divisor, attributes, reading.counter, column.since, NUMBERS)


def _histogram_row(kind: EntityKind, index: int) -> Row[Histogram]:
    """Give a histogram's row; its bounds and sum are in the unit that OpenTelemetry gets, as a test sees to."""
    column = Column(kind.histograms[index], (), ())
    attributes = encode_attributes(column.attributes, HistogramDataPoint)
    name = kind.otel_name(column.reading)
    return Row(index, column, name, 1.0, attributes, True, column.since, HISTOGRAMS)
