"""Names of pods and containers on the node's GPUs, by the kubelet's word, asked on a clock of its own.

The kubelet says which pod has which device, the kernel which pod's UID a process belongs to; neither says both.
A UID is given a name when only one pod fits it on every device that it uses, and no other UID fits that pod.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gpumon.catalog import GPU_INFO, GPU_POD, MIG, POD_LABEL, POD_NAMES, SHARE_REASON, Entity
from gpumon.gpuprocess import GpuUse
from gpumon.log import Logger, Onsets
from gpumon.process.grpc import GrpcError
from gpumon.process.podlabels import ApiError, ApiServer, PodFacts
from gpumon.process.podresources import Allocation, allocations
from gpumon.process.tracked import Tracked
from gpumon.settings import Kubernetes as KubernetesSettings

# The kubelet answers within milliseconds; one that needs longer is stuck, and is asked again at the next turn.
TIMEOUT_SECS = 5.0

_MIG_UUID = next(i for i, label in enumerate(MIG.labels) if label.name == "mig_uuid")
_INSTANCE = next(i for i, label in enumerate(MIG.labels) if label.name == "gpu_instance_id")
_NUMBER = next(i for i, label in enumerate(GPU_INFO.labels) if label.name == "minor_number")
_MINOR = re.compile(r"nvidia(\d+)(?:/gi(\d+))?(?:/vgpu\d+)?|gpu-(\d+)")
_OLD_MIG = re.compile(r"MIG-(GPU-[0-9a-f-]+)/(\d+)/(\d+)")

Name = tuple[str, str]  # namespace, pod


@dataclass(frozen=True, slots=True)
class Place:
    """A GPU, or one GPU instance of it."""

    uuid: str
    gpu_instance_id: int | None = None


class Pods:
    """Who has which GPU. Asked by `run` beside the tick, used at the tick; belongs to the event loop."""

    def __init__(
        self,
        settings: KubernetesSettings,
        logger: Logger,
        api: ApiServer | None = None,
        *,
        in_kubernetes: bool = False,
    ) -> None:
        self._settings = settings
        self._api = api
        self._facts: dict[str, PodFacts] = {}  # by UID, from the API server
        self._onsets = Onsets(logger)
        self._further = frozenset(name.strip() for name in settings.resource_names.split(",") if name.strip())
        self._allocations: tuple[Allocation, ...] = ()
        self._reason: str | None = None  # None: not asked yet; "": all is well
        self._present = in_kubernetes  # gpumon is in a pod, a kubelet has answered, or a pod was seen
        self._names: dict[str, Name] = {}  # by UID; a pod keeps its name for life
        self._missing: dict[str, str] = {}  # by GPU: why a pod on it has no name

    async def run(self) -> None:
        """Ask the kubelet again and again, until cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(self._settings.interval_secs)

    async def ask(self) -> None:
        """Ask the kubelet, and the API server for labels, once; whatever they do, it costs no more than the names."""
        await self._ask_kubelet()
        if self._api is not None:
            try:
                self._facts = await self._api.pods()
            except ApiError as error:
                self._facts = {}
                self._onsets.fail("labels", "labels of pods cannot be read", reason=f"the API server {error}")
            else:
                self._onsets.mend("labels", "labels of pods can be read again")

    async def _ask_kubelet(self) -> None:
        try:
            self._allocations = await allocations(self._settings.pod_resources_socket, self._further, TIMEOUT_SECS)
        except GrpcError as error:
            self._allocations, self._reason = (), f"the kubelet {error}"
            if self._present:
                self._onsets.fail("kubelet", "pods cannot be named", reason=self._reason)
        else:
            self._reason, self._present = "", True
            self._onsets.mend("kubelet", "pods are named again")

    def put(self, tracked: Iterable[Tracked], uses: tuple[GpuUse, ...]) -> None:
        """Name the pod and the container of every process that is in one, where that can be known."""
        there = [one for one in tracked if one.container.pod_uid]
        self._present = self._present or bool(there)
        given = self._given(uses)
        self._names = {uid: self._names[uid] for one in there if (uid := one.container.pod_uid) in self._names}
        told = {one.container.pod_uid for one in there} & self._facts.keys()
        self._names |= {uid: (self._facts[uid].namespace, self._facts[uid].name) for uid in told}
        self._names |= _match(_candidates(there, uses, given), self._names)
        self._missing = {}
        for one in there:
            name = self._names.get(one.container.pod_uid)
            if name is None:
                reason = (
                    self._reason if self._reason != "" else "several pods share the GPU, and which is which is not told"
                )
                self._missing.update((uuid, reason or "the kubelet was not asked yet") for uuid in one.gpus)
                continue
            places = [place for place in given if place.uuid in one.gpus]
            containers = {found.container for place in places for found in given[place] if _name(found) == name}
            container = containers.pop() if len(containers) == 1 else one.where[2]
            one.where = (*name, container)

    def entities(self, uses: tuple[GpuUse, ...]) -> Iterator[Entity]:
        """Give who was given what, and what cannot be named."""
        if not self._present:
            return
        yield Entity(POD_NAMES, (self._reason or "",), (int(self._reason == ""),))
        labels = {use.gpu.labels[2]: use.gpu.labels for use in uses}
        for place, found in self._given(uses).items():
            for one in found:
                where = (one.namespace, one.pod, one.container)
                yield Entity(GPU_POD, (*labels[place.uuid], *where, one.resource, one.device), (1,))
        with_gpu = {_name(one) for one in self._allocations} | set(self._names.values())
        for name, pairs in {(one.namespace, one.name): one.labels for one in self._facts.values()}.items():
            if name in with_gpu:
                for pair in pairs:
                    yield Entity(POD_LABEL, (*name, *pair), (1,))
        for uuid, reason in self._missing.items():
            if uuid in labels:
                yield Entity(SHARE_REASON, (*labels[uuid], "pods", reason), (1,))

    def _given(self, uses: tuple[GpuUse, ...]) -> dict[Place, list[Allocation]]:
        """Give what was given away of each GPU."""
        found: dict[Place, list[Allocation]] = {}
        for one in self._allocations:
            place = find_place(one.device, uses)
            if place is not None:
                found.setdefault(place, []).append(one)
        return found


def find_place(device: str, uses: tuple[GpuUse, ...]) -> Place | None:
    """Give the GPU that a device plugin or a DRA driver calls so; None for one that is not here.

    A UUID, with ::n after it for a replica; a MIG device's UUID, new or old; names of GKE and DRA are by the number of
    the device file.
    """
    bare = device.partition("::")[0]
    old, minor = _OLD_MIG.fullmatch(bare), _MINOR.match(bare)
    for use in uses:
        uuid, number = use.gpu.labels[2], use.info.labels[_NUMBER] or use.gpu.labels[0]
        if bare == uuid:
            return Place(uuid)
        if old is not None and old[1] == uuid:
            return Place(uuid, int(old[2]))
        for readings, _info in use.mig:
            if bare == readings.labels[_MIG_UUID]:
                return Place(uuid, int(readings.labels[_INSTANCE]))
        if minor is not None and number in (minor[1], minor[3]):
            return Place(uuid, int(minor[2]) if minor[2] else None)
    return None


def _name(allocation: Allocation) -> Name:
    return allocation.namespace, allocation.pod


def _candidates(
    there: Iterable[Tracked], uses: tuple[GpuUse, ...], given: Mapping[Place, list[Allocation]]
) -> dict[str, set[Name]]:
    """Give the pods that fit each UID: those that were given every device it uses."""
    instances: dict[tuple[int, str], set[int | None]] = {}
    for use in uses:
        for process in use.processes or ():
            instances.setdefault((process.pid, use.gpu.labels[2]), set()).add(process.gpu_instance_id)
    fits: dict[str, set[Name]] = {}
    for one in there:
        for uuid in one.gpus:
            for instance in instances.get((one.pid, uuid), ()):
                places = {Place(uuid, instance), Place(uuid)}
                names = {_name(found) for place in places for found in given.get(place, ())}
                uid = one.container.pod_uid
                fits[uid] = fits[uid] & names if uid in fits else names
    return fits


def _match(fits: Mapping[str, set[Name]], known: Mapping[str, Name]) -> dict[str, Name]:
    """Give names to UIDs as long as one is certain: what is taken by one UID fits no other."""
    matched = dict(known)
    while True:
        left = {uid: names - set(matched.values()) for uid, names in fits.items() if uid not in matched}
        claims: dict[Name, list[str]] = {}
        for uid, names in left.items():
            if len(names) == 1:
                claims.setdefault(next(iter(names)), []).append(uid)
        certain = {uids[0]: name for name, uids in claims.items() if len(uids) == 1}
        if not certain:
            return matched
        matched |= certain
