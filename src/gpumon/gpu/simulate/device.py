"""One simulated GPU: what it is, what it counts, who uses it, how it is divided."""

from __future__ import annotations

import math
import random
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpumon.gpu.simulate import processes
from gpumon.gpu.simulate.architectures import MIB, MigProfile, Model
from gpumon.gpu.simulate.course import LAG_SECONDS, STEPS_PER_SECOND, Column, Course
from gpumon.gpu.simulate.processes import NO_INSTANCE, SimulatedAccount, SimulatedProcess

# nvmlDeviceGetMaxMigDeviceCount of every GPU that can be divided.
MOST_MIG_DEVICES = 7
# What the driver itself takes with no client at all, as nvidia-smi shows it.
DRIVER_MIB = 4
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
# Counters of events that live on the board; the others start anew when the driver is loaded.
BOARD_COUNTERS = frozenset(
    {"ecc_corrected_aggregate", "ecc_uncorrected_aggregate", "retired_single", "retired_double", "retired_pending"}
    | {"remapped_corrected", "remapped_uncorrected", "remap_pending", "remap_failure"}
)


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
    """What a device's readings follow: a course entered at `offset`, and what `bases` add to its sums.

    `warmth` is heat in °C left from before step `since`.
    """

    course: Course
    offset: int
    bases: Mapping[str, int]
    since: int = 0
    warmth: float = 0.0

    def column(self, name: str) -> Column:
        """Give a column of the course."""
        column: Column = getattr(self.course, name)
        return column

    def counted(self, name: str, step: int) -> int:
        """Give the sum of a moving column up to a step."""
        return self.column(name).before(step + self.offset) + self.bases[name]

    def rise(self, name: str, step: int) -> float:
        """Give how many °C a column of heat stands above the ambient; heat from before dies away."""
        seconds = max(0, step - self.since) / STEPS_PER_SECOND
        return self.column(name).at(step + self.offset) / 1000 + self.warmth * math.exp(-seconds / LAG_SECONDS)


class Device:
    """One GPU. Steps count sample periods since the driver's epoch; every reading is a function of the step.

    What can change is replaced whole, under `lock`; readings take no lock, for each looks at it once.
    """

    def __init__(self, model: Model, slot: int, seed: int, load: str, courses: dict[str, Course]) -> None:
        self.model = model
        self.features = model.features
        self.slot = slot
        self.index = slot
        self.address = 0
        self.lost = False
        self.stale = False
        self.epoch_microseconds = 0
        self.misplaced_processes = False
        self._lock = threading.Lock()
        self._courses = courses
        self._seed = seed
        self._draw = random.Random(f"{seed}/{slot}")  # noqa: S311 - a simulation, not a secret
        self.uuid = f"GPU-{self.draw_uuid()}"
        self.serial = f"{1650000000000 + self._draw.randrange(10**9)}"
        self.bus = 0x10 + 0x0B * (slot % 20)
        self.mig = False
        self.instances: tuple[Instance, ...] = ()
        self.counters: Mapping[tuple[str, int], int] = {}
        self.bits: dict[str, int] = {}  # where a counter wraps, when narrower than its type
        self.given: tuple[SimulatedProcess, ...] | None = None
        self.accounts: tuple[SimulatedAccount, ...] | None = None  # None: accounting mode is off
        self.real_pids: Sequence[int] = ()
        self.load = load
        self.motion = self._enter(load, dict.fromkeys(MOVING, 0), 0)
        self.meet_clients()

    def draw_uuid(self) -> str:
        """Give a UUID that depends on the seed, the slot and how many were drawn."""
        return str(uuid.UUID(int=self._draw.getrandbits(128), version=4))

    def stamp(self, step: int) -> int:
        """Give the Unix time of a step in µs, as NVML stamps its samples."""
        return self.epoch_microseconds + step * 1_000_000 // STEPS_PER_SECOND

    def step_of(self, stamp: int) -> int:
        """Give the step that is no later than a Unix time in µs."""
        return (stamp - self.epoch_microseconds) * STEPS_PER_SECOND // 1_000_000

    # What moves

    def _enter(self, load: str, counted: Mapping[str, int], step: int, temperature: float | None = None) -> Motion:
        """Give a motion that enters a load pattern at some point of it, with counters and heat as they are."""
        key = f"{self.model.name}/{load}"
        if key not in self._courses:
            self._courses[key] = Course(self.model, load, self._seed)
        course = self._courses[key]
        offset = self._draw.randrange(course.steps)
        bases = {name: total - getattr(course, name).before(step + offset) for name, total in counted.items()}
        warmth = 0.0
        if temperature is not None:
            warmth = temperature - Motion(course, offset, bases).rise("heat", step)
        return Motion(course, offset, bases, step, warmth)

    def follow(self, load: str, step: int) -> None:
        """Follow another load pattern from `step` on; counters go on from where they are, heat follows slowly."""
        with self._lock:
            counted = {name: self.motion.counted(name, step) for name in MOVING}
            self.motion = self._enter(load, counted, step, self.motion.rise("heat", step))
            self.load = load
        self.meet_clients()

    def at(self, column: str, step: int) -> int:
        """Give a column's value at a step."""
        motion = self.motion
        return motion.column(column).at(step + motion.offset)

    def mean(self, column: str, start: int, end: int) -> float:
        """Give a column's mean over the steps from `start` up to but not including `end`."""
        motion = self.motion
        return motion.column(column).mean(start + motion.offset, end + motion.offset)

    def mean_gpm(self, metric: int, start: int, end: int) -> float:
        """Give the mean of a GPM metric between two steps, in percent; KeyError where the simulation has none."""
        motion = self.motion
        return motion.course.gpm[metric].mean(start + motion.offset, end + motion.offset) / 100

    def temperature(self, step: int, column: str = "heat") -> float:
        """Give the die's temperature in °C, or that of another column of heat."""
        return self.model.ambient + self.motion.rise(column, step)

    # What is counted

    def counted(self, column: str, step: int) -> int:
        """Give the sum of a moving column since the driver was loaded."""
        return self.motion.counted(column, step)

    def count(self, name: str, scope: int = 0) -> int:
        """Give a counter of events, which stands still unless it is set."""
        return self.counters.get((name, scope), 0)

    def put(self, name: str, value: int, *, scope: int = 0) -> None:
        """Set a counter of events."""
        with self._lock:
            self.counters = {**self.counters, (name, scope): value}

    def put_counted(self, wanted: Mapping[str, int], step: int) -> None:
        """Set what moving columns have summed up to at a step."""
        with self._lock:
            motion = self.motion
            bases = {name: motion.bases[name] + total - motion.counted(name, step) for name, total in wanted.items()}
            self.motion = Motion(motion.course, motion.offset, {**motion.bases, **bases}, motion.since, motion.warmth)

    def reload(self, step: int) -> None:
        """Start what is counted since the driver was loaded anew."""
        with self._lock:
            self.counters = {key: value for key, value in self.counters.items() if key[0] in BOARD_COUNTERS}
        self.put_counted(dict.fromkeys(MOVING, 0), step)

    # How it is divided, and who uses it

    def divide(self, profiles: Sequence[str] | None) -> None:
        """Turn MIG mode on with these MIG devices, or off with None; the devices' identifiers are new."""
        rows = [self.model.mig[name] for name in profiles or ()]
        with self._lock:
            self.mig = profiles is not None
            self.instances = tuple(
                Instance(self, row, number, self._draw.uniform(0.7, 1.0)) for number, row in enumerate(rows, start=1)
            )
        self.meet_clients()

    def meet_clients(self) -> None:
        """Start the load pattern's processes: each MIG device has a set of its own."""
        homes = {
            (part.gpu_instance_id, part.compute_instance_id): part.profile.memory_mib * MIB for part in self.instances
        }
        if not self.mig:
            free = self.model.memory_mib - self.model.reserved_mib - DRIVER_MIB
            homes = {(NO_INSTANCE, NO_INSTANCE): free * MIB}
        self._clients = processes.clients(self.load, homes, self.slot, self.real_pids)

    def client_count(self) -> int:
        """Give how many processes the load pattern has here."""
        return len(self._clients)

    def processes(self, step: int) -> tuple[SimulatedProcess, ...]:
        """Give the processes that hold memory at `step`."""
        if self.given is not None:
            return self.given
        return processes.fill(self._clients, self.at("filled", step) / 10000)

    def used(self, step: int, gpu_instance_id: int | None = None) -> int:
        """Give the bytes in use on the whole GPU, or on one of its instances."""
        if self.given is not None:
            held = [(process, process.used_memory_bytes or 0) for process in self.given]
        else:
            filled = self.at("filled", step) / 10000
            held = [(client.process, client.held(filled)) for client in self._clients]
        if gpu_instance_id is not None:
            return sum(count for process, count in held if process.gpu_instance_id == gpu_instance_id)
        return DRIVER_MIB * MIB + sum(count for _process, count in held)

    def shares(self, step: int) -> dict[int, tuple[int, ...]]:
        """Give each process's percent of the multiprocessors, memory, encoder and decoder, by pid."""
        whole = [self.at(column, step) for column in ("busy", "memory_busy", "encoder", "decoder")]
        return processes.shares(self.processes(step), whole)
