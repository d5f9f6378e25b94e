"""The words every metric is declared in: where a reading comes from, what it is, and which entity it belongs to.

Imports only the standard library, so that sinks, tools and docs can use the catalogue without a driver.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from math import inf


class Since(Enum):
    """When a counter began to count."""

    GPUMON = "gpumon's start"
    BOOT = "the machine's start"
    SOURCE = "whenever its source began; nobody says when"


class Cadence(Enum):
    """How often a reading is made."""

    ONCE = "once"  # identity and limits: when the device is opened
    SLOW = "slow"  # things that change by the hour, or cost more: every `gpu.slow_interval_secs`
    TICK = "tick"  # everything else


@dataclass(frozen=True, slots=True)
class Call:
    """One NVML function and the number taken from its answer.

    `args` follow the handle; a string is the name of an NVML constant, or of an instance parameter such as `link`.
    `pick` is the attribute or the position of the number in the answer; `bits` is (shift, mask) applied to it.
    `map` turns coded answers into values; a code it lacks is no reading.
    """

    function: str
    args: tuple[str | int, ...] = ()
    pick: str | int | None = None
    scale: float = 1.0
    bits: tuple[int, int] | None = None
    map: Mapping[int, float] | None = None


@dataclass(frozen=True, slots=True)
class Field:
    """One value of nvmlDeviceGetFieldValues; all of a device's fields are read by one call.

    `scope` is the field's scopeId: a number, or the name of an instance parameter such as `link`.
    `value_type` is the NVML_VALUE_TYPE to read the answer as, where drivers are known to name a wrong one.
    """

    id: str
    scope: str | int = 0
    scale: float = 1.0
    value_type: str | None = None


@dataclass(frozen=True, slots=True)
class Gpm:
    """One metric of the GPU performance monitor (Hopper and newer), averaged between two of gpumon's samples."""

    id: str
    scale: float = 0.01


@dataclass(frozen=True, slots=True)
class Computed:
    """A value gpumon works out; `how` names the function in `gpumon.gpu.computed`, `note` says what it rests on.

    `estimated` marks a stand-in for a measurement; the reading says so by `gpumon_gpu_reading_supported`.
    """

    how: str
    note: str
    estimated: bool = False


Source = Call | Field | Gpm | Computed


@dataclass(frozen=True, slots=True)
class Otel:
    """A reading's place in OpenTelemetry's semantic conventions; without one its name is derived.

    `attributes` are fixed ones; `labels` says which attribute a label of the reading becomes, if not its own name.
    `additive` marks what the conventions make an UpDownCounter, because its sum over things means something.
    """

    name: str
    unit: str | None = None
    scale: float = 1.0
    attributes: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    additive: bool = False


# Unit by the last word of a name (DESIGN: base units, unit last), as UCUM for OpenTelemetry.
UNITS = {
    "percent": "%",
    "ratio": "1",
    "bytes": "By",
    "celsius": "Cel",
    "watts": "W",
    "joules": "J",
    "hertz": "Hz",
    "seconds": "s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One declared measured value, and everything that follows from it.

    `sources` are tried in order: the first that the device supports is used.
    A reading with `labels` has one value per key of `values`, each with its own sources.
    `limits` are the lowest and highest believable value; what lies outside was no reading.
    `since` says from when a counter counts, where that does not follow from its sources.
    `buckets` are the upper bounds, but for infinity, of a histogram that gpumon fills itself.
    `column` is the storage column where it differs from the derived one.
    `counts` marks a counter whose name does not end in `_total`, as names from elsewhere may not.
    """

    name: str
    help: str
    sources: tuple[Source, ...] = ()
    labels: tuple[str, ...] = ()
    values: Mapping[tuple[str, ...], tuple[Source, ...]] = field(default_factory=dict)
    cadence: Cadence = Cadence.TICK
    limits: tuple[float, float] | None = None
    otel: Otel | None = None
    column: str | None = None
    since: Since | None = None
    buckets: tuple[float, ...] = ()
    counts: bool = False

    @property
    def counter(self) -> bool:
        """Say whether the value only grows (until its source starts anew)."""
        return self.counts or self.name.endswith("_total")

    @property
    def unit(self) -> str | None:
        """Give the unit that ends the name (`bytes`, `celsius` …), or None for a plain number."""
        last = self.name.removesuffix("_total").rsplit("_", 1)[-1]
        return last if last in UNITS else None

    @property
    def stem(self) -> str:
        """Give the name without its unit and without `_total`."""
        stem = self.name.removesuffix("_total")
        return stem.removesuffix(f"_{self.unit}") if self.unit else stem

    @property
    def otel_unit(self) -> str:
        """Give OpenTelemetry's unit (UCUM); empty for a plain number, because "1" would make it a ratio."""
        if self.otel is not None and self.otel.unit is not None:
            return self.otel.unit
        return UNITS[self.unit] if self.unit else ""


@dataclass(frozen=True, slots=True)
class Form:
    """A form that a label's value may have, as a pattern, and the OpenTelemetry attributes that its groups become."""

    pattern: str
    attributes: tuple[tuple[str, type[str | int]], ...]


@dataclass(frozen=True, slots=True)
class Label:
    """One label of an entity; `sources` say how an identity label of a device is read.

    `otel` is the OpenTelemetry attribute it becomes, where the conventions have one; a value of the form `otel_form`
    becomes others, where the conventions keep apart what the label does not.
    `counted_here` are the values under which gpumon counts itself, since its start, whatever a reading's `since` is.
    `integer` says that its values are whole numbers, which is how they are stored.
    """

    name: str
    help: str
    sources: tuple[Source, ...] = ()
    otel: str | None = None
    otel_form: Form | None = None
    counted_here: tuple[str, ...] = ()
    integer: bool = False

    @property
    def attribute(self) -> str:
        """Give the OpenTelemetry attribute's name: the conventions' own, else the label's."""
        return self.otel or self.name

    def attributes(self, value: str) -> tuple[tuple[str, str | int], ...]:
        """Give the OpenTelemetry attributes that a value becomes; an empty one becomes none."""
        form = self.otel_form
        if form is not None and (match := re.fullmatch(form.pattern, value)):
            return tuple((name, of(text)) for (name, of), text in zip(form.attributes, match.groups(), strict=True))
        return ((self.attribute, value),) if value else ()


@dataclass(frozen=True, slots=True)
class Column:
    """One value of an entity: a reading, or one labelled value of it."""

    reading: Reading
    key: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        """Give the column's name, unique in its entity: the reading's, with label values before the unit."""
        if self.reading.column and not self.key:
            return self.reading.column
        return _insert_before_unit(self.reading, self.key)

    @property
    def since(self) -> Since:
        """Say from when a counter counts: what a driver counts began before gpumon, what gpumon counts, with it."""
        if self.reading.since is not None:
            return self.reading.since
        read = any(not isinstance(source, Computed) for source in self.sources)
        return Since.SOURCE if read else Since.GPUMON

    @property
    def attributes(self) -> tuple[tuple[str, str], ...]:
        """Give the OpenTelemetry attributes that tell this column from the others of its entity."""
        otel = self.reading.otel or Otel("")
        renamed = dict(otel.labels)
        names = (renamed.get(label, label) for label in self.reading.labels)
        return otel.attributes + tuple(zip(names, self.key, strict=True))


def _insert_before_unit(reading: Reading, key: tuple[str, ...]) -> str:
    total = "_total" if reading.counter else ""
    unit = f"_{reading.unit}" if reading.unit else ""
    return "_".join((reading.stem, *key)) + unit + total


class EntityKind:
    """A kind of thing that has readings: its labels, its readings, and the columns that follow from them.

    `prefix` stands between `gpumon_` and a reading's name; None leaves the name bare (names that are standard elsewhere).
    `parameter` names the instance parameter for a part of a device of which there are many (a link, a fan);
    its value is the label of the same name.
    `table` is the storage table; None is not stored. `table_seconds` is the least time between its rows, 0 every tick.
    `histograms` are the readings that are distributions; they have no columns, and stand in `Entity.histograms`.
    """

    __slots__ = (
        *("columns", "help", "histograms", "index", "labels", "name", "parameter", "prefix", "readings"),
        *("table", "table_seconds"),
    )

    def __init__(
        self,
        name: str,
        help: str,  # noqa: A002 - the field's own word
        *,
        labels: tuple[Label, ...] = (),
        readings: tuple[Reading, ...],
        histograms: tuple[Reading, ...] = (),
        prefix: str | None = "",
        parameter: str | None = None,
        table: str | None = None,
        table_seconds: float = 0.0,
    ) -> None:
        self.name = name
        self.help = help
        self.labels = labels
        self.readings = readings
        self.histograms = histograms
        self.prefix = prefix
        self.parameter = parameter
        self.table = table
        self.table_seconds = table_seconds
        self.columns = tuple(_columns(readings))
        self.index = {column.name: i for i, column in enumerate(self.columns)}

    def __repr__(self) -> str:
        return f"EntityKind({self.name!r})"

    def metric(self, reading: Reading) -> str:
        """Give the full metric name of one of this kind's readings."""
        if self.prefix is None:
            return reading.name
        return "_".join(part for part in ("gpumon", self.prefix, reading.name) if part)

    def series(self, column: Column) -> str:
        """Give the metric's name with a column's own label values in braces, as in a `reading` label."""
        name = self.metric(column.reading)
        pairs = ",".join(f"{label}={value}" for label, value in zip(column.reading.labels, column.key, strict=True))
        return f"{name}{{{pairs}}}" if pairs else name

    def otel_name(self, reading: Reading) -> str:
        """Give the OpenTelemetry name of one of this kind's readings: the conventions' own, or a derived one.

        A derived name is the metric's words joined by dots, unit and `_total` left off: gpumon_gpu_memory_free_bytes is
        gpumon.gpu.memory.free in By, from which a collector's Prometheus exporter makes the same metric name again.
        """
        if reading.otel is not None:
            return reading.otel.name
        return ".".join(("gpumon", *f"{self.prefix or ''}_{reading.stem}".strip("_").split("_")))


def own_names(kind: EntityKind) -> EntityKind:
    """Give the kind as if OpenTelemetry had no conventions: its names and attributes are the metrics' and labels' own.

    A collector's Prometheus exporter makes of them what /metrics has.
    """

    def own(reading: Reading) -> Reading:
        stem = kind.metric(replace(reading, name=reading.stem))
        return replace(reading, otel=Otel(stem.replace("_", ".")))

    return EntityKind(
        kind.name,
        kind.help,
        labels=tuple(replace(label, otel=None, otel_form=None) for label in kind.labels),
        readings=tuple(map(own, kind.readings)),
        histograms=tuple(map(own, kind.histograms)),
        prefix=kind.prefix,
    )


def _columns(readings: tuple[Reading, ...]) -> Iterator[Column]:
    for reading in readings:
        if reading.labels:
            for key, sources in reading.values.items():
                yield Column(reading, key, sources)
        else:
            yield Column(reading, (), reading.sources)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many observations fell into each bucket since a start, and their sum.

    `bounds` are the buckets' upper bounds (included), rising, without infinity; `counts` has one number per bucket,
    not accumulated, and one more for what lies above the last bound. Whoever filled it chose the bounds,
    so they may differ from entity to entity, and change when their server does.
    """

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    sum: float

    @property
    def count(self) -> float:
        """Give the number of observations."""
        return sum(self.counts)

    @property
    def believable(self) -> bool:
        """Say whether it can have been observed; another was no reading. Counts are held to what 63 bits hold."""
        return -inf < self.sum < inf and min(self.counts) >= 0 and self.count < 2**63


@dataclass(frozen=True, slots=True)
class Entity:
    """One thing as it was at one moment: label values and reading values in the order its kind declares them.

    A value of None could not be read. `histograms` is empty, or has one value per histogram of the kind.
    """

    kind: EntityKind
    labels: tuple[str, ...]
    values: tuple[float | None, ...]
    histograms: tuple[Histogram | None, ...] = ()

    def __getitem__(self, column: str) -> float | None:
        """Give the value of a column by name; KeyError names a column the kind does not have."""
        return self.values[self.kind.index[column]]

    def label(self, name: str) -> str:
        """Give the value of a label by name; KeyError names a label the kind does not have."""
        for label, value in zip(self.kind.labels, self.labels, strict=True):
            if label.name == name:
                return value
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything known at one moment; immutable, and the only thing that travels from sources to sinks.

    `time` is Unix seconds of the tick, `monotonic` the same moment on the monotonic clock, `number` counts ticks from 1.
    """

    time: float
    monotonic: float
    number: int
    entities: tuple[Entity, ...]

    def of(self, kind: EntityKind) -> tuple[Entity, ...]:
        """Give the entities of one kind, in the order of their labels."""
        return tuple(entity for entity in self.entities if entity.kind is kind)
