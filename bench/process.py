"""What the process source costs: 8 GPUs, 200 real processes, 20 of which end and 20 start at every tick.

Prints CPU per tick of the source, and how memory grows. Run: `python bench/process.py`.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "src"), str(Path(__file__).parents[1])]

from tests.process.node import Children, ProcessNode  # noqa: E402

from gpumon.gpu.simulate import SimulatedProcess  # noqa: E402
from gpumon.settings import Processes  # noqa: E402

GPUS, PROCESSES, CHURN = 8, 200, 20
LINES = (
    "python3 train.py --epochs 3",
    "/usr/local/bin/ollama runner --model /x/sha256-1 --port 4000",
    "VLLM::EngineCore",
    "gmx mdrun -deffnm x",
    "python3 -u main.py --config a.yaml",
    "./solver",
)


def resident_mb() -> float:
    """Give this process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def put(node: ProcessNode, pids: list[int]) -> None:
    """Spread the processes over the GPUs, each on one for all its life."""
    for device in range(GPUS):
        mine = [pid for pid in pids if pid % GPUS == device]
        listed = [SimulatedProcess(pid=pid, used_memory_bytes=1 << 28, sm=3) for pid in mine]
        node.library.set_processes(device, listed)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ticks", type=int, default=100)
    ticks = parser.parse_args().ticks
    chance = random.Random(1)
    with Children() as children, ProcessNode(f"h100x{GPUS}", settings=Processes()) as node:
        pids = [children.start(chance.choice(LINES)) for _ in range(PROCESSES)]
        cost, costs, memory = 0.0, [], 0.0
        read = node.source.read

        async def measured(now: float, timeout: float) -> object:
            nonlocal cost
            started = time.process_time()
            reading = await read(now, timeout)
            cost = time.process_time() - started
            return reading

        node.source.read = measured  # type: ignore[method-assign, assignment]
        for tick in range(ticks):
            put(node, pids)
            node.tick()
            if tick >= 10:
                costs.append(cost * 1e3)
            if tick == ticks // 5:
                memory = resident_mb()
            for _ in range(CHURN):
                children.end(pids.pop(chance.randrange(len(pids))))
            pids += [children.start(chance.choice(LINES)) for _ in range(CHURN)]
            node.source.drain_events()
        grown = resident_mb() - memory
    costs.sort()
    print(f"process source: {sum(costs) / len(costs):.2f} ms of CPU per tick, median {costs[len(costs) // 2]:.2f}")
    print(f"memory: {grown:+.2f} MB over {ticks - ticks // 5} ticks")


if __name__ == "__main__":
    main()
