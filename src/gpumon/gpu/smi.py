"""GPUs read by nvidia-smi, for a node where the NVML library cannot be loaded.

One short-lived child per tick, not one that loops (`-lms`): a start costs 0.07 to 0.6 s, most of it spent waiting,
and only where nothing better is to be had. In return a hang is a time-out instead of a silence, what is printed
belongs to this tick, a reloaded driver or a new GPU needs no special case, and between ticks nothing is held that
would keep the driver from being unloaded.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpumon.catalog import GPU_DOWN, GPU_HEALTH, Entity
from gpumon.gpu.child import MOST_BYTES, Child
from gpumon.gpu.smi_entities import GpuRecord, Identity
from gpumon.gpu.smi_fields import IDENTITY, NAME, NOT_UNDERSTOOD, REMAPPED_ROWS, WANTED, absence, known_fields
from gpumon.gpu.smi_output import INDEX, UUID, Answer, parse, printable_lines
from gpumon.gpu.xid import XidLog, pci_address

# Runs of 6 s were seen on nodes with many GPUs (netdata #14522).
TIMEOUT_SECONDS = 15.0
# The time between two readings may be several runs of that length.
LONGEST_GAP_SECONDS = 60.0
# How often remapped rows are asked for where they need a child of their own.
SLOW_SECONDS = 30.0

NO_ANSWER = "nvidia-smi does not answer"
NOT_LISTED = "not listed by nvidia-smi"
NO_DEVICES = "No devices were found"


class SmiError(Exception):
    """Nothing could be read by nvidia-smi; the message is one sentence that says why."""


@dataclass(frozen=True, slots=True)
class SmiReading:
    """What one run of nvidia-smi gave. `errors` are sentences on what went wrong beside it."""

    entities: tuple[Entity, ...]
    errors: tuple[str, ...]
    gpu_count: int  # GPUs that nvidia-smi lists, lost ones included
    success: bool  # every GPU known was read


class NvidiaSmi:
    """Reads all GPUs by running nvidia-smi, one child at a time. Belongs to one event loop.

    `timeout_seconds` is after how long a run is killed; `longest_gap_seconds` is the longest time between two readings
    over which power and utilisation are integrated. GPUs are made known to `xids` by their PCI address.
    """

    def __init__(
        self,
        command: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        timeout_seconds: float = TIMEOUT_SECONDS,
        longest_gap_seconds: float = LONGEST_GAP_SECONDS,
        xids: XidLog | None = None,
        devices_path: Path = Path("/proc/driver/nvidia/gpus"),
    ) -> None:
        self._command = command
        self._clock = clock
        self._timeout = timeout_seconds
        self._longest_gap = longest_gap_seconds
        self._xids = xids
        self._devices_path = devices_path
        self._child: Child | None = None
        self._under_way: asyncio.Task[SmiReading] | None = None
        self._started = 0.0
        self._seconds = 0.0  # how long the last run took that gave readings
        self._latest: SmiReading | None = None
        self._fields: list[str] = []  # of --query-gpu; none: to be discovered
        self._row_fields: list[str] = []  # of --query-remapped-rows, where they are not in --query-gpu
        self._remapped: dict[str, dict[str, str]] = {}  # cells by UUID
        self._slow_due = 0.0
        self._gpus: dict[str, GpuRecord] = {}  # every GPU seen since start, by UUID

    async def read(self, within: float | None = None) -> SmiReading:
        """Read every GPU. One that does not answer is down, the others are not.

        A run may take longer than a tick, on some nodes always: after `within` seconds the reading before is given
        once more, and the next call goes on with the same run. All are down when it takes twice as long as the last.
        Raises SmiError when nothing could be read and no GPU is known; known ones are given as down instead.
        """
        if self._under_way is None:
            self._started = self._clock()
            self._under_way = asyncio.create_task(self._read(self._started))
        task = self._under_way
        await asyncio.wait([task], timeout=within)
        if task.done():
            if self._under_way is task:
                self._under_way = None
            self._latest = None
            self._latest = task.result()
        elif self._latest is None:
            return SmiReading((), (), 0, success=False)
        elif self._clock() - self._started > 2 * self._seconds:
            return self._nothing(f"{self._command} takes more than twice as long as before", hung=True)
        return self._latest

    async def _read(self, started: float) -> SmiReading:
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._ask()
        except TimeoutError:
            return self._nothing(f"{self._command} did not answer within {self._timeout:g} s", hung=True)
        except SmiError as error:
            return self._nothing(str(error), hung=self._hangs())
        return self._take(answer, started)

    async def close(self) -> None:
        """Kill the child if there is one; does not wait for one that cannot be killed."""
        if self._under_way is not None:
            self._under_way.cancel()
            await asyncio.gather(self._under_way, return_exceptions=True)
            self._under_way = None
        if self._child is not None and not self._child.over.done():
            self._child.kill()
            # Time for the kernel to end an ordinary process; one that hangs in the driver takes for ever.
            await asyncio.wait([self._child.over], timeout=1.0)

    def _hangs(self) -> bool:
        return self._child is not None and not self._child.ended

    # Asking.

    async def _ask(self) -> Answer:
        if not self._fields:
            await self._discover()
        query = (f"--query-gpu={','.join(self._fields)}", "--format=csv,noheader,nounits")
        answer = await self._query(self._fields, *query)
        if answer.lost:
            # Some versions stop at a GPU they cannot open; asked for by name, the others answer.
            others = self._others(answer)
            if others:
                again = await self._query(self._fields, *query, f"--id={','.join(others)}")
                answer = Answer(answer.rows + again.rows, {**answer.lost, **again.lost}, again.rest, again.code)
        if not answer.rows and NO_DEVICES not in answer.rest:
            self._fields = []  # the driver may have been replaced by one that knows other fields
            raise SmiError(self._failure(answer))
        if self._row_fields and self._clock() >= self._slow_due:
            await self._ask_remapped_rows()
        return answer

    async def _discover(self) -> None:
        child = await self._run("--help-query-gpu")
        fields = known_fields(child.text(1), WANTED)
        if not {"index", "uuid", NAME} <= set(fields):
            lines = printable_lines(child.text(1) + "\n" + child.text(2))
            raise SmiError(
                f"{self._command} --help-query-gpu does not list the fields it knows (exit code {child.code})"
                + (f": {lines[0]}" if lines else "")
            )
        order = [name for name in IDENTITY if name in fields]
        self._row_fields = []
        if not REMAPPED_ROWS & set(fields):
            child = await self._run("--help-query-remapped-rows")
            rows = known_fields(child.text(1), {"gpu_uuid", "uuid", *REMAPPED_ROWS})
            if {"gpu_uuid", "uuid"} & set(rows) and REMAPPED_ROWS & set(rows):
                self._row_fields = sorted(rows, key=lambda name: name in REMAPPED_ROWS)
        self._fields = [*order, *(name for name in fields if name not in (*order, NAME)), NAME]

    async def _ask_remapped_rows(self) -> None:
        self._slow_due = self._clock() + SLOW_SECONDS
        self._remapped = {}
        switch = f"--query-remapped-rows={','.join(self._row_fields)}"
        try:
            answer = await self._query(self._row_fields, switch, "--format=csv,noheader,nounits")
        except SmiError:
            return  # these readings alone are missing
        self._remapped = {cells[self._row_fields[0]]: cells for cells in answer.rows}

    async def _query(self, fields: Sequence[str], *arguments: str) -> Answer:
        child = await self._run(*arguments)
        answer = parse(child.text(1), fields)
        beside = parse(child.text(2), ())
        return Answer(answer.rows, {**answer.lost, **beside.lost}, answer.rest + beside.rest, child.code)

    async def _run(self, *arguments: str) -> Child:
        if self._child is not None and not self._child.ended:
            raise SmiError(f"{self._command} still hangs, and is not started again until it ends")
        self._child = child = Child()
        started = False
        try:
            await child.start(self._command, arguments, {**os.environ, "LC_ALL": "C"})
            started = True
        except OSError as error:
            raise SmiError(f'gpu.nvidia_smi_path: "{self._command}" cannot be run: {error.strerror}') from None
        finally:
            if not started:
                self._child = None  # asyncio has ended it, if it was begun at all
        try:
            await asyncio.shield(child.over)
        finally:
            if not child.over.done():
                child.kill()
        if child.too_much:
            raise SmiError(f"{self._command} wrote more than {MOST_BYTES} bytes")
        return child

    def _others(self, answer: Answer) -> list[str]:
        """Name the GPUs that were neither read nor lost: by the UUIDs of those known, or by what the kernel lists."""
        told = {pci_address(cells.get("pci.bus_id", "")) for cells in answer.rows} | set(answer.lost)
        if self._gpus:
            return [uuid for uuid, gpu in self._gpus.items() if pci_address(gpu.identity.pci) not in told]
        try:
            addresses = sorted(entry.name for entry in self._devices_path.iterdir())
        except OSError:
            return []
        return [address for address in addresses if pci_address(address) not in (None, *told)]

    def _failure(self, answer: Answer) -> str:
        if answer.lost:
            return "; ".join(f"GPU {address}: {reason}" for address, reason in answer.lost.items())
        said = f": {answer.rest[0]}" if answer.rest else ", and it printed nothing"
        if answer.code:
            return f"{self._command} ended with exit code {answer.code}{said}"
        return f"{self._command} gave no reading{said}"

    # Taking what was answered.

    def _take(self, answer: Answer, now: float) -> SmiReading:
        self._seconds = seconds = self._clock() - now
        errors = [f"GPU {address}: {reason}" for address, reason in answer.lost.items()]
        entities: list[Entity] = []
        read: set[str] = set()
        for cells in answer.rows:
            gpu = self._record(cells)
            if gpu is None:
                errors.append(f"a GPU does not tell its UUID: {absence(cells['uuid']) or NOT_UNDERSTOOD}")
                continue
            read.add(gpu.identity.uuid)
            cells = {**self._remapped.get(gpu.identity.uuid, {}), **cells}
            entities += gpu.take(cells, now, self._longest_gap, self._xids)
        if answer.code and answer.rest and answer.rest[0] != NO_DEVICES:
            errors.append(f"{self._command} ended with exit code {answer.code}: {answer.rest[0]}")
        for uuid, gpu in self._gpus.items():
            if uuid not in read:
                gpu.fail(answer.lost.get(pci_address(gpu.identity.pci) or "", NOT_LISTED))
        entities += self._health(seconds, hung=False)
        success = not answer.lost and all(gpu.down is None for gpu in self._gpus.values())
        return SmiReading(tuple(entities), tuple(errors), len(answer.rows) + len(answer.lost), success)

    def _record(self, cells: Mapping[str, str]) -> GpuRecord | None:
        """Find or make the record of the GPU a row is about; a lost GPU may tell no more than its address."""
        uuid = cells["uuid"]
        if not UUID.fullmatch(uuid):
            return next((gpu for gpu in self._gpus.values() if gpu.identity.at_address_of(cells)), None)
        gpu = self._gpus.get(uuid)
        if not INDEX.fullmatch(cells["index"]):
            return gpu
        identity = Identity(
            index=cells["index"],
            name=cells[NAME] if absence(cells[NAME]) is None else (gpu.identity.name if gpu else ""),
            uuid=uuid,
            pci=cells.get("pci.bus_id", "") or "",
        )
        if gpu is None:
            gpu = self._gpus[uuid] = GpuRecord(identity)
        elif pci_address(identity.pci) is None:
            identity = Identity(identity.index, identity.name, uuid, gpu.identity.pci)
        gpu.identity = identity
        if self._xids is not None:
            self._xids.register(uuid, identity.pci)
        return gpu

    def _nothing(self, problem: str, *, hung: bool) -> SmiReading:
        if not self._gpus:
            raise SmiError(problem)
        for gpu in self._gpus.values():
            gpu.fail(NO_ANSWER if hung else problem)
        return SmiReading(tuple(self._health(None, hung=hung)), (problem,), len(self._gpus), success=False)

    def _health(self, seconds: float | None, *, hung: bool) -> Iterable[Entity]:
        for gpu in self._gpus.values():
            labels = gpu.identity.labels
            up = gpu.down is None
            yield Entity(GPU_HEALTH, labels, (float(up), float(hung), float(gpu.times_lost), seconds if up else None))
            if gpu.down is not None:
                yield Entity(GPU_DOWN, (*labels, gpu.down), (1.0,))
