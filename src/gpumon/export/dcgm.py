"""A snapshot in the names, units and labels of dcgm-exporter, made when a page with them is rendered."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from math import fsum

from gpumon.catalog import GPU, GPU_INFO, GPU_POD, GPU_XID, MIG, MIG_INFO, Entity, EntityKind, Snapshot
from gpumon.catalog.dcgm import Family, table

# How a device plugin names a MIG device otherwise than by its UUID; the number is the GPU instance.
_INSTANCE = re.compile(r"nvidia\d+/gi(\d+)|MIG-GPU-[0-9a-f-]+/(\d+)/\d+")

# Decimals that are kept: more than a reading has, fewer than a product of two doubles is wrong in.
DECIMALS = 9

Where = tuple[str, str, str]  # container, namespace, pod
Key = tuple[str, tuple[str, ...], str]  # kind, labels, column


class Dcgm:
    """Gives a snapshot's entities of one form's table, each snapshot's once; keeps counters for rates.

    `hostname` is the label's value. A rate is over the time since the snapshot that was asked for before.
    """

    def __init__(self, form: str, hostname: str) -> None:
        self._form = form
        self._hostname = hostname
        self._table = table(form)
        self.kinds = self._table.kinds
        self._shown: Snapshot | None = None
        self._entities: tuple[Entity, ...] = ()
        self._time = 0.0
        self._counts: dict[Key, float] = {}  # what rates are made of, as of `_time`
        self._rates: dict[Key, float] = {}

    def entities(self, snapshot: Snapshot) -> tuple[Entity, ...]:
        """Give the snapshot's entities under dcgm-exporter's names."""
        if snapshot is not self._shown:
            self._shown = snapshot
            self._measure(snapshot)
            self._entities = tuple(self._make(snapshot))
        return self._entities

    def _measure(self, snapshot: Snapshot) -> None:
        """Work out how fast counters grew since the snapshot before; one that fell began anew."""
        seconds = snapshot.monotonic - self._time
        counts: dict[Key, float] = {}
        for family in self._table.families:
            if family.rate:
                for entity in snapshot.of(family.kind):
                    for column in family.columns:
                        value = entity[column]
                        if value is not None:
                            counts[family.kind.name, entity.labels, column] = value
        before, self._counts, self._time = self._counts, counts, snapshot.monotonic
        self._rates = {
            key: (value - before[key]) / seconds
            for key, value in counts.items()
            if seconds > 0 and key in before and value >= before[key]
        }

    def _make(self, snapshot: Snapshot) -> Iterator[Entity]:
        infos = {entity.label("gpu_uuid"): entity for entity in snapshot.of(GPU_INFO)}
        parts = {family.kind: _by_gpu(snapshot.of(family.kind)) for family in self._table.families}
        instances = _by_gpu(snapshot.of(MIG))
        profiles = {entity.label("mig_uuid"): entity.label("profile") for entity in snapshot.of(MIG_INFO)}
        holders = _holders(snapshot)
        xids = _by_gpu(snapshot.of(GPU_XID))
        for gpu in snapshot.of(GPU):
            uuid = gpu.label("gpu_uuid")
            device = self._device(gpu, infos.get(uuid))
            where = holders.get((uuid, ""))
            mine = instances.get(uuid, [])
            # What the instances have is theirs alone, else a sum over all series would count it twice.
            values = tuple(
                None if mine and family.mig else self._value(family, parts[family.kind].get(uuid, ()))
                for family in self._table.families
            )
            yield _entity(self._table.gpu, device, where, values)
            for instance in mine:
                number = instance.label("gpu_instance_id")
                labels = (*device, profiles.get(instance.label("mig_uuid"), ""), number)
                taken = tuple(self._scaled(family, instance[family.mig or ""]) for family in self._table.mig_families)
                yield _entity(self._table.mig, labels, holders.get((uuid, number)), taken)
            if uuid in xids:
                last = max(xids[uuid], key=lambda xid: xid["xid_error_timestamp_seconds"] or 0.0).label("xid")
                yield _entity(self._table.xid, (*device, last), where, (float(last),))

    def _device(self, gpu: Entity, info: Entity | None) -> tuple[str, ...]:
        index, name, uuid = gpu.labels
        pci, driver = ("", "") if info is None else (info.label("pci_bus_id"), info.label("driver_version"))
        return (index, uuid, pci, f"nvidia{index}", name, self._hostname, driver)

    def _value(self, family: Family, entities: Iterable[Entity]) -> float | None:
        """Give a family's value on one GPU: the sum of what is known of its parts, None when nothing is."""
        known = [
            value
            for entity in entities
            for column in family.columns
            if (value := self._reading(family, entity, column)) is not None
        ]
        return self._scaled(family, fsum(known)) if known else None  # as exact as Python 3.12's sum, in every version

    def _reading(self, family: Family, entity: Entity, column: str) -> float | None:
        return self._rates.get((family.kind.name, entity.labels, column)) if family.rate else entity[column]

    def _scaled(self, family: Family, value: float | None) -> float | None:
        named = family.named(self._form)
        return None if value is None or named is None else round(value * named.scale, DECIMALS)


def _entity(
    kinds: tuple[EntityKind, EntityKind],
    labels: tuple[str, ...],
    where: Where | None,
    values: tuple[float | None, ...],
) -> Entity:
    return Entity(kinds[0], labels, values) if where is None else Entity(kinds[1], (*labels, *where), values)


def _by_gpu(entities: Iterable[Entity]) -> Mapping[str, list[Entity]]:
    found: dict[str, list[Entity]] = defaultdict(list)
    for entity in entities:
        found[entity.label("gpu_uuid")].append(entity)
    return found


def _holders(snapshot: Snapshot) -> dict[tuple[str, str], Where]:
    """Give the one container that has a GPU, or a GPU instance of one; what several share has none.

    dcgm-exporter gives all of a shared device to one of them, whichever comes last.
    """
    instances = {entity.label("mig_uuid"): entity.label("gpu_instance_id") for entity in snapshot.of(MIG)}
    found: dict[tuple[str, str], set[Where]] = defaultdict(set)
    for pod in snapshot.of(GPU_POD):
        device = pod.label("device").partition("::")[0]
        match = _INSTANCE.match(device)
        instance = instances.get(device) or (match[1] or match[2] if match else "")
        found[pod.label("gpu_uuid"), instance].add((pod.label("container"), pod.label("namespace"), pod.label("pod")))
    return {place: where.pop() for place, where in found.items() if len(where) == 1}
