"""One process on GPUs for as long as it is there: what it is, what it does, what it did on each GPU."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from gpumon.gpuprocess import GpuProcess
from gpumon.process.behaviour import Watch
from gpumon.process.classify import Classification
from gpumon.process.container import NOWHERE, Container
from gpumon.process.examine import LONGEST_REVIEW_SECONDS, REVIEW_SECONDS, SURE, Answer, Person
from gpumon.process.proc import Facts, Stat
from gpumon.process.workload import UNATTRIBUTED, Workload


@dataclass(slots=True)
class OnGpu:
    """What a process did on one GPU so far."""

    gpu_id: int
    since: float  # Unix seconds
    peak_memory_bytes: int | None = None
    busy_seconds: float = 0.0
    energy_joules: float = 0.0


@dataclass(slots=True)
class Tracked:
    """A process, by pid and start. `stat` is None for one that /proc does not show, `person` until it was looked at."""

    pid: int
    stat: Stat | None
    person: Person | None = None
    denied: tuple[str, ...] = ()
    classification: Classification = field(default_factory=Classification)
    contexts: str = ""  # on all GPUs, as in GpuProcess
    where: tuple[str, str, str] = ("", "", "")  # namespace, pod, container
    workload: Workload = UNATTRIBUTED
    job: str = ""  # of a GPU's mapping file, where its cgroup names none
    gpus: dict[str, OnGpu] = field(default_factory=dict)  # by UUID
    watch: Watch = field(default_factory=Watch)
    review_at: float = 0.0  # monotonic seconds
    review_gap: float = 0.0
    waits: bool = False  # for a tick that has room for expensive readings
    key: Hashable = None  # what tells it from every other process

    def __post_init__(self) -> None:
        self.key = self.pid, None if self.stat is None else self.stat.ticks

    @property
    def name(self) -> str:
        """Give its name; what the kernel calls it while it was not looked at, "" when that is not known either."""
        if self.person is not None:
            return self.person.name
        return "" if self.stat is None else self.stat.name

    @property
    def facts(self) -> Facts | None:
        """Give what /proc told of it."""
        return None if self.person is None else self.person.facts

    @property
    def container(self) -> Container:
        """Give the container it runs in."""
        return NOWHERE if self.person is None else self.person.container

    @property
    def command_line(self) -> str:
        """Give its command line, redacted; empty unless switched on."""
        return "" if self.person is None else self.person.command_line

    def learn(self, answer: Answer, time: float) -> bool:
        """Take what was found out; say whether its category is another than was said before."""
        before = None if self.person is None else self.classification.category
        self.person, self.classification, self.denied = answer.person, answer.classification, answer.denied
        self.waits = answer.waits and answer.classification.confidence < SURE
        if answer.classification.confidence >= SURE:
            self.review_at = float("inf")
        elif not self.waits:
            self.review_gap = min(2 * self.review_gap or REVIEW_SECONDS, LONGEST_REVIEW_SECONDS)
            self.review_at = time + self.review_gap
        return before is not None and before != answer.classification.category

    def settle(self) -> None:
        """Work out the workload it is part of, once where it runs is known."""
        self.workload = Workload(self.classification.category, *self.where, self.container.job or self.job)


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process on GPUs as it is now, for whoever lists them; `command_line` is "" unless switched on."""

    pid: int
    name: str
    user: str
    started: float | None  # Unix seconds
    category: str
    confidence: float
    rule: str
    untried: tuple[str, ...]
    contexts: str
    cpu_seconds: float | None
    resident_bytes: int | None
    container: Container
    namespace: str
    pod: str
    container_name: str
    job: str
    command_line: str
    gpus: tuple[tuple[str, GpuProcess], ...]  # by UUID


def record(one: Tracked, gpus: tuple[tuple[str, GpuProcess], ...]) -> ProcessRecord:
    """Give a process as it is now."""
    namespace, pod, container_name = one.where
    return ProcessRecord(
        pid=one.pid,
        name=one.name,
        user="" if one.facts is None else one.facts.user,
        started=None if one.facts is None else one.facts.started,
        category=one.classification.category,
        confidence=one.classification.confidence,
        rule=one.classification.rule,
        untried=one.classification.untried,
        contexts=one.contexts,
        cpu_seconds=None if one.stat is None else one.stat.cpu_seconds,
        resident_bytes=None if one.stat is None else one.stat.resident_bytes,
        container=one.container,
        namespace=namespace,
        pod=pod,
        container_name=container_name,
        job=one.workload.job,
        command_line=one.command_line,
        gpus=gpus,
    )


def brief(one: Tracked, uuid: str) -> dict[str, str | int | float]:
    """Give what a process is, where it runs and what it held on one GPU at most; what is not known is left out."""
    namespace, pod, container = one.where
    found: dict[str, str | int | float | None] = {
        "pid": one.pid,
        "name": one.name,
        "category": one.classification.category,
        "namespace": namespace,
        "pod": pod,
        "container": container,
        "job": one.workload.job,
        "memory_used_bytes": one.gpus[uuid].peak_memory_bytes,
    }
    return {name: value for name, value in found.items() if value}
