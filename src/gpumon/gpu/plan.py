"""From catalogue rows to driver calls: what is asked of a device at a tick, each call once, and where each answer goes."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from typing import Any

from gpumon.catalog import Cadence, Call, Column, Computed, EntityKind, Field, Gpm, Source
from gpumon.gpu.buffers import VALUE_BITS, FieldBlock, GpmPair, number
from gpumon.gpu.computed import COMPUTED
from gpumon.gpu.counters import Ledger
from gpumon.gpu.nvml import Handle, Nvml, constant

NONE_LEFT = -1

# What NVML answers in place of a number it does not have (NVML_VALUE_NOT_AVAILABLE as unsigned).
_NOT_AVAILABLE = (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


class Part:
    """One entity of a device that is read: the GPU itself, a link, a fan, a MIG device.

    `choices` holds, per column, which of its sources is in use, or NONE_LEFT; `reasons` why the ones before were refused.
    `values` holds what was read last; a column that was not read this time is None.
    """

    __slots__ = ("choices", "gpu_instance_id", "handle", "kind", "labels", "parameters", "reasons", "values")

    def __init__(
        self,
        kind: EntityKind,
        handle: Handle,
        labels: tuple[str, ...],
        parameters: Mapping[str, int] | None = None,
        gpu_instance_id: int | None = None,
    ) -> None:
        self.kind = kind
        self.handle = handle
        self.labels = labels
        self.parameters = parameters or {}
        self.gpu_instance_id = gpu_instance_id
        self.reasons: list[str] = [""] * len(kind.columns)
        self.values: list[float | None] = [None] * len(kind.columns)
        self.choices = [0 if column.sources else NONE_LEFT for column in kind.columns]

    def source(self, column: int) -> Source | None:
        """Give the source in use for a column, None when it has none or does not need one now."""
        choice = self.choices[column]
        if choice == NONE_LEFT:
            return None
        source = self.kind.columns[column].sources[choice]
        if isinstance(source, Computed) and source.estimated and not self.needs_estimate(column):
            return None
        return source

    def needs_estimate(self, column: int) -> bool:
        """Say whether no measured value of the same reading is to be had, so that the estimate stands in."""
        reading = self.kind.columns[column].reading
        return all(
            choice == NONE_LEFT
            for i, (other, choice) in enumerate(zip(self.kind.columns, self.choices, strict=True))
            if other.reading is reading and i != column
        )

    def refuse(self, column: int, reason: str) -> None:
        """Go on to the column's next source. A lack of permission is the reason worth keeping: it can be mended."""
        if self.reasons[column] != "NO_PERMISSION":
            self.reasons[column] = reason
        self.choices[column] += 1
        if self.choices[column] >= len(self.kind.columns[column].sources):
            self.choices[column] = NONE_LEFT


@dataclass(frozen=True, slots=True)
class Output:
    """Where one answer goes: a column of a part, by way of a conversion that gives None for no reading."""

    part: Part
    column: int
    convert: Callable[[Any], float | None]


@dataclass(frozen=True, slots=True)
class FieldOutput:
    """Where one field value goes."""

    part: Part
    column: int
    name: str
    convert: Callable[[int, int], float | None]  # (value type, raw value)


@dataclass(slots=True)
class Plan:
    """All that is asked of a device at one cadence."""

    fields: FieldBlock | None = None
    field_outputs: list[FieldOutput] = field(default_factory=list)
    calls: list[tuple[str, Handle, tuple[int, ...], list[Output]]] = field(default_factory=list)
    gpm: list[tuple[GpmPair, list[Output]]] = field(default_factory=list)
    computed: list[tuple[Callable[[Any, float], float | None], str, Part, int]] = field(default_factory=list)
    columns: list[tuple[Part, int]] = field(default_factory=list)  # all that the plan reads


class GpmPairs:
    """The GPM samples of a device, kept while plans come and go, so that no mean starts anew without need."""

    def __init__(self) -> None:
        self._pairs: dict[tuple[int | None, tuple[int, ...]], GpmPair] = {}

    def get(self, metric_ids: tuple[int, ...], gpu_instance_id: int | None) -> GpmPair:
        """Give the pair that reads these metrics of this GPU instance (None: of the whole device)."""
        key = (gpu_instance_id, metric_ids)
        if key not in self._pairs:
            self._pairs[key] = GpmPair(metric_ids, gpu_instance_id)
        return self._pairs[key]

    def free(self, nvml: Nvml, *, instances_only: bool = False) -> None:
        """Give all samples, or those of GPU instances, back to the driver."""
        for key in [key for key in self._pairs if key[0] is not None or not instances_only]:
            self._pairs.pop(key).free(nvml)


def make_plan(
    parts: list[Part], cadence: Cadence, ledger: Ledger, pairs: GpmPairs, only: Container[tuple[int, int]] | None = None
) -> Plan:
    """Put together what is to be asked at `cadence`, from the sources in use of every part.

    `only` limits it to some columns, each named by the part's id and the column.
    """
    plan = Plan()
    field_ids: list[tuple[int, int]] = []
    calls: dict[tuple[str, int, tuple[int, ...]], list[Output]] = {}
    for part in parts:
        gpm: dict[int, Output] = {}
        for i, column in enumerate(part.kind.columns):
            source = part.source(i) if column.reading.cadence is cadence else None
            if source is None or (only is not None and (id(part), i) not in only):
                continue
            plan.columns.append((part, i))
            if isinstance(source, Field):
                field_ids.append((constant(source.id), _resolve(source.scope, part)))
                plan.field_outputs.append(
                    FieldOutput(part, i, source.id, _field_converter(source, column, part, ledger))
                )
            elif isinstance(source, Gpm):
                gpm[constant(source.id)] = Output(part, i, _scaled(source.scale, column))
            elif isinstance(source, Call):
                args = tuple(_resolve(arg, part) for arg in source.args)
                outputs = calls.setdefault((source.function, id(part.handle), args), [])
                if not outputs:
                    plan.calls.append((source.function, part.handle, args, outputs))
                outputs.append(Output(part, i, _call_converter(source, column)))
            else:
                plan.computed.append((COMPUTED[source.how], source.how, part, i))
        if gpm:
            plan.gpm.append((pairs.get(tuple(gpm), part.gpu_instance_id), list(gpm.values())))
    if field_ids:
        plan.fields = FieldBlock(field_ids)
    return plan


def _resolve(argument: str | int, part: Part) -> int:
    if isinstance(argument, int):
        return argument
    if argument in part.parameters:
        return part.parameters[argument]
    return constant(argument)


def _within(column: Column) -> Callable[[float], bool] | None:
    limits = column.reading.limits
    if limits is None:
        return None
    low, high = limits
    return lambda value: low <= value <= high


def _scale(scale: float) -> Callable[[float], float] | None:
    """Make the conversion to base units; a division where it is exact, so that 95091 mW are 95.091 W and not …01."""
    if scale == 1.0:
        return None
    if scale < 1.0:
        divisor = round(1 / scale)
        return lambda value: value / divisor
    return lambda value: value * scale


def _scaled(scale: float, column: Column) -> Callable[[float], float | None]:
    within = _within(column)
    to_base = _scale(scale)

    def convert(value: float) -> float | None:
        if to_base is not None:
            value = to_base(value)
        return value if within is None or within(value) else None

    return convert


def call_value(source: Call) -> Callable[[Any], Any]:
    """Make the function that takes what `source` is about out of the call's answer."""
    if source.pick is None:
        return lambda answer: answer
    if isinstance(source.pick, int):
        return itemgetter(source.pick)
    return attrgetter(source.pick)


def _call_converter(source: Call, column: Column) -> Callable[[Any], float | None]:
    take = call_value(source)
    within = _within(column)
    to_base, bits, coded = _scale(source.scale), source.bits, source.map

    def convert(answer: Any) -> float | None:
        value = take(answer)
        if bits is not None:
            value = (value >> bits[0]) & bits[1]
        elif value in _NOT_AVAILABLE:
            return None
        if coded is not None:
            return coded.get(value)
        if to_base is not None:
            value = to_base(value)
        result: float | None = value if within is None or within(value) else None
        return result

    return convert


def _field_converter(source: Field, column: Column, part: Part, ledger: Ledger) -> Callable[[int, int], float | None]:
    within = _within(column)
    to_base = _scale(source.scale)
    forced = constant(source.value_type) if source.value_type is not None else None
    key = (part.kind.name, part.labels[3:], column.name, source.id)
    counter = ledger.counter(key) if column.reading.counter else None

    def convert(value_type: int, raw: int) -> float | None:
        kind = value_type if forced is None else forced
        value = number(kind, raw)
        if value is None:
            return None
        if counter is not None:
            value = counter.advance(value, VALUE_BITS.get(kind, 64))
        if to_base is not None:
            value = to_base(value)
        return value if within is None or within(value) else None

    return convert
