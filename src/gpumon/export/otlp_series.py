"""What OTLP keeps of a series between exports: its attributes, encoded once, and since when its counters count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint

from gpumon.catalog import Column, Entity, EntityKind, Since


@dataclass(frozen=True, slots=True)
class Row:
    """One column of a kind, as the encoder needs it."""

    index: int
    column: Column
    name: str
    divisor: float
    attributes: bytes
    counter: bool
    since: Since


@dataclass(slots=True)
class Count:
    """What is known of one counter: since when it counts, its value when last seen and when last delivered."""

    start: int
    seen_at: int
    seen: float
    delivered_at: int
    delivered: float

    def difference(self) -> tuple[int, float]:
        """Give what was counted since the last delivery, and since when that is."""
        return self.delivered_at, self.seen - self.delivered


class Series:
    """What is kept of one entity between exports: its attributes, encoded, and its counters by column."""

    __slots__ = ("attributes", "counts")

    def __init__(self, entity: Entity) -> None:
        names = (label.attribute for label in entity.kind.labels)
        self.attributes = encode_attributes(zip(names, entity.labels, strict=True))
        self.counts: dict[int, Count] = {}

    def observe(self, row: Row, since: int, at: int, value: float) -> Count:
        """Give what is known of a counter now that it has this value; `since` matters when it is seen first.

        Where nobody says since when it counts, it counts from the first sight of it: its first point has no length,
        and later ones tell what was added since. A value that fell is a new count, begun since it was last seen.
        """
        count = self.counts.get(row.index)
        if count is None:
            # As a difference, what others counted before gpumon saw it was told before, or is nobody's business.
            told_at, told = (since, 0.0) if row.since is Since.GPUMON else (at, value)
            count = self.counts[row.index] = Count(since, at, value, told_at, told)
        elif value < count.seen:
            count.start = count.delivered_at = count.seen_at
            count.delivered = 0.0
        count.seen_at, count.seen = at, value
        return count


def encode_attributes(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Give attributes as the bytes of a data point that has nothing else; an empty value is an absent attribute.

    What UTF-8 cannot hold becomes a question mark, as in /metrics.
    """
    values = ((key, value.encode("utf-8", "replace").decode()) for key, value in pairs if value)
    point = NumberDataPoint(attributes=[KeyValue(key=k, value=AnyValue(string_value=v)) for k, v in values])
    return point.SerializeToString()


def rows_of(kind: EntityKind) -> tuple[Row, ...]:
    """Give a kind's columns as the encoder needs them."""
    return tuple(_row(kind, index, column) for index, column in enumerate(kind.columns))


def _row(kind: EntityKind, index: int, column: Column) -> Row:
    reading = column.reading
    # Divided and not multiplied, so that 57 % are 0.57 and not 0.5700000000000001.
    divisor = round(1 / reading.otel.scale, 9) if reading.otel else 1.0
    return Row(
        index,
        column,
        kind.otel_name(reading),
        divisor,
        encode_attributes(column.attributes),
        reading.counter,
        column.since,
    )


def deliver(counts: list[Count]) -> None:
    """Let the next differences begin where these counters are now."""
    for count in counts:
        count.delivered_at, count.delivered = count.seen_at, count.seen
