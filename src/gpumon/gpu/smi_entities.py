"""What is kept of a GPU between two runs of nvidia-smi, and the entities that its cells become."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpumon.catalog import FAN, GPU, GPU_INFO, GPU_XID, MIG, NVLINK, SUPPORT, Column, Computed, Entity, EntityKind
from gpumon.gpu.counters import Integral
from gpumon.gpu.smi_fields import (
    ARCHITECTURES,
    INFO_FIELDS,
    INFO_MODES,
    NOT_GIVEN,
    PLAINLY_NONE,
    SMI_FIELDS,
    absence,
    field_value,
)
from gpumon.gpu.xid import XidLog, pci_address

_POWER, _UTILIZATION = GPU.index["power"], GPU.index["utilization_gpu"]
_ENERGY, _BUSY = GPU.index["energy_integrated_joules_total"], GPU.index["busy_polled_seconds_total"]
_LAST_XID = GPU.index["xid_last_timestamp_seconds"]


@dataclass(frozen=True, slots=True)
class Identity:
    """What a GPU is known by; `pci` as nvidia-smi writes it."""

    index: str
    name: str
    uuid: str
    pci: str

    @property
    def labels(self) -> tuple[str, str, str]:
        """Give the labels of the catalogue's GPU entities."""
        return (self.index, self.name, self.uuid)

    def at_address_of(self, cells: Mapping[str, str]) -> bool:
        """Say whether a row without UUID is about this GPU, by its address; the index may be another one's by now."""
        address = pci_address(cells.get("pci.bus_id", ""))
        return address is not None and address == pci_address(self.pci)


class GpuRecord:
    """One GPU seen since start: what it is, what is integrated over time, and why it is down (None: it is not)."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.down: str | None = None
        self.times_lost = 0
        self._energy = Integral()
        self._busy = Integral()
        self._support: tuple[Entity, ...] = ()
        self._noted: object = None

    def fail(self, reason: str) -> None:
        """Note that the GPU is down."""
        if self.down is None:
            self.times_lost += 1
        self.down = reason

    def take(self, cells: Mapping[str, str], now: float, longest_gap: float, xids: XidLog | None) -> tuple[Entity, ...]:
        """Give the entities that a GPU's cells become; none, and the GPU is down, when all of them tell of trouble.

        `now` is on the clock that power and utilisation are integrated over.
        """
        values: list[float | None] = [None] * len(GPU.columns)
        fan: float | None = None
        missing: dict[tuple[EntityKind, str], str] = {}
        for row in SMI_FIELDS:
            value = field_value(row, cells)
            if isinstance(value, str):
                missing[row.kind, row.column] = value
            elif row.kind is FAN:
                fan = value
            else:
                values[GPU.index[row.column]] = value
        troubles = Counter(reason for reason in missing.values() if reason not in PLAINLY_NONE)
        if troubles and fan is None and not any(value is not None for value in values):
            self.fail(troubles.most_common(1)[0][0])
            return ()
        self.down = None
        labels = self.identity.labels
        watts, percent = values[_POWER], values[_UTILIZATION]
        if watts is not None:
            values[_ENERGY] = self._energy.advance(watts, now, longest_gap)
        if percent is not None:
            values[_BUSY] = self._busy.advance(percent / 100, now, longest_gap)
        if xids is not None:
            values[_LAST_XID] = xids.last_time(self.identity.uuid)
        info = _info(labels, cells)
        return (
            Entity(GPU, labels, tuple(values)),
            info,
            *([Entity(FAN, (*labels, "0"), (fan,))] if fan is not None else []),
            *self._supported(values, missing, mig=info.label("mig_mode") == "enabled", xids=xids is not None),
        )

    def _supported(
        self, values: list[float | None], missing: dict[tuple[EntityKind, str], str], *, mig: bool, xids: bool
    ) -> tuple[Entity, ...]:
        """Give one entity per reading that nvidia-smi has not or that is estimated; made anew only when one changes."""
        present = tuple(value is not None for value in values)
        noted = (self.identity.labels, present, tuple(missing.items()), mig, xids)
        if noted != self._noted:
            self._noted = noted
            self._support = tuple(self._notes(present, missing, mig=mig, xids=xids))
        return self._support

    def _notes(
        self, present: tuple[bool, ...], missing: dict[tuple[EntityKind, str], str], *, mig: bool, xids: bool
    ) -> Iterable[Entity]:
        for i, column in enumerate(GPU.columns):
            if not present[i]:
                if i == _LAST_XID and xids:
                    continue  # there was none yet
                yield self._note(GPU, column, missing.get((GPU, column.name), NOT_GIVEN), 0.0)
            elif isinstance(column.sources[0], Computed) and column.sources[0].estimated:
                yield self._note(GPU, column, f"estimated: {column.sources[0].note}", 1.0)
        kinds = [kind for kind, told in ((NVLINK, True), (MIG, mig), (GPU_XID, not xids)) if told]
        for kind in kinds:
            for column in kind.columns:
                yield self._note(kind, column, NOT_GIVEN, 0.0)
        for (kind, name), reason in missing.items():
            if kind is FAN:
                yield self._note(FAN, FAN.columns[FAN.index[name]], reason, 0.0)

    def _note(self, kind: EntityKind, column: Column, reason: str, value: float) -> Entity:
        return Entity(SUPPORT, (*self.identity.labels, kind.series(column), reason), (value,))


def _info(labels: tuple[str, str, str], cells: Mapping[str, str]) -> Entity:
    told = {name: cells[cell] for name, cell in INFO_FIELDS.items() if absence(cells.get(cell, "")) is None}
    for name, cell in INFO_MODES.items():
        word = cells.get(cell, "").lower()
        if word in ("enabled", "disabled"):
            told[name] = word
    capability = told.get("architecture", "")
    told["architecture"] = ARCHITECTURES.get(capability, ARCHITECTURES.get(capability.partition(".")[0], ""))
    if absence(cells.get("memory.total", "")) is None:
        told["memory_kind"] = "dedicated"
    rest = tuple(told.get(label.name, "") for label in GPU_INFO.labels[len(labels) :])
    return Entity(GPU_INFO, (*labels, *rest), (1.0,))
