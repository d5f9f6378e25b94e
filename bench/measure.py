"""The measurements: each takes exporters, over the C library, and gives figures by name."""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from tests import stub

from bench.subject import ROOT, Exporter, Running

Figures = dict[str, float]

HUNG_GPU = 3

# The ways in which ten scrape at once, as arguments of the scraper.
TEN = {
    "ten": ("--clients", "10"),
    "paced": ("--clients", "10", "--interval", "0.1"),
    "together": ("--clients", "10", "--interval", "0.25", "--together"),
}


@contextmanager
def running(library: Path, exporter: Exporter, control: Path | None = None) -> Iterator[tuple[Running, Path]]:
    """Run an exporter until its first reading of GPUs, and give it with the file that counts its driver calls."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        count = Path(folder) / "count"
        environment = stub.environment(library, gpus=exporter.gpus, control=control, count=count)
        with Running(exporter, environment, Path(folder)) as process:
            process.wait(exporter.ready)
            yield process, count


def standing(library: Path, exporters: Sequence[Exporter], seconds: float, scrape_seconds: float) -> list[Figures]:
    """Measure exporters that run side by side: their own work unscraped, then scraped once per reading, then in turn."""
    with ExitStack() as stack:
        started = [stack.enter_context(running(library, exporter)) for exporter in exporters]
        time.sleep(5)  # the first readings open devices and find out what is supported: not part of a tick
        figures = _unscraped(started, seconds)
        fresh = _each_reading(started, scrape_seconds * 4)
        results: list[Figures] = []
        for (process, _), figure, rendering in zip(started, figures, fresh, strict=True):
            per_tick = figure.get("cpu_ms_per_tick", 0.0)
            interval = process.exporter.interval
            figure |= rendering
            if interval is not None:
                ticks = rendering["each_seconds"] / interval
                figure["each_cpu_ms"] = max(
                    0.0, (rendering["each_cpu_ms"] - ticks * per_tick / rendering["each_scrapes"])
                )
            figure["cpu_percent_scraped"] = figure["cpu_percent"] + figure["each_cpu_ms"] / 15 / 10
            with _alone(process, [other for other, _ in started]):
                figure |= _crowded(process, scrape_seconds, figure)
            results.append(figure)
        return results


@contextmanager
def _alone(process: Running, everyone: Sequence[Running]) -> Iterator[None]:
    """Hold all others still, so that what they do does not show in this one's latencies."""
    others = [other.process for other in everyone if other is not process]
    for other in others:
        other.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for other in others:
            other.send_signal(signal.SIGCONT)


def _unscraped(started: Sequence[tuple[Running, Path]], seconds: float) -> list[Figures]:
    before = [(process.cpu(), stub.read_count(count).calls) for process, count in started]
    time.sleep(seconds)
    figures: list[Figures] = []
    for (process, count), (cpu, calls) in zip(started, before, strict=True):
        used = process.cpu() - cpu
        memory = process.memory()
        figure = {
            "cpu_percent": used / seconds * 100,
            "resident_idle_mb": memory.resident,
            "threads": process.threads(),
            "files": process.files(),
        }
        if process.exporter.interval is not None:
            ticks = seconds / process.exporter.interval
            figure["ticks"] = ticks
            figure["cpu_ms_per_tick"] = used / ticks * 1e3
            figure["calls_per_tick"] = (stub.read_count(count).calls - calls) / ticks
        figures.append(figure)
    return figures


def _each_reading(started: Sequence[tuple[Running, Path]], seconds: float) -> list[Figures]:
    """Scrape all at once, each a little slower than it reads, so that no scrape finds its text ready-made."""
    scrapers = []
    for process, _ in started:
        interval = (process.exporter.interval or 2.0) * 1.05
        scrapers.append((process.cpu(), _start_scraper(process.port, seconds, "--interval", f"{interval}")))
    figures: list[Figures] = []
    for (process, _), (cpu, scraper) in zip(started, scrapers, strict=True):
        result = _result(scraper)
        used = process.cpu() - cpu
        figures.append(
            {
                "each_median_ms": result["median_ms"],
                "each_max_ms": result["max_ms"],
                "each_scrapes": result["scrapes"],
                "each_seconds": seconds,
                "each_cpu_ms": used / result["scrapes"] * 1e3,
            }
        )
    return figures


def _crowded(process: Running, seconds: float, figure: Figures) -> Figures:
    """Scrape one exporter by one client and by ten; also what is sent, and the memory it all took."""
    result: Figures = {}
    cpu = process.cpu()
    one = scrape(process.port, seconds)
    used = process.cpu() - cpu - figure["cpu_percent"] / 100 * seconds * (process.exporter.interval is not None)
    plain = scrape(process.port, seconds / 2, "--plain")
    result |= {
        "series": one["series"],
        "gzip_bytes": one["bytes"],
        "plain_bytes": plain["bytes"],
        "plain_median_ms": plain["median_ms"],
        "plain_p99_ms": plain["p99_ms"],
        "one_median_ms": one["median_ms"],
        "one_p99_ms": one["p99_ms"],
        "one_per_second": one["per_second"],
        "cpu_ms_per_scrape": used / one["scrapes"] * 1e3,
    }
    for way, arguments in TEN.items():
        ten = scrape(process.port, seconds, *arguments)
        result |= {f"{way}_median_ms": ten["median_ms"], f"{way}_p99_ms": ten["p99_ms"], f"{way}_max_ms": ten["max_ms"]}
    memory = process.memory()
    return result | {"resident_mb": memory.resident, "anonymous_mb": memory.anonymous}


def scrape(port: int, seconds: float, *arguments: str) -> Figures:
    """Run the scraper in a process of its own, and give what it saw."""
    return _result(_start_scraper(port, seconds, *arguments))


def _start_scraper(port: int, seconds: float, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "bench" / "scraper.py"), str(port), "--seconds", f"{seconds}", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def _result(scraper: subprocess.Popen[bytes]) -> Figures:
    output, _ = scraper.communicate()
    if scraper.returncode != 0:
        raise SystemExit("the scraper failed")
    result: Figures = json.loads(output)
    return result


def floor(size: int, seconds: float) -> dict[str, Figures]:
    """Measure the scraper and the machine: the same clients on a server that only sends so many ready-made bytes."""
    ways = {"one": (), **TEN}
    return {way: scrape(0, seconds, "--floor", f"{size}", *arguments) for way, arguments in ways.items()}


def starting(library: Path, exporter: Exporter, times: int) -> Figures:
    """Measure the time from the start of the process to its first answer, and to its first readings of GPUs."""
    answered, ready = [], []
    for _ in range(times):
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            environment = stub.environment(library, gpus=exporter.gpus)
            with Running(exporter, environment, Path(folder)) as process:
                answered.append(process.wait())
                ready.append(process.wait(exporter.ready))
    return {
        "start_s": statistics.median(answered),
        "start_max_s": max(answered),
        "start_gpus_s": statistics.median(ready),
    }


def calls_per_scrape(library: Path, exporter: Exporter, seconds: float) -> Figures:
    """Count the driver calls that scrapes cause: gpumon set to read so seldom that no tick falls between."""
    with running(library, exporter) as (process, count):
        time.sleep(1)
        before = stub.read_count(count).calls
        result = scrape(process.port, seconds)
        return {"scrape_calls": stub.read_count(count).calls - before, "scrape_calls_scrapes": result["scrapes"]}


def hanging(library: Path, exporters: Sequence[Exporter], seconds: float) -> list[Figures]:
    """Let one GPU hang for so long; see how long scrapes take and how old the other GPUs' values become."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        control = Path(folder) / "control"
        stub.order(control)
        started = [stack.enter_context(running(library, exporter, control))[0] for exporter in exporters]
        time.sleep(3)
        stub.order(control, f"hang {HUNG_GPU}")
        results: list[Figures] = [{} for _ in started]
        watchers = [
            threading.Thread(target=_watch, args=(process, seconds, result))
            for process, result in zip(started, results, strict=True)
        ]
        for watcher in watchers:
            watcher.start()
        for watcher in watchers:
            watcher.join()
        stub.order(control)
        released = time.perf_counter()
        waiting = dict(zip(started, results, strict=True))
        _await_return(waiting, released)
        return results


def _watch(process: Running, seconds: float, result: Figures) -> None:
    """Look at /metrics four times a second."""
    start = time.perf_counter()
    changed: dict[int, float] = {}
    values: dict[int, str] = {}
    slowest = oldest = 0.0
    hung_shown = 0.0
    while time.perf_counter() - start < seconds:
        asked = time.perf_counter()
        try:
            now = process.powers()
        except (OSError, ValueError):
            now = {}
        answered = time.perf_counter()
        slowest = max(slowest, answered - asked)
        for gpu in range(process.exporter.gpus):
            if gpu in now and now[gpu] != values.get(gpu):
                changed[gpu] = answered
        values = now
        others = [answered - changed.get(gpu, start) for gpu in range(process.exporter.gpus) if gpu != HUNG_GPU]
        oldest = max(oldest, *others)
        if HUNG_GPU in now:
            hung_shown = answered - start
        time.sleep(max(0.0, 0.25 - (answered - asked)))
    result |= {"hang_max_ms": slowest * 1e3, "hang_others_age_s": oldest, "hang_shown_s": hung_shown}


def _await_return(waiting: Mapping[Running, Figures], released: float) -> None:
    """Note when the GPU that hung has a new value again; half a minute is the longest worth waiting for."""
    before = {process: process.powers().get(HUNG_GPU) for process in waiting}
    left = dict(waiting)
    while left and time.perf_counter() - released < 30:
        for process in list(left):
            value = process.powers().get(HUNG_GPU)
            if value is not None and value != before[process]:
                left.pop(process)["hang_return_s"] = time.perf_counter() - released
        time.sleep(0.1)


SOAK = """
import sys
from gpumon.app import run
from gpumon.settings import Service, Settings, Telemetry
interval, port, folder = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
sys.exit(run(Settings(
    service=Service(poll_interval_secs=interval, data_dir=folder),
    telemetry=Telemetry(metrics_address="127.0.0.1", metrics_port=port),
), None))
"""


def soaking(library: Path, exporter: Exporter, ticks: int, interval: float) -> Figures:
    """Let gpumon tick as fast as the settings never allow, scraped once a second; see what grows after the first tenth."""
    fast = replace(
        exporter,
        interval=interval,
        command=lambda port: [sys.executable, "-c", SOAK, f"{interval}", f"{port}", tempfile.gettempdir()],
    )
    with running(library, fast) as (process, _):
        first: tuple[float, float, int, int] | None = None
        while True:
            text = process.text()
            done = int(float(text.split("\ngpumon_ticks_total ", 1)[1].split("\n", 1)[0]))
            memory = process.memory()
            now = (memory.resident, memory.anonymous, process.threads(), process.files())
            if first is None and done >= ticks / 10:
                first = now
            if first is not None and done >= ticks:
                break
            time.sleep(1)
        grown = [after - before for before, after in zip(first, now, strict=True)]
        return {
            "soak_ticks": done,
            "soak_resident_mb": grown[0],
            "soak_anonymous_mb": grown[1],
            "soak_threads": grown[2],
            "soak_files": grown[3],
        }
