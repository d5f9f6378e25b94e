"""The shares of a GPU sum to what the device counts, whatever happens to its processes and to itself."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest

from gpumon.catalog import GPU, WORKLOAD, Snapshot
from gpumon.gpu.simulate import SimulatedProcess
from gpumon.settings import Processes
from tests.process.node import GIB, ProcessNode, WrittenProc, total, workloads

LINES = ("ollama runner", "python3 train.py", "gmx mdrun", "vllm serve m", "python3 x.py")
ENERGY = GPU.index["energy_driver_joules_total"]
BUSY = GPU.index["busy_samples_seconds_total"]


class Sums:
    """Growth of the device's counters and of the sum of its shares, as a query over scrapes would have it."""

    def __init__(self) -> None:
        self.device: dict[tuple[str, str], float] = defaultdict(float)
        self.shares: dict[tuple[str, str], float] = defaultdict(float)
        self._last: dict[tuple[str, ...], float] = {}

    def take(self, snapshot: Snapshot) -> None:
        """Add a snapshot; a share that goes back is a fault."""
        for entity in snapshot.of(GPU):
            for name, column in (("energy", ENERGY), ("busy", BUSY)):
                self._grow(
                    self.device, entity.labels[2], name, ("device", entity.labels[2], name), entity.values[column]
                )
        for entity in snapshot.of(WORKLOAD):
            for name, column in (("energy", "energy_joules_total"), ("busy", "busy_seconds_total")):
                value = entity[column]
                last = self._last.get((*entity.labels, name))
                assert value is None or last is None or value >= last, entity
                self._grow(self.shares, entity.labels[1], name, (*entity.labels, name), value, first=0.0)

    def _grow(
        self,
        sums: dict[tuple[str, str], float],
        uuid: str,
        name: str,
        key: tuple[str, ...],
        value: float | None,
        first: float | None = None,
    ) -> None:
        if value is None:
            return
        last = self._last.get(key, first)
        self._last[key] = value
        if last is not None:
            sums[uuid, name] += value - last if value >= last else value


def churn(node: ProcessNode, proc: WrittenProc, chance: random.Random, lines: dict[int, str]) -> None:
    """Let processes come, go and be replaced under the same pid, and devices be lost and come back."""
    for device in range(2):
        pids = sorted(lines)
        listed = [
            SimulatedProcess(pid=pid, used_memory_bytes=GIB)
            for pid in chance.sample(pids, chance.randrange(len(pids) + 1))
        ]
        node.library.set_processes(device, listed)
    pid = chance.randrange(100, 110)
    lines[pid] = chance.choice(LINES)
    proc.put(pid, lines[pid], ticks=int(node.now * 100) % 10**9)
    happening = chance.randrange(60)
    if happening == 0:
        node.library.lose(0)
    elif happening == 1:
        node.library.restore(0)
    elif happening == 2:
        node.library.set_load(1, chance.choice(["idle", "training", "serving", "gaming"]))


@pytest.mark.parametrize(("seed", "ticks"), [(2, 200), pytest.param(1, 1800, marks=pytest.mark.slow)])
def test_shares_sum_to_the_devices_counters_over_an_hour(tmp_path: Path, seed: int, ticks: int) -> None:
    """Within 1 %, through churn, reused pids, device loss and idle times; no share ever goes back."""
    proc, chance, sums = WrittenProc(tmp_path), random.Random(seed), Sums()
    lines: dict[int, str] = {}
    with ProcessNode("h100x2", settings=Processes(proc_root=str(tmp_path))) as node:
        node.library.set_load(0, "training")
        node.library.set_load(1, "serving")
        for _ in range(ticks):
            churn(node, proc, chance, lines)
            sums.take(node.tick())
    assert len(sums.device) == 4
    for key, grown in sums.device.items():
        assert sums.shares[key] == pytest.approx(grown, rel=0.01), key
        assert grown > 10


def test_energy_above_idle_goes_by_sm_share(tmp_path: Path) -> None:
    """Two processes that do 3:1 of the work get 3:1 of the busy time and of the energy above idle power."""
    proc = WrittenProc(tmp_path)
    proc.put(10, "python3 train.py")
    proc.put(11, "ollama runner")
    with ProcessNode("h100x1", settings=Processes(proc_root=str(tmp_path))) as node:
        node.library.set_load(0, "training")
        node.library.set_processes(
            0,
            [
                SimulatedProcess(pid=10, used_memory_bytes=GIB, sm=60),
                SimulatedProcess(pid=11, used_memory_bytes=GIB, sm=20),
            ],
        )
        node.tick(50)
        snapshot = node.tick()
    shares = workloads(snapshot)
    for column in ("busy_seconds_total", "energy_joules_total"):
        training, inference = shares["ml_training"][column], shares["llm_inference"][column]
        assert training is not None
        assert inference is not None
        # The first tick has no samples yet.
        assert training / inference == pytest.approx(3, rel=0.02)
    assert shares["idle"]["energy_joules_total"]


def test_an_idle_gpu_gives_all_to_idle(tmp_path: Path) -> None:
    """Also while processes hold its memory."""
    proc = WrittenProc(tmp_path)
    proc.put(10, "ollama runner")
    with ProcessNode("h100x1", settings=Processes(proc_root=str(tmp_path))) as node:
        node.library.set_load(0, "idle")
        node.put(0, 10, sm=0)
        node.tick(20)
        snapshot = node.tick()
    shares = workloads(snapshot)
    assert shares["llm_inference"]["energy_joules_total"] == 0
    assert shares["llm_inference"]["memory_used_bytes"] == GIB
    # An idle H100 takes about 70 W.
    assert shares["idle"]["energy_joules_total"] == pytest.approx(20 * 2 * 70, rel=0.2)


def test_memory_sums_to_the_devices(tmp_path: Path) -> None:
    """What no process holds is of category idle; where one process's memory is not told, neither is the rest."""
    proc = WrittenProc(tmp_path)
    proc.put(10, "ollama runner")
    proc.put(11, "python3 train.py")
    with ProcessNode("h100x1", settings=Processes(proc_root=str(tmp_path))) as node:
        node.put(0, 10, 11)
        snapshot = node.tick()
        (gpu,) = snapshot.of(GPU)
        assert total(workloads(snapshot).values(), "memory_used_bytes") == gpu["memory_used"]
        assert workloads(snapshot)["idle"]["memory_used_bytes"] == gpu["memory_used"] - 2 * GIB
        node.put(0, 10, used_memory_bytes=None)
        shares = workloads(node.tick())
    assert shares["llm_inference"]["memory_used_bytes"] is None
    assert shares["idle"]["memory_used_bytes"] is None


def test_the_only_process_gets_all_without_samples(tmp_path: Path) -> None:
    """A driver that samples no processes leaves no doubt about one."""
    proc = WrittenProc(tmp_path)
    proc.put(10, "python3 train.py")
    with ProcessNode("h100x1", settings=Processes(proc_root=str(tmp_path))) as node:
        for name in ("nvmlDeviceGetProcessesUtilizationInfo", "nvmlDeviceGetProcessUtilization"):
            node.library.remove(name)
        node.library.set_load(0, "training")
        node.put(0, 10)
        shares = workloads(node.tick(30))
    assert shares["ml_training"]["busy_seconds_total"] > 30
    assert "unknown" not in shares


def test_what_nobody_can_tell_goes_to_unknown(tmp_path: Path) -> None:
    """Of two processes without samples none is favoured."""
    proc = WrittenProc(tmp_path)
    proc.put(10, "python3 train.py")
    proc.put(11, "ollama runner")
    with ProcessNode("h100x1", settings=Processes(proc_root=str(tmp_path))) as node:
        for name in ("nvmlDeviceGetProcessesUtilizationInfo", "nvmlDeviceGetProcessUtilization"):
            node.library.remove(name)
        node.library.set_load(0, "training")
        node.put(0, 10, 11)
        shares = workloads(node.tick(30))
    assert shares["ml_training"]["busy_seconds_total"] == shares["llm_inference"]["busy_seconds_total"] == 0
    assert shares["unknown"]["busy_seconds_total"] > 30
    assert (shares["unknown"]["processes"], shares["unknown"]["memory_used_bytes"]) == (0, 0)


def test_a_divided_gpu_is_shared_by_what_its_instances_do(tmp_path: Path) -> None:
    """By their multiprocessors and how active these were; energy sums to the device, busy time does not exist in MIG mode."""
    proc, sums = WrittenProc(tmp_path), Sums()
    proc.put(10, "python3 train.py")
    proc.put(11, "ollama runner")
    with ProcessNode("h100x1-mig", settings=Processes(proc_root=str(tmp_path))) as node:
        node.library.set_load(0, "training")
        node.library.set_processes(
            0,
            [
                SimulatedProcess(pid=pid, used_memory_bytes=GIB, gpu_instance_id=gi, compute_instance_id=0)
                for pid, gi in ((10, 1), (11, 2))
            ],
        )
        for _ in range(60):
            snapshot = node.tick()
            sums.take(snapshot)
    shares = workloads(snapshot)
    assert shares["ml_training"]["busy_seconds_total"] is None
    assert shares["ml_training"]["energy_joules_total"] > 0
    assert shares["llm_inference"]["energy_joules_total"] > 0
    (uuid,) = {key[0] for key in sums.device}
    assert sums.shares[uuid, "energy"] == pytest.approx(sums.device[uuid, "energy"], rel=0.01)


def test_workloads_that_ended_are_let_go_and_count_on_when_they_come_back(tmp_path: Path) -> None:
    """Shown for ten minutes more; their totals never go back, and many of them do not grow without end."""
    proc = WrittenProc(tmp_path)
    proc.put(10, "python3 train.py")
    with ProcessNode("h100x1", settings=Processes(proc_root=str(tmp_path))) as node:
        node.library.set_load(0, "training")
        node.put(0, 10)
        before = workloads(node.tick(10))["ml_training"]["busy_seconds_total"]
        node.put(0)
        assert workloads(node.tick(100))["ml_training"]["processes"] == 0
        assert "ml_training" not in workloads(node.tick(300))
        node.put(0, 10)
        assert workloads(node.tick(2))["ml_training"]["busy_seconds_total"] >= before
