"""Measures the API of a running gpumon: answers, a hundred readers of the stream, memory; prints a table.

    python bench/api.py              about three minutes
    python bench/api.py --json FILE  the same figures as JSON

Two services on a simulated node of 8 GPUs run side by side, at 2 s, with an hour of history; only one has the API.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.store.nodes import Node  # noqa: E402

from bench.subject import free_port  # noqa: E402
from gpumon.store.database import connect  # noqa: E402
from gpumon.store.writer import Writer, pack  # noqa: E402

GPUS = 8
TICK = 2.0
READERS = 100
ANSWERS = 100

# name, unit, limit (None: told, not judged)
LIMITS: dict[str, tuple[str, float | None]] = {
    "/api/realtime, a new snapshot: median": ("ms", 5.0),
    "/api/realtime, a new snapshot: CPU": ("ms", None),
    "/api/realtime, asked again: median": ("ms", None),
    "/api/chart?hours=1: median": ("ms", 30.0),
    "/api/chart?hours=1: CPU": ("ms", None),
    "/api/chart?hours=1: slowest but one in 20": ("ms", None),
    "/api/historical?hours=1, 8 GPUs: median": ("ms", None),
    "/api/events: median": ("ms", None),
    "a hundred readers, compressed: of one core": ("%", 1.0),
    "a hundred readers, not compressed: of one core": ("%", 1.0),
    "memory more than without: resident": ("MB", 3.0),
    "memory more than without: proportional": ("MB", 3.0),
    "memory more than without: anonymous": ("MB", None),
    "memory more after a hundred readers and 500 questions: resident": ("MB", None),
}


def fill(folder: Path) -> None:
    """Write the hour before now, and a little more."""
    connection = connect(folder / "gpumon.db")
    writer = Writer(connection)
    ticks = int(4000 / TICK)
    snapshots = [
        pack(each) for each in Node(gpus=GPUS, interval=TICK, start=time.time() - ticks * TICK).snapshots(ticks)
    ]
    for i in range(0, ticks, 500):
        writer.write(snapshots[i : i + 500])
    connection.close()


class Service:
    """A gpumon that runs, and what /proc says of it."""

    def __init__(self, folder: Path, *, api: bool) -> None:
        self.port = free_port()
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("GPUMON_", "OTEL_"))}
        environ |= {
            "PYTHONPATH": str(ROOT / "src"),
            "HOME": str(folder),
            "GPUMON_SERVICE_DATA_DIR": str(folder),
            "GPUMON_SERVICE_LOG_LEVEL": "error",
            "GPUMON_SERVICE_POLL_INTERVAL_SECS": f"{TICK:g}",
            "GPUMON_TELEMETRY_METRICS_ADDRESS": "127.0.0.1",
            "GPUMON_TELEMETRY_METRICS_PORT": str(free_port()),
            "GPUMON_API_ENABLED": str(api).lower(),
            "GPUMON_API_PORT": str(self.port),
        }
        command = [sys.executable, "-m", "gpumon", "run", "--simulate", f"h100x{GPUS}"]
        self.process = subprocess.Popen(command, env=environ)
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def cpu(self) -> float:
        """Give the CPU seconds of all its threads so far (clock_getcpuclockid(3))."""
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def memory(self) -> dict[str, float]:
        """Give what the kernel counts as its memory, in MB."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        sizes = {name: int(size) / 1000 for name, size in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)}
        return {"resident": sizes["Rss"], "proportional": sizes["Pss"], "anonymous": sizes["Anonymous"]}

    def ask(self, path: str) -> float:
        """Ask on a connection that is kept, as scripts and browsers do; give the seconds it took."""
        started = time.perf_counter()
        self._connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
        answer = self._connection.getresponse()
        body = answer.read()
        seconds = time.perf_counter() - started
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"{path}: {answer.status} {body[:200]!r}")
        return seconds


@contextmanager
def running(*, api: bool) -> Iterator[Service]:
    """Run gpumon with an hour of history for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        fill(folder)
        service = Service(folder, api=api)
        try:
            yield service
        finally:
            service.process.terminate()
            service.process.wait()


def milliseconds(service: Service, path: str, count: int) -> list[float]:
    """Ask a path again and again; give how long each took, the shortest first."""
    return sorted(1000 * service.ask(path) for _ in range(count))


def fresh(service: Service, count: int) -> dict[str, float]:
    """Ask once per tick: then the answer has to be made. The ticks' own CPU is measured without questions first."""
    before = service.cpu()
    time.sleep(count * TICK)
    ticks = service.cpu() - before
    before, started = service.cpu(), time.perf_counter()
    taken = []
    for i in range(count):
        time.sleep(max(0.0, started + (i + 1) * TICK - time.perf_counter()))
        taken.append(1000 * service.ask("/api/realtime"))
    spent = service.cpu() - before
    return {
        "/api/realtime, a new snapshot: median": statistics.median(taken),
        "/api/realtime, a new snapshot: CPU": 1000 * (spent - ticks) / count,
    }


def answering(service: Service) -> dict[str, float]:
    """Give how long answers take; CPU of a question about the past includes what a tick or two take meanwhile."""
    found = fresh(service, 15)
    before = service.cpu()
    chart = milliseconds(service, "/api/chart?gpu_id=0&hours=1", ANSWERS)
    spent = 1000 * (service.cpu() - before) / ANSWERS
    again = milliseconds(service, "/api/realtime", ANSWERS)
    history = milliseconds(service, "/api/historical?hours=1", ANSWERS // 5)
    return found | {
        "/api/realtime, asked again: median": statistics.median(again),
        "/api/chart?hours=1: median": statistics.median(chart),
        "/api/chart?hours=1: CPU": spent,
        "/api/chart?hours=1: slowest but one in 20": chart[int(0.95 * len(chart))],
        "/api/historical?hours=1, 8 GPUs: median": statistics.median(history),
        "/api/events: median": statistics.median(milliseconds(service, "/api/events", ANSWERS)),
    }


async def read_streams(port: int, encoding: str, seconds: float) -> int:
    """Read the stream a hundred times over and throw it away; give the bytes that came."""
    received = 0

    async def read() -> None:
        nonlocal received
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /api/stream HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: {encoding}\r\n\r\n".encode())
        try:
            while data := await reader.read(1 << 20):
                received += len(data)
        finally:
            writer.close()

    tasks = [asyncio.create_task(read()) for _ in range(READERS)]
    done, _ = await asyncio.wait(tasks, timeout=seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if done:
        raise RuntimeError("a stream ended")
    return received


# A process of its own reads, so that what reading costs is nobody's.
READ = """
import asyncio, sys
sys.path[:0] = [{root!r}, {source!r}]
from bench.api import read_streams
print(asyncio.run(read_streams({port}, {encoding!r}, {seconds})))
"""


def streaming(service: Service, encoding: str, seconds: float = 20.0) -> float:
    """Give what a hundred readers cost, in percent of one core, after they have come."""
    before = service.cpu()
    time.sleep(seconds)
    alone = (service.cpu() - before) / seconds
    settle = 4 * TICK
    code = READ.format(
        root=str(ROOT), source=str(ROOT / "src"), port=service.port, encoding=encoding, seconds=seconds + 2 * settle
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as readers:
        time.sleep(settle)
        before, started = service.cpu(), time.perf_counter()
        time.sleep(seconds)
        spent = (service.cpu() - before) / (time.perf_counter() - started)
        assert readers.stdout is not None
        if int(readers.stdout.read()) < READERS * 1000:
            raise RuntimeError("the readers got nothing")
    return 100 * (spent - alone)


def look(service: Service) -> None:
    """Do what a page does: load its files, look at what is, at an hour of every GPU, at events, and follow the stream."""
    for path in ("/", "/api/info", "/api/realtime", "/api/processes", "/api/events?hours=1"):
        service.ask(path)
    for name in sorted((ROOT / "src" / "gpumon" / "web" / "page").glob("*.*s")):
        service.ask(f"/static/{name.name}")
    for gpu in range(GPUS):
        service.ask(f"/api/chart?gpu_id={gpu}&hours=1")


def measure() -> dict[str, float]:
    """Give all figures."""
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        without = stack.enter_context(running(api=False))
        service = stack.enter_context(running(api=True))
        time.sleep(20)
        look(service)
        time.sleep(10)
        with_api, plain = service.memory(), without.memory()
        for name, size in with_api.items():
            figures[f"memory more than without: {name}"] = size - plain[name]
        figures |= answering(service)
        figures["a hundred readers, compressed: of one core"] = streaming(service, "gzip")
        figures["a hundred readers, not compressed: of one core"] = streaming(service, "identity")
        time.sleep(2 * TICK)
        difference = service.memory()["resident"] - without.memory()["resident"]
        figures["memory more after a hundred readers and 500 questions: resident"] = difference
    return figures


def main() -> None:
    """Measure, and print a line per figure with its verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    given = parser.parse_args()
    figures = measure()
    for name, (unit, limit) in LIMITS.items():
        verdict = "" if limit is None else f"  limit {limit:g}: {'kept' if figures[name] <= limit else 'MISSED'}"
        print(f"{name:66} {figures[name]:8.2f} {unit:2}{verdict}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
