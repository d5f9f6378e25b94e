"""One GPU: opening it, finding its parts, reading them. Everything here runs on a thread of the crew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from gpumon.catalog import (
    FAN,
    GPU,
    GPU_INFO,
    MIG,
    MIG_INFO,
    NVLINK,
    SUPPORT,
    Cadence,
    Call,
    Computed,
    Entity,
    EntityKind,
    Gpm,
    Label,
    Reading,
)
from gpumon.gpu.buffers import FieldBlock, SampleBuffer, number
from gpumon.gpu.counters import Ledger
from gpumon.gpu.nvml import (
    INVALID_ARGUMENT,
    NOT_FOUND,
    SUCCESS,
    Handle,
    Nvml,
    RefusedError,
    Trouble,
    constant,
    trouble_of,
)
from gpumon.gpu.plan import NONE_LEFT, GpmPairs, Part, Plan, call_value, make_plan
from gpumon.gpu.processes import DeviceProcesses
from gpumon.gpuprocess import GpuUse

T = TypeVar("T")

(_PCI_BUS_ID,) = (label for label in GPU_INFO.labels if label.name == "pci_bus_id")


class DeviceGoneError(Exception):
    """The device does not answer any more; `code` is the NVML return value that said so."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class DeviceSetup:
    """What a device needs from outside: intervals in seconds, and who knows of its XIDs and counts."""

    slow_interval: float
    longest_gap: float
    ledger: Callable[[str], Ledger]  # by UUID
    last_xid_time: Callable[[str], float | None]  # by UUID, Unix seconds
    opened: Callable[[Device], None] = lambda _device: None  # called once it is open
    processes: bool = False  # whether they are asked for


class Device:
    """One GPU while it answers. A device that is gone is thrown away, and another made when it may be back."""

    def __init__(self, nvml: Nvml, index: int, setup: DeviceSetup) -> None:
        self.nvml = nvml
        self.index = index
        self.handle: Handle = None
        self.labels: tuple[str, str, str] = (str(index), "", "")
        self.pci_bus_id = ""
        self.utilization_samples = SampleBuffer(constant("NVML_GPU_UTILIZATION_SAMPLES"))
        self.longest_gap = setup.longest_gap
        self.use: GpuUse | None = None  # who used it at the last reading
        self._setup = setup
        self._ledger: Ledger | None = None
        self._gpu: Part | None = None
        self._parts: list[Part] = []
        self._plans: dict[Cadence, Plan] = {}
        self._pairs = GpmPairs()
        self._processes: DeviceProcesses | None = None
        self._slow_due = 0.0
        self._layout: tuple[object, ...] = ()
        self._infos: tuple[Entity, ...] = ()
        self._support: tuple[Entity, ...] = ()

    @property
    def uuid(self) -> str:
        """Give the device's UUID, "" before it was opened."""
        return self.labels[2]

    @property
    def ledger(self) -> Ledger:
        """Give what is kept of this device; only after it was opened."""
        assert self._ledger is not None
        return self._ledger

    def gpu_value(self, column: str) -> float | None:
        """Give the GPU's own value of a column as read at this tick."""
        assert self._gpu is not None
        return self._gpu.values[GPU.index[column]]

    def supports(self, column: str) -> bool:
        """Say whether the GPU has any source left for a column."""
        assert self._gpu is not None
        return self._gpu.choices[GPU.index[column]] != NONE_LEFT

    def last_xid_time(self) -> float | None:
        """Give Unix seconds of the last XID of this device, None when there was none."""
        return self._setup.last_xid_time(self.uuid)

    def read(self, now: float) -> tuple[Entity, ...]:
        """Read what is due at `now` (monotonic seconds) and give the device's entities, opening the device first if need be.

        Raises DeviceGoneError.
        """
        slow = now >= self._slow_due
        try:
            if self._gpu is None:
                self._open()
            if slow:
                self._find_parts()
                self._read_slow(now)
                self._slow_due = now + self._setup.slow_interval
            self._run(Cadence.TICK, now)
            self._read_processes(now, slow=slow)
        except RefusedError as error:
            # Only what the device cannot be without is not caught closer by.
            raise DeviceGoneError(error.code) from None
        return self._entities()

    def free(self) -> None:
        """Give back what the driver holds for this device; before the driver is closed."""
        self._pairs.free(self.nvml)

    def _open(self) -> None:
        self.handle = self.nvml.call("nvmlDeviceGetHandleByIndex", self.index)
        name = self._identity(GPU.labels[1], self.handle)
        uuid = str(self.nvml.call("nvmlDeviceGetUUID", self.handle))
        self.labels = (str(self.index), name, uuid)
        self.pci_bus_id = self._identity(_PCI_BUS_ID, self.handle)
        self._ledger = self._setup.ledger(uuid)
        self._gpu = Part(GPU, self.handle, self.labels)
        self._setup.opened(self)

    def _identity(self, label: Label, handle: Handle) -> str:
        """Give an identity label of a device; "" for what it does not have or may not tell."""
        for source in label.sources:
            assert isinstance(source, Call)
            try:
                value = call_value(source)(self.nvml.call(source.function, handle, *source.args))
            except RefusedError as error:
                if error.trouble is Trouble.GONE:
                    raise DeviceGoneError(error.code) from None
                continue
            return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        return ""

    def _info(self, kind: EntityKind, known: tuple[str, ...], handle: Handle) -> Entity:
        rest = tuple(self._identity(label, handle) for label in kind.labels[len(known) :])
        return Entity(kind, known + rest, (1,))

    # Parts: links, fans and MIG devices may come and go while the device stays.

    def _find_parts(self) -> None:
        assert self._gpu is not None
        links = self._link_count()
        fans = self._ask("nvmlDeviceGetNumFans", 0)
        mig_mode = self._ask("mig_mode", "")
        instances = list(self._mig_devices()) if mig_mode == "enabled" else []
        layout = (links, fans, mig_mode, tuple(labels for labels, *_ in instances))
        if layout != self._layout:
            self._layout = layout
            # A new GPU instance may have the number of an old one; a mean must not reach over both.
            self._pairs.free(self.nvml, instances_only=True)
            # With MIG switched on or off, other readings exist: what was refused is tried again.
            self._gpu = Part(GPU, self.handle, self.labels)
            self._parts = [
                self._gpu,
                *(Part(NVLINK, self.handle, (*self.labels, str(i)), {"link": i}) for i in range(links)),
                *(Part(FAN, self.handle, (*self.labels, str(i)), {"fan": i}) for i in range(fans)),
                *(Part(MIG, handle, labels, gpu_instance_id=gi) for labels, handle, gi in instances),
            ]
            if self._setup.processes:
                self._processes = DeviceProcesses(self._ask("nvmlSystemGetDriverVersion", ""))
            self._leave_repeated_gpm_out()
            self._replan()
        self._infos = (
            self._info(GPU_INFO, self.labels, self.handle),
            *(self._info(MIG_INFO, labels, handle) for labels, handle, _ in instances),
        )

    def _leave_repeated_gpm_out(self) -> None:
        """GPM measures a GPU instance: only the first of its compute instances shows it, so that sums are right."""
        seen: set[int | None] = set()
        for part in self._parts:
            if part.kind is MIG:
                if part.gpu_instance_id in seen:
                    for i, column in enumerate(MIG.columns):
                        if isinstance(column.sources[0], Gpm):
                            part.choices[i] = NONE_LEFT
                seen.add(part.gpu_instance_id)

    def _link_count(self) -> int:
        block = FieldBlock([(constant("NVML_FI_DEV_NVLINK_LINK_COUNT"), 0)])
        try:
            ((value_type, code, raw),) = block.read(self.nvml, self.handle)
        except RefusedError as error:
            code, value_type, raw = error.code, 0, 0
        if trouble_of(code) is Trouble.GONE:
            raise DeviceGoneError(code)
        return int(number(value_type, raw) or 0) if code == SUCCESS else 0

    def _ask(self, function: str, otherwise: T) -> T:
        """Give the answer of a call, or `otherwise` when the device has none."""
        try:
            answer: T = self.nvml.call(function, self.handle)
        except RefusedError as error:
            if error.trouble is Trouble.GONE:
                raise
            return otherwise
        return answer

    def _mig_devices(self) -> Iterable[tuple[tuple[str, ...], Handle, int]]:
        """Give labels, handle and GPU instance of every MIG device; slots may be empty anywhere in between."""
        for slot in range(self._ask("nvmlDeviceGetMaxMigDeviceCount", 0)):
            try:
                handle = self.nvml.call("nvmlDeviceGetMigDeviceHandleByIndex", self.handle, slot)
            except RefusedError as error:
                if error.trouble is Trouble.GONE:
                    raise
                if error.code != NOT_FOUND and error.trouble is not Trouble.OTHER:
                    return  # MIG is off, or this process may not look
                continue
            labels = tuple(self._identity(label, handle) for label in MIG.labels[3:])
            if labels[0].isdigit():
                yield (*self.labels, *labels), handle, int(labels[0])

    # Reading.

    def _replan(self) -> None:
        self._plans = {
            cadence: make_plan(self._parts, cadence, self.ledger, self._pairs)
            for cadence in (Cadence.SLOW, Cadence.TICK)
        }
        self._support = tuple(self._supported())

    def _read_slow(self, now: float) -> None:
        links_before = [part.values[0] for part in self._parts if part.kind is NVLINK]
        self._run(Cadence.SLOW, now)
        links = [part for part in self._parts if part.kind is NVLINK]
        for part, before in zip(links, links_before, strict=True):
            if part.values[0] != before:
                # A link that is down refuses its counters; up again, it is asked again.
                part.choices[1:] = [0] * (len(NVLINK.columns) - 1)
        if links_before != [part.values[0] for part in links]:
            self._replan()

    def _run(self, cadence: Cadence, now: float) -> None:
        """Carry out a plan; for what is refused go on to the reading's next source, at once, until none is left."""
        run = self._carry_out(self._plans[cadence], now)
        code = run.gone()
        if code is not None:
            raise DeviceGoneError(code)
        if not run.refused:
            return
        while run.refused:
            for part, column, reason in run.refused:
                part.refuse(column, reason)
            again = {(id(part), column) for part, column, _ in run.refused}
            run = self._carry_out(make_plan(self._parts, cadence, self.ledger, self._pairs, again), now)
        self._replan()

    def _carry_out(self, plan: Plan, now: float) -> _Run:
        run = _Run()
        for part, column in plan.columns:
            part.values[column] = None
        self._read_fields(plan, run)
        for function, handle, args, outputs in plan.calls:
            try:
                answer = self.nvml.call(function, handle, *args)
            except RefusedError as error:
                for output in outputs:
                    run.refuse(output.part, output.column, error.code)
                continue
            run.answered = True
            for output in outputs:
                output.part.values[output.column] = output.convert(answer)
        self._read_gpm(plan, run)
        for compute, _, part, column in plan.computed:
            try:
                part.values[column] = compute(self, now)
            except RefusedError as error:
                run.refuse(part, column, error.code)
        return run

    def _read_fields(self, plan: Plan, run: _Run) -> None:
        if plan.fields is None:
            return
        try:
            answers = plan.fields.read(self.nvml, self.handle)
        except RefusedError as error:
            for field in plan.field_outputs:
                run.refuse(field.part, field.column, error.code)
            return
        for field, (value_type, code, raw) in zip(plan.field_outputs, answers, strict=True):
            if code == SUCCESS:
                run.answered = True
                field.part.values[field.column] = field.convert(value_type, raw)
            else:
                self.nvml.refused(field.name, code)  # counted there when unexpected
                run.refuse(field.part, field.column, code)

    def _read_gpm(self, plan: Plan, run: _Run) -> None:
        for pair, outputs in plan.gpm:
            try:
                metrics = pair.read(self.nvml, self.handle)
            except RefusedError as error:
                for output in outputs:
                    run.refuse(output.part, output.column, error.code)
                continue
            run.answered = True
            for output, (code, value) in zip(outputs, metrics or (), strict=False):
                if code == SUCCESS:
                    output.part.values[output.column] = output.convert(value)
                else:
                    run.refuse(output.part, output.column, code)

    def _read_processes(self, now: float, *, slow: bool) -> None:
        if self._processes is None or self._gpu is None:
            return
        instances = [part for part in self._parts if part.kind is MIG]
        handles = (part.handle for part in instances)
        reading = self._processes.read(self.nvml, self.handle, handles, slow=slow)
        gpu, *mig = (Entity(part.kind, part.labels, tuple(part.values)) for part in (self._gpu, *instances))
        info, *mig_infos = self._infos
        self.use = GpuUse(now, gpu, info, tuple(zip(mig, mig_infos, strict=True)), *reading)

    # What was read.

    def _entities(self) -> tuple[Entity, ...]:
        return (
            *(Entity(part.kind, part.labels, tuple(part.values)) for part in self._parts),
            *self._infos,
            *self._support,
        )

    def _supported(self) -> Iterable[Entity]:
        """Give one entity per reading the device lacks or has only by a stand-in, with the reason."""
        notes: dict[tuple[EntityKind, int], tuple[str, int] | None] = {}
        for part in self._parts:
            for i in range(len(part.kind.columns)):
                # What one link or instance has plainly is not said to be missing because another lacks it.
                note = _support(part, i)
                notes[part.kind, i] = note if notes.get((part.kind, i), note) is not None else None
        for kind in dict.fromkeys(kind for kind, _ in notes):
            for reading in kind.readings:
                yield from self._support_of(kind, reading, notes)

    def _support_of(
        self, kind: EntityKind, reading: Reading, notes: dict[tuple[EntityKind, int], tuple[str, int] | None]
    ) -> Iterable[Entity]:
        """Give what is said of one reading: once for all its label values where the same holds for all of them."""
        columns = [i for i, column in enumerate(kind.columns) if column.reading is reading]
        found = [note for i in columns if (note := notes[kind, i]) is not None]
        if len(found) == len(columns) and len(set(found)) == 1:
            reason, value = found[0]
            yield Entity(SUPPORT, (*self.labels, kind.metric(reading), reason), (value,))
            return
        for i in columns:
            if (note := notes[kind, i]) is not None:
                yield Entity(SUPPORT, (*self.labels, kind.series(kind.columns[i]), note[0]), (note[1],))


class _Run:
    """What came of carrying out a plan once."""

    __slots__ = ("answered", "codes", "refused")

    def __init__(self) -> None:
        self.answered = False
        self.codes: Counter[int] = Counter()
        self.refused: list[tuple[Part, int, str]] = []

    def gone(self) -> int | None:
        """Give the code most often met when nothing at all was answered: then no reading is at fault, the device is.

        Unless the driver plainly said that it has none of them.
        """
        if self.answered or not self.codes:
            return None
        code = self.codes.most_common(1)[0][0]
        return code if code == INVALID_ARGUMENT or trouble_of(code) is Trouble.OTHER else None

    def refuse(self, part: Part, column: int, code: int) -> None:
        """Note a refusal; what only this time gave no answer is asked again at the next tick."""
        trouble = trouble_of(code)
        if trouble is Trouble.GONE:
            raise DeviceGoneError(code)
        self.codes[code] += 1
        if trouble is not Trouble.OTHER:
            self.refused.append((part, column, RefusedError("", code).reason))


def _support(part: Part, column: int) -> tuple[str, int] | None:
    """Give (reason, 0) for a column the part lacks, (what it rests on, 1) for a stand-in, None for a plain reading."""
    sources = part.kind.columns[column].sources
    choice = part.choices[column]
    estimate = bool(sources) and isinstance(sources[-1], Computed) and sources[-1].estimated
    if choice == NONE_LEFT:
        # An estimate that was never needed, or cannot be made either, is no reading of its own.
        return (part.reasons[column], 0) if part.reasons[column] and not estimate else None
    source = sources[choice]
    if isinstance(source, Computed) and (choice > 0 or (source.estimated and part.needs_estimate(column))):
        return (f"{'estimated' if source.estimated else 'stand-in'}: {source.note}", 1)
    return None
