"""Measures gpumon and its peers over the C library in one run; prints a table and writes bench/results.json.

    python bench/run.py            twelve minutes
    python bench/run.py --quick    three, with figures to match

Nothing here needs a GPU; what a real driver's calls cost comes on top, for every exporter alike.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests import stub  # noqa: E402

from bench import measure, report  # noqa: E402
from bench.report import GPUS, MANY_GPUS  # noqa: E402
from bench.subject import TOOLS, Exporter, UnavailableError, gpumon, nvidia_gpu_exporter, nvitop_exporter  # noqa: E402

# Of the machine, before anything is measured: what others do on it shows in the 99th percentiles first.
LOAD_BEFORE = os.getloadavg()[0]
# A third of what a scrape may take at the 99th percentile.
TOO_BUSY_MS = 1.0


def exporters(arguments: argparse.Namespace) -> tuple[list[Exporter], list[str]]:
    """Give what is to be measured, and what cannot be, with reasons."""
    found, missing = [], []
    wanted: dict[str, tuple[Callable[[], Exporter], ...]] = {
        "gpumon": (lambda: gpumon(GPUS, 2), lambda: gpumon(1, 2), lambda: gpumon(MANY_GPUS, 2)),
        "nvitop-exporter": (
            lambda: nvitop_exporter(GPUS, 2),
            lambda: nvitop_exporter(GPUS, 1),
            lambda: nvitop_exporter(1, 1),
        ),
        "nvidia_gpu_exporter": (lambda: nvidia_gpu_exporter(GPUS, arguments.nvidia_gpu_exporter),),
    }
    for name, makers in wanted.items():
        if arguments.only and name not in arguments.only:
            continue
        try:
            found += [make() for make in makers]
        except UnavailableError as error:
            missing.append(str(error))
    return found, missing


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def machine() -> dict[str, str]:
    """Give what the figures depend on."""
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    packages = ("aiohttp", "nvidia-ml-py", "prometheus-client", "psutil", "structlog")
    return {
        "cpu": f"{os.cpu_count()} × {cpus[0].split(':', 1)[1].strip() if cpus else platform.machine()}",
        "load before": f"{LOAD_BEFORE:.2f}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, write; give 1 when a limit is missed."""
    quick = arguments.quick
    idle, scraping, hang = (12.0, 1.5, 10.0) if quick else (120.0, 6.0, 60.0)
    ticks = arguments.soak_ticks if arguments.soak_ticks is not None else (500 if quick else 10_000)
    # Without compiled files every import is compiled in memory, which takes 13 MB for nvidia-ml-py alone.
    compileall.compile_dir(ROOT / "src", quiet=1)
    library = stub.build(TOOLS / "stub")
    subjects, missing = exporters(arguments)
    if not subjects:
        raise SystemExit("; ".join(missing) or "nothing to measure")
    say(f"side by side: {', '.join(subject.title for subject in subjects)}")
    figures = measure.standing(library, subjects, idle, scraping)
    for subject, figure in zip(subjects, figures, strict=True):
        say(f"starting {subject.title}")
        figure |= measure.starting(library, subject, 3 if quick else 7)
    eight = [(subject, figure) for subject, figure in zip(subjects, figures, strict=True) if subject.gpus == GPUS]
    say(f"one GPU of {GPUS} hangs for {hang:.0f} s")
    for (_, figure), result in zip(
        eight, measure.hanging(library, [subject for subject, _ in eight], hang), strict=True
    ):
        figure |= result
    for subject, figure in eight:
        if subject.name == "gpumon":
            say("driver calls of scrapes")
            figure |= measure.calls_per_scrape(library, gpumon(GPUS, 300), scraping)
            if ticks:
                say(f"soak of {ticks} ticks")
                figure |= measure.soaking(library, subject, ticks, arguments.soak_interval)
    say("the scraper itself")
    floor = measure.floor(int(max(figure["gzip_bytes"] for figure in figures)), scraping)
    return present(subjects, figures, floor, missing, arguments)


def busy(floor: Mapping[str, measure.Figures]) -> list[str]:
    """Say so when the machine is too busy for the exporters' slowest scrapes to mean anything."""
    slowest = max(figure["p99_ms"] for figure in floor.values())
    if slowest < TOO_BUSY_MS:
        return []
    return [f"The machine is too busy to judge 99th percentiles: {slowest:.1f} ms without any exporter."]


def present(
    subjects: list[Exporter],
    figures: list[measure.Figures],
    floor: Mapping[str, measure.Figures],
    missing: list[str],
    arguments: argparse.Namespace,
) -> int:
    """Print the table and write the results."""
    columns = [
        report.Column(subject.name, subject.gpus, subject.pace, figure)
        for subject, figure in zip(subjects, figures, strict=True)
    ]
    text, missed = report.table(columns)
    facts = machine()
    bare = ", ".join(f"{way} {figure['median_ms']:.2f} ({figure['p99_ms']:.2f})" for way, figure in floor.items())
    notes = [
        *report.ratios(columns),
        *(f"Not measured: {reason}." for reason in missing),
        f"Scraper and machine alone, on ready-made bytes, median (p99) ms: {bare}.",
        *busy(floor),
        ", ".join(f"{name} {value}" for name, value in facts.items()),
        f"MISSED: {'; '.join(missed)}." if missed else "Every limit is kept.",
    ]
    print(text, "", *notes, sep="\n")
    results = {
        "quick": arguments.quick,
        "machine": facts,
        "exporters": {subject.title: figure for subject, figure in zip(subjects, figures, strict=True)},
        "scraper": floor,
        "not_measured": missing,
        "missed": missed,
    }
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if missed and arguments.strict else 0


def main() -> int:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter, for a glance")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a limit is missed")
    parser.add_argument("--only", action="append", metavar="NAME", help="measure only this exporter; may be repeated")
    parser.add_argument("--soak-ticks", type=int, metavar="N", help="ticks of the soak; 0 leaves it out")
    parser.add_argument(
        "--soak-interval", type=float, default=0.02, metavar="S", help="seconds between them (default 0.02)"
    )
    parser.add_argument("--nvidia-gpu-exporter", metavar="PROGRAM", help="its NVML build, where it is not in PATH")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results.json", metavar="FILE")
    try:
        return run(parser.parse_args())
    except stub.UnbuildableError as error:
        raise SystemExit(f"cannot measure: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
