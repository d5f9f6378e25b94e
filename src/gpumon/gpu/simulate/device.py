"""One simulated GPU: what it is, what it counts, who uses it, how it is divided."""

from __future__ import annotations

import math
import random
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gpumon.gpu.simulate.course import LAG_SECONDS, STEPS_PER_SECOND, Column, Course
from gpumon.gpu.simulate.loads import LOADS
from gpumon.gpu.simulate.models import MIB, MigProfile, Model

# NVML's "does not apply" for instance ids and its "not available" for memory.
NO_INSTANCE = 0xFFFFFFFF
# nvmlDeviceGetMaxMigDeviceCount of every GPU that can be divided.
MOST_MIG_DEVICES = 7
# What the driver itself takes with no client at all, as nvidia-smi shows it.
DRIVER_MIB = 4
# Linux gives no pid above this (PID_MAX_LIMIT), so no real process is ever mistaken for a simulated one.
FIRST_PID = 2**22 + 1
# Counters that start anew when the driver is loaded; the others live on the board.
BOARD_COUNTERS = frozenset(
    {"ecc_corrected_aggregate", "ecc_uncorrected_aggregate", "retired_single", "retired_double", "remapped_corrected"}
    | {"remapped_uncorrected", "remap_pending", "remap_failure", "retired_pending"}
)
# Columns of a course whose sums since the driver was loaded are counters.
MOVING = (
    "power",
    "pcie_transmit",
    "pcie_receive",
    "nvlink_transmit",
    "nvlink_receive",
    "power_capped",
    "thermal",
    "hw_thermal",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedProcess:
    """A process on a GPU. `kind` is the list it is in: compute, graphics or mps.

    `used_memory_bytes` None is "not available". Percentages None follow the GPU's load, shared by memory.
    """

    pid: int
    name: str = "python"
    kind: str = "compute"
    used_memory_bytes: int | None = 0
    sm: int | None = None
    memory: int | None = None
    encoder: int | None = None
    decoder: int | None = None
    gpu_instance_id: int = NO_INSTANCE
    compute_instance_id: int = NO_INSTANCE


@dataclass(frozen=True, slots=True)
class Client:
    """A process of the load pattern, whose memory and work follow the pattern."""

    process: SimulatedProcess
    share: float


class Instance:
    """A MIG device: one compute instance that fills its GPU instance. `strength` is its load relative to the GPU's."""

    def __init__(self, device: Device, profile: MigProfile, gpu_instance_id: int, strength: float) -> None:
        self.device = device
        self.profile = profile
        self.gpu_instance_id = gpu_instance_id
        self.compute_instance_id = 0
        self.strength = strength
        self.uuid = f"MIG-{device.draw_uuid()}"
        self.name = f"{device.model.name} MIG {profile.name}"
        self.address = 0


@dataclass(frozen=True, slots=True)
class Motion:
    """What a device's readings follow from a moment on: a course entered at `offset`, and heat left from before."""

    course: Course
    offset: int
    since: int = 0
    warmth: float = 0.0


class Device:
    """One GPU. Steps count sample periods since the driver's epoch; every reading is a function of the step.

    Changes are made under `lock`; readings take no lock, for each needs one consistent value only.
    """

    def __init__(self, model: Model, slot: int, seed: int, load: str, courses: dict[str, Course]) -> None:
        self.model = model
        self.slot = slot
        self.index = slot
        self.features = model.features
        self.lock = threading.Lock()
        self._courses = courses
        self._seed = seed
        self._draw = random.Random(f"{seed}/{slot}")  # noqa: S311 - a simulation, not a secret
        self.uuid = f"GPU-{self.draw_uuid()}"
        self.serial = f"{1650000000000 + self._draw.randrange(10**9)}"
        self.bus = 0x10 + 0x0B * (slot % 20)
        self.load = load
        course = self._course(load)
        self.motion = Motion(course, self._draw.randrange(course.steps))
        self.address = 0
        self.epoch_microseconds = 0
        self.misplaced_processes = False
        self.lost = False
        self.stale = False
        self.counters: dict[tuple[str, int], int] = {}
        self.bits: dict[str, int] = {}  # where a counter wraps, when narrower than its type
        self.instances: tuple[Instance | None, ...] = ()
        self.mig = False
        self.given: tuple[SimulatedProcess, ...] | None = None
        self.clients: tuple[Client, ...] = ()
        self.real_pids: Sequence[int] = ()
        self.meet_clients()

    def draw_uuid(self) -> str:
        """Give a UUID that depends on the seed, the slot and how many were drawn."""
        return str(uuid.UUID(int=self._draw.getrandbits(128), version=4))

    def _course(self, load: str) -> Course:
        key = f"{self.model.name}/{load}"
        if key not in self._courses:
            self._courses[key] = Course(self.model, load, self._seed)
        return self._courses[key]

    def stamp(self, step: int) -> int:
        """Give the Unix time of a step in µs, as NVML stamps its samples."""
        return self.epoch_microseconds + step * 1_000_000 // STEPS_PER_SECOND

    # What moves

    def at(self, column: str, step: int) -> int:
        """Give a column's value at a step."""
        motion = self.motion
        value: Column = getattr(motion.course, column)
        return value.at(step + motion.offset)

    def mean(self, column: str, start: int, end: int) -> float:
        """Give a column's mean over the steps from `start` up to but not including `end`."""
        motion = self.motion
        value: Column = getattr(motion.course, column)
        return value.mean(start + motion.offset, end + motion.offset)

    def mean_gpm(self, metric: int, start: int, end: int) -> float:
        """Give the mean of a GPM metric between two steps, in percent; KeyError where the simulation has none."""
        motion = self.motion
        return motion.course.gpm[metric].mean(start + motion.offset, end + motion.offset) / 100

    def moved(self, column: str, step: int) -> int:
        """Give the sum of a column over all steps before `step`, up to a constant that `counters` holds."""
        motion = self.motion
        value: Column = getattr(motion.course, column)
        return value.before(step + motion.offset) - value.before(motion.offset)

    def temperature(self, step: int, column: str = "heat") -> float:
        """Give the die's temperature in °C; heat from an earlier load dies away."""
        motion = self.motion
        seconds = (step - motion.since) / STEPS_PER_SECOND
        left = motion.warmth * math.exp(-max(0.0, seconds) / LAG_SECONDS)
        return self.model.ambient + self.at(column, step) / 1000 + left

    def follow(self, load: str, step: int) -> None:
        """Follow another load pattern from `step` on; counters go on from where they are, heat follows slowly."""
        with self.lock:
            course = self._course(load)
            offset = self._draw.randrange(course.steps)
            before = {column: self.moved(column, step) for column in MOVING}
            warmth = self.temperature(step)
            self.load, self.motion = load, Motion(course, offset, step)
            warmth -= self.temperature(step)
            self.motion = replace(self.motion, warmth=warmth)
            counters = dict(self.counters)
            for column, total in before.items():
                counters[column, -1] = counters.get((column, -1), 0) + total - self.moved(column, step)
            self.counters = counters
        self.meet_clients()

    # What is counted

    def counted(self, column: str, step: int) -> int:
        """Give the sum of a moving column since the driver was loaded."""
        return self.moved(column, step) + self.counters.get((column, -1), 0)

    def count(self, name: str, scope: int = 0) -> int:
        """Give a counter of events, which stands still unless it is set."""
        return self.counters.get((name, scope), 0)

    def put(self, name: str, scope: int, value: int) -> None:
        """Set what a counter has counted."""
        with self.lock:
            self.counters = {**self.counters, (name, scope): value}

    def reload(self, step: int) -> None:
        """Start what is counted since the driver was loaded anew."""
        with self.lock:
            kept = {key: value for key, value in self.counters.items() if key[0] in BOARD_COUNTERS}
            self.counters = kept | {(column, -1): -self.moved(column, step) for column in MOVING}

    # How it is divided

    def divide(self, profiles: Sequence[str] | None) -> None:
        """Turn MIG mode on with these MIG devices, or off with None; the devices' identifiers are new."""
        with self.lock:
            self.mig = profiles is not None
            rows = [self.model.mig[name] for name in profiles or ()]
            self.instances = tuple(
                Instance(self, row, number + 1, self._draw.uniform(0.7, 1.0)) for number, row in enumerate(rows)
            )
        self.meet_clients()

    # Who uses it

    def meet_clients(self) -> None:
        """Start the load pattern's processes: each MIG device has a set of its own."""
        rows = LOADS[self.load].clients
        homes: list[Instance | None] = [instance for instance in self.instances if instance] if self.mig else [None]
        clients = []
        for number, (home, row) in enumerate((home, row) for home in homes for row in rows):
            pid = FIRST_PID + 1000 * self.slot + number
            if number < len(self.real_pids):
                pid = self.real_pids[number]
            process = SimulatedProcess(
                pid=pid,
                name=row.name,
                kind=row.kind,
                gpu_instance_id=home.gpu_instance_id if home else NO_INSTANCE,
                compute_instance_id=home.compute_instance_id if home else NO_INSTANCE,
            )
            clients.append(Client(process, row.share))
        self.clients = tuple(clients)

    def capacity(self, gpu_instance_id: int = NO_INSTANCE) -> int:
        """Give the bytes that processes of the GPU or of one of its instances can fill."""
        for instance in self.instances:
            if instance and instance.gpu_instance_id == gpu_instance_id:
                return instance.profile.memory_mib * MIB
        return (self.model.memory_mib - self.model.reserved_mib - DRIVER_MIB) * MIB

    def processes(self, step: int) -> tuple[SimulatedProcess, ...]:
        """Give the processes that hold memory at `step`."""
        if self.given is not None:
            return self.given
        filled = self.at("filled", step) / 10000
        return tuple(
            replace(
                client.process,
                used_memory_bytes=_pages(self.capacity(client.process.gpu_instance_id) * filled * client.share),
            )
            for client in self.clients
        )

    def used(self, step: int, gpu_instance_id: int | None = None) -> int:
        """Give the bytes in use on the whole GPU, or on one of its instances."""
        mine = [p for p in self.processes(step) if gpu_instance_id is None or p.gpu_instance_id == gpu_instance_id]
        driver = DRIVER_MIB * MIB if gpu_instance_id is None else 0
        return driver + sum(process.used_memory_bytes or 0 for process in mine)

    def shares(self, step: int) -> Mapping[int, tuple[int, int, int, int]]:
        """Give each process's percent of the multiprocessors, memory, encoder and decoder, by pid."""
        processes = self.processes(step)
        weights = [process.used_memory_bytes or 1 for process in processes]
        whole = [self.at(column, step) for column in ("busy", "memory_busy", "encoder", "decoder")]
        shares = {}
        for process, weight in zip(processes, weights, strict=True):
            own = (process.sm, process.memory, process.encoder, process.decoder)
            part = weight / sum(weights)
            sm, memory, encoder, decoder = (
                round(total * part) if given is None else given for total, given in zip(whole, own, strict=True)
            )
            shares[process.pid] = (sm, memory, encoder, decoder)
        return shares


def _pages(count: float) -> int:
    """Give a whole number of the driver's 2 MiB pages."""
    return round(count / (2 * MIB)) * 2 * MIB
