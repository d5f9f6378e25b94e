"""What is so now: the service and its GPUs, and the processes on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpumon import __version__
from gpumon.catalog import GPU_DOWN, GPU_HEALTH, GPU_INFO, Snapshot
from gpumon.gpuprocess import GpuProcess
from gpumon.web.api.snapshots import driver
from gpumon.web.api.times import iso

if TYPE_CHECKING:  # classes of this sort take 0.1 MB
    from collections.abc import Sequence
    from typing import Protocol

    class Container(Protocol):
        """Where a process runs; empty texts where that is not known."""

        @property
        def runtime(self) -> str: ...

    class Process(Protocol):
        """One process on GPUs, as the source of processes gives it."""

        @property
        def pid(self) -> int: ...
        @property
        def name(self) -> str: ...
        @property
        def user(self) -> str: ...
        @property
        def started(self) -> float | None: ...
        @property
        def category(self) -> str: ...
        @property
        def confidence(self) -> float: ...
        @property
        def rule(self) -> str: ...
        @property
        def contexts(self) -> str: ...
        @property
        def cpu_seconds(self) -> float | None: ...
        @property
        def resident_bytes(self) -> int | None: ...
        @property
        def container(self) -> Container: ...
        @property
        def namespace(self) -> str: ...
        @property
        def pod(self) -> str: ...
        @property
        def container_name(self) -> str: ...
        @property
        def job(self) -> str: ...
        @property
        def command_line(self) -> str: ...
        @property
        def gpus(self) -> Sequence[tuple[str, GpuProcess]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What stays the same while gpumon runs; `started` is Unix seconds."""

    host: str
    started: float
    poll_interval_secs: float
    storage: bool


Processes = Callable[[], "Iterable[Process]"]


def info(about: About, snapshot: Snapshot | None, now: float) -> dict[str, object]:
    """Give what gpumon is, and which GPUs it has seen since it started."""
    return {
        "version": __version__,
        "host": about.host,
        "started": iso(about.started),
        "time": iso(now),
        "poll_interval_secs": about.poll_interval_secs,
        "driver": "none" if snapshot is None else driver(snapshot),
        "storage": about.storage,
        "gpus": [] if snapshot is None else list(_gpus(snapshot)),
    }


def _gpus(snapshot: Snapshot) -> Iterator[dict[str, object]]:
    reasons = {entity.label("gpu_uuid"): entity.label("reason") for entity in snapshot.of(GPU_DOWN)}
    facts = {entity.label("gpu_uuid"): entity for entity in snapshot.of(GPU_INFO)}
    for entity in snapshot.of(GPU_HEALTH):
        uuid = entity.label("gpu_uuid")
        gpu: dict[str, object] = {
            "gpu_id": int(entity.label("gpu_id")),
            "gpu_uuid": uuid,
            "gpu_name": entity.label("gpu_name"),
            "up": bool(entity["up"]),
        }
        if uuid in reasons:
            gpu["reason"] = reasons[uuid]
        if uuid in facts:
            labels = zip(GPU_INFO.labels, facts[uuid].labels, strict=True)
            gpu |= {label.name: value for label, value in labels if value and label.name not in gpu}
        yield gpu


def processes(records: Iterable[Process], snapshot: Snapshot | None) -> dict[str, object]:
    """Give every process on a GPU, once per GPU, those with the most memory first; what is not known is left out."""
    indices = {} if snapshot is None else {e.label("gpu_uuid"): int(e.label("gpu_id")) for e in snapshot.of(GPU_HEALTH)}
    found = [
        (indices.get(uuid), -(on.memory_bytes or 0), each.pid, uuid, on, each)
        for each in records
        for uuid, on in each.gpus
    ]
    found.sort(key=lambda one: (-1 if one[0] is None else one[0], *one[1:4]))
    rows = [_row(process, uuid, on, gpu_id) for gpu_id, _, _, uuid, on, process in found]
    head = {} if snapshot is None else {"time": iso(snapshot.time)}
    return head | {"processes": rows}


def _row(process: Process, uuid: str, on: GpuProcess, gpu_id: int | None) -> dict[str, object]:
    found = {"gpu_id": gpu_id, "gpu_uuid": uuid} | {field.name: field.of(process, on) for field in FIELDS}
    return {name: value for name, value in found.items() if value is not None and value != ""}


@dataclass(frozen=True, slots=True)
class Field:
    """One fact of a process on a GPU: its name, its type as JSON knows it, what it means, and where it comes from."""

    name: str
    type: str
    help: str
    of: Callable[[Process, GpuProcess], object]


FIELDS = (
    Field("pid", "integer", "Process id, as the host counts.", lambda p, _: p.pid),
    Field("name", "string", "The kernel's name of the process.", lambda p, _: p.name),
    Field("user", "string", "User it runs as.", lambda p, _: p.user),
    Field("category", "string", "Kind of work.", lambda p, _: p.category),
    Field("confidence", "number", "How sure that is, from 0 to 1.", lambda p, _: round(p.confidence, 3)),
    Field("rule", "string", "The rule that decided.", lambda p, _: p.rule),
    Field("gpu_instance_id", "integer", "GPU instance of its MIG device.", lambda _, on: on.gpu_instance_id),
    Field("contexts", "string", "C compute, G graphics, M client of MPS.", lambda _, on: on.contexts),
    Field("memory_used_bytes", "integer", "Memory of the GPU it holds.", lambda _, on: on.memory_bytes),
    Field("sm_utilization_percent", "number", "Multiprocessor use since the last tick.", lambda _, on: on.sm),
    Field("memory_utilization_percent", "number", "Use of memory bandwidth, likewise.", lambda _, on: on.memory),
    Field("encoder_utilization_percent", "number", "Use of the video encoder, likewise.", lambda _, on: on.encoder),
    Field("decoder_utilization_percent", "number", "Use of the video decoder, likewise.", lambda _, on: on.decoder),
    Field("jpeg_utilization_percent", "number", "Use of the JPEG decoder, likewise.", lambda _, on: on.jpeg),
    Field("ofa_utilization_percent", "number", "Use of the optical flow accelerator, likewise.", lambda _, on: on.ofa),
    Field("started", "string", "When it started.", lambda p, _: None if p.started is None else iso(p.started)),
    Field("cpu_seconds", "number", "CPU time since it started.", lambda p, _: p.cpu_seconds),
    Field("resident_memory_bytes", "integer", "Memory of the machine it holds.", lambda p, _: p.resident_bytes),
    Field("namespace", "string", "Namespace of its pod.", lambda p, _: p.namespace),
    Field("pod", "string", "Name of its pod.", lambda p, _: p.pod),
    Field("container", "string", "Name or short id of its container.", lambda p, _: p.container_name),
    Field("container_runtime", "string", "What runs the container.", lambda p, _: p.container.runtime),
    Field("job", "string", "Its job in a batch system.", lambda p, _: p.job),
    Field("command_line", "string", "Only with processes.command_lines.", lambda p, _: p.command_line),
)
