"""Memory stays flat however many processes, containers and pods come and go."""

from __future__ import annotations

import gc
import random
import sys
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from gpumon.gpu.simulate import SimulatedProcess
from gpumon.process.pods import Pods
from gpumon.settings import Kubernetes, Processes
from tests.process.node import GIB, ProcessNode, WrittenProc

LINES = ("ollama runner", "python3 train.py", "gmx mdrun", "python3 x.py", "work")
# By then all that is remembered of what ended is full: growth after it would be a leak.
WARM_UP, TICKS = 7_000, 12_000


@pytest.mark.slow
def test_twelve_thousand_ticks_of_churn_leave_nothing_behind(tmp_path: Path) -> None:
    """Every process is new after some ticks, each in a container and a pod of its own, some without; devices are lost."""
    root = tmp_path / "proc"
    root.mkdir()
    proc, chance = WrittenProc(root), random.Random(1)
    pods = Pods(Kubernetes(pod_resources_socket=str(tmp_path / "none")), structlog.get_logger())
    alive: list[int] = []
    after_warm_up = 0
    with ProcessNode("h100x2", settings=Processes(proc_root=str(root)), places=[pods]) as node, capture_logs():
        for tick in range(TICKS):
            if len(alive) >= 6:
                gone = alive.pop(chance.randrange(len(alive)))
                proc.remove(gone)
            pid = chance.randrange(100, 100_000)
            if pid not in alive:
                uid = f"{chance.getrandbits(128):032x}"
                cgroup = f"0::/kubepods/pod{uid}/{chance.getrandbits(256):064x}" if pid % 3 else "0::/"
                proc.put(pid, chance.choice(LINES), ticks=tick + 1, cgroup=cgroup)
                alive.append(pid)
            for device in range(2):
                listed = [SimulatedProcess(pid=one, used_memory_bytes=GIB) for one in alive[device::2]]
                node.library.set_processes(device, listed)
            if tick % 500 == 0:
                node.library.lose(0)
            elif tick % 500 == 5:
                node.library.restore(0)
            node.tick()
            node.events()
            if tick == WARM_UP:
                gc.collect()
                after_warm_up = sys.getallocatedblocks()
        gc.collect()
        grown = sys.getallocatedblocks() - after_warm_up
        assert len(node.source._tracked) <= len(alive) + 1
    # A block is some 60 bytes on average; this is a tenth of a megabyte.
    assert grown < 2_000
