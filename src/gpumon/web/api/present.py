"""What is so now: the service and its GPUs, and the processes on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gpumon import __version__
from gpumon.catalog import GPU_DOWN, GPU_HEALTH, GPU_INFO, Snapshot
from gpumon.gpuprocess import GpuProcess
from gpumon.web.api.snapshots import driver
from gpumon.web.api.times import iso

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What stays the same while gpumon runs; `started` is Unix seconds."""

    host: str
    started: float
    poll_interval_secs: float
    storage: bool


class Container(Protocol):
    """Where a process runs; empty texts where that is not known."""

    @property
    def id(self) -> str: ...
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


Processes = Callable[[], Iterable[Process]]


def info(about: About, snapshot: Snapshot | None, now: float) -> dict[str, Any]:
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


def _gpus(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    reasons = {entity.label("gpu_uuid"): entity.label("reason") for entity in snapshot.of(GPU_DOWN)}
    facts = {entity.label("gpu_uuid"): entity for entity in snapshot.of(GPU_INFO)}
    for entity in snapshot.of(GPU_HEALTH):
        uuid = entity.label("gpu_uuid")
        gpu: dict[str, Any] = {
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


def processes(records: Iterable[Process], snapshot: Snapshot | None) -> dict[str, Any]:
    """Give every process on a GPU, once per GPU, those with the most memory first; what is not known is left out."""
    indices = {} if snapshot is None else {e.label("gpu_uuid"): int(e.label("gpu_id")) for e in snapshot.of(GPU_HEALTH)}
    rows = [_row(each, uuid, on, indices.get(uuid)) for each in records for uuid, on in each.gpus]
    rows.sort(key=lambda row: (row.get("gpu_id", -1), -row.get("memory_used_bytes", 0), row["pid"]))
    head = {} if snapshot is None else {"time": iso(snapshot.time)}
    return head | {"processes": rows}


def _row(process: Process, uuid: str, on: GpuProcess, gpu_id: int | None) -> dict[str, Any]:
    row = {
        "pid": process.pid,
        "name": process.name,
        "user": process.user,
        "category": process.category,
        "confidence": round(process.confidence, 3),
        "rule": process.rule,
        "gpu_id": gpu_id,
        "gpu_uuid": uuid,
        "gpu_instance_id": on.gpu_instance_id,
        "contexts": on.contexts,
        "memory_used_bytes": on.memory_bytes,
        "sm_utilization_percent": on.sm,
        "memory_utilization_percent": on.memory,
        "encoder_utilization_percent": on.encoder,
        "decoder_utilization_percent": on.decoder,
        "jpeg_utilization_percent": on.jpeg,
        "ofa_utilization_percent": on.ofa,
        "started": None if process.started is None else iso(process.started),
        "cpu_seconds": process.cpu_seconds,
        "resident_memory_bytes": process.resident_bytes,
        "namespace": process.namespace,
        "pod": process.pod,
        "container": process.container_name,
        "container_runtime": process.container.runtime,
        "job": process.job,
        "command_line": process.command_line,
    }
    return {name: value for name, value in row.items() if value is not None and value != ""}
