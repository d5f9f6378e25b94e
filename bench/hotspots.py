"""Shows where a tick's CPU time goes: by thread in the running daemon, then by function over ticks without a pause.

    python bench/hotspots.py [--seconds 30] [--ticks 500]

A tick after a pause of 2 s costs two to three times one that follows at once, because caches have gone cold meanwhile:
the first part gives what a tick costs, the second only where to look. The profiler makes small functions look dear.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import pstats
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import structlog  # noqa: E402
from tests import stub  # noqa: E402

from bench import measure  # noqa: E402
from bench.subject import TOOLS, gpumon  # noqa: E402
from gpumon.gpu.nvml import Nvml  # noqa: E402
from gpumon.gpu.source import GpuSource  # noqa: E402
from gpumon.gpu.xid import XidLog  # noqa: E402
from gpumon.host import HostSource  # noqa: E402
from gpumon.hub import Hub  # noqa: E402
from gpumon.sampler import Sampler  # noqa: E402
from gpumon.settings import Settings  # noqa: E402

T = TypeVar("T")

GPUS, INTERVAL = 8, 2.0
FUNCTIONS = 20


def threads(library: Path, seconds: float) -> None:
    """Print what each thread of the daemon uses per tick, and how often it was put on a CPU."""
    with measure.running(library, gpumon(GPUS, INTERVAL)) as (process, _):
        time.sleep(5)
        before, cpu = _schedule(process.process.pid), process.cpu()
        time.sleep(seconds)
        after, ticks = _schedule(process.process.pid), seconds / INTERVAL
        print(f"{(process.cpu() - cpu) / ticks * 1e3:.2f} ms of CPU per tick over {ticks:.0f} ticks, of them:")
        used = {
            thread: [now - then for now, then in zip(after[thread], before[thread], strict=True)] for thread in before
        }
        for thread, (nanoseconds, times) in sorted(used.items(), key=lambda item: -item[1][0]):
            name = "main" if thread == process.process.pid else "other"
            print(f"  {name:<6}{nanoseconds / ticks / 1e6:7.3f} ms{times / ticks:7.1f} times on a CPU")


def _schedule(pid: int) -> dict[int, list[int]]:
    """Give nanoseconds on a CPU and number of times put there, by thread (/proc/PID/task/TID/schedstat)."""
    figures = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        on_cpu, _, times = (task / "schedstat").read_text().split()
        figures[int(task.name)] = [int(on_cpu), int(times)]
    return figures


def functions(ticks: int) -> None:
    """Print the functions that use most, on the loop and on the devices' threads."""
    # Without a profile first: what a tick costs when nothing is cold.
    plain, _, _ = asyncio.run(_tick(ticks, profiled=False))
    _, loop, devices = asyncio.run(_tick(ticks, profiled=True))
    print(f"\n{plain * 1e3:.2f} ms of CPU per tick without a pause and without a profiler.")
    for title, profiles in (("the loop", [loop]), ("the devices' threads", devices)):
        print(f"\nOn {title}, over {ticks} ticks:")
        stats = pstats.Stats(*profiles, stream=sys.stdout).strip_dirs().sort_stats("tottime")
        stats.print_stats(FUNCTIONS)


async def _tick(ticks: int, *, profiled: bool) -> tuple[float, cProfile.Profile, list[cProfile.Profile]]:
    """Give CPU seconds per tick, and the profiles of the loop's thread and of each worker's."""
    gpu = GpuSource(Settings().gpu, Nvml(), structlog.get_logger(), interval=INTERVAL, xids=XidLog())
    sampler = Sampler(
        (gpu, HostSource()), Hub(), structlog.get_logger(), interval=INTERVAL, own=lambda _ticks, _late: ()
    )
    for _ in range(5):
        await sampler.tick()
    loop, devices = cProfile.Profile(time.thread_time), []
    if profiled:
        for slot in gpu._slots:
            devices.append(cProfile.Profile(time.thread_time))
            slot.job = _profiled(slot.job, devices[-1])  # type: ignore[method-assign, assignment]
        loop.enable()
    started = time.process_time()
    for _ in range(ticks):
        await sampler.tick()
    used = time.process_time() - started
    loop.disable()
    await gpu.stop(1.0)
    return used / ticks, loop, devices


def _profiled(job: Callable[[float], Callable[[], T]], profile: cProfile.Profile) -> Callable[[float], Callable[[], T]]:
    """Make a slot's job run under a profile, which is switched on on the job's own thread."""

    def make(now: float) -> Callable[[], T]:
        read = job(now)
        return lambda: profile.runcall(read)

    return make


def main() -> None:
    """Measure; the second part in a process that finds the C library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--ticks", type=int, default=500)
    arguments = parser.parse_args()
    if "NVML_STUB_GPUS" not in os.environ:
        library = stub.build(TOOLS / "stub")
        threads(library, arguments.seconds)
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.argv], stub.environment(library, gpus=GPUS))
    functions(arguments.ticks)


if __name__ == "__main__":
    main()
