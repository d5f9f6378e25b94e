"""Ten thousand ticks of a node whose processes and devices churn; prints how much gpumon grew. Run by test_soak."""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import threading
from pathlib import Path

import pynvml
import structlog

from gpumon.export.exposition import Exposition
from gpumon.export.prometheus import Form
from gpumon.gpu.simulate import SimulatedProcess
from gpumon.memory import use_one_arena
from tests.node import Node

WARM_UP = 2_000


def resident_bytes() -> int:
    """Give the process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def state() -> dict[str, int]:
    """Give what must not grow."""
    gc.collect()
    return {
        "resident_bytes": resident_bytes(),
        "threads": threading.active_count(),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "blocks": sys.getallocatedblocks(),
    }


def churn(node: Node, chance: random.Random, folder: Path) -> None:
    """Let something happen to the node."""
    library = node.library
    device = chance.randrange(3)
    happening = chance.randrange(12)
    if happening < 6:
        count = chance.randrange(20)
        pids = [chance.randrange(1 << 22, 1 << 23) for _ in range(count)]
        library.set_processes(device, [SimulatedProcess(pid=pid, used_memory_bytes=1 << 28) for pid in pids])
    elif happening == 6:
        library.lose(device, stale=chance.random() < 0.3)
    elif happening == 7:
        library.restore(device)
    elif happening == 8:
        library.repartition(2, chance.choice([None, ["1g.10gb"] * 7, ["3g.40gb", "3g.40gb"], ["2g.20gb"] * 3]))
    elif happening == 9:
        library.xid(device, chance.choice([13, 31, 48, 79]))
    elif happening == 10:
        library.fail("nvmlDeviceGetUtilizationRates", pynvml.NVML_ERROR_UNKNOWN, device=device, times=3)
    else:
        library.unload()
        library.load()
        for path in folder.iterdir():
            path.rmdir()
        (folder / f"0000:{chance.randrange(99):02d}:00.0").mkdir()


def main(ticks: int, folder: Path) -> None:
    """Run, and print the state after the warm-up and at the end as JSON."""
    use_one_arena()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    chance = random.Random(1)
    with Node("h100x3", devices_path=folder) as node:
        exposition = Exposition(node.hub, 6.0, lambda: node.now)
        after_warm_up: dict[str, int] = {}
        for tick in range(ticks):
            if tick % 20 == 0:
                churn(node, chance, folder)
            node.tick()
            if tick % 7 == 0:
                exposition.page(Form.TEXT, gzip=True)
            if tick == WARM_UP:
                after_warm_up = state()
        end = state()
    sys.stdout.write(json.dumps({"after_warm_up": after_warm_up, "end": end}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
