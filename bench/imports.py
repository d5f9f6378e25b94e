"""Shows what the running daemon has imported, and what memory and time each package took.

    python bench/imports.py

Every module's code is run under a watch in the daemon itself, so that what only its short-lived children need
does not appear, and what a module takes is counted for it and not for those that import it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests import stub  # noqa: E402

from bench.subject import TOOLS, Running, gpumon  # noqa: E402

# Run in the daemon before anything else, with the file for its findings as argument.
WATCH = """
import atexit, json, runpy, sys, time
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
file = sys.argv[1]
steps = []    # [module, resident MB, anonymous MB, seconds], each without the modules it imports in turn
inner = [[0.0, 0.0, 0.0]]
looking = 0.0 # seconds spent on looking at memory, which are nobody's

def state():
    global looking
    started = time.perf_counter()
    text = open("/proc/self/smaps_rollup").read()
    now = [int(text.split(name + ":")[1].split()[0]) / 1024 for name in ("Rss", "Anonymous")]
    looking += time.perf_counter() - started
    return now + [time.perf_counter() - looking]

def watch(loader):
    original = loader.exec_module
    def exec_module(self, module):
        before = state()
        inner.append([0.0, 0.0, 0.0])
        try:
            return original(self, module)
        finally:
            whole = [now - then for now, then in zip(state(), before)]
            steps.append([module.__name__, *(a - b for a, b in zip(whole, inner.pop()))])
            inner[-1] = [a + b for a, b in zip(inner[-1], whole)]
    loader.exec_module = exec_module

steps.append(["(interpreter)", *state()[:2], 0.0])
for loader in (SourceFileLoader, ExtensionFileLoader):
    watch(loader)
atexit.register(lambda: json.dump([steps, state()[:2]], open(file, "w")))
sys.argv = ["gpumon", "run"]
runpy.run_module("gpumon", run_name="__main__", alter_sys=True)
"""

Step = tuple[str, float, float, float]


def watched(library: Path) -> tuple[list[Step], tuple[float, float]]:
    """Give what each module took in the daemon, and its memory at the end, after one reading of 8 GPUs."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        findings = Path(folder) / "imports"
        exporter = replace(gpumon(8, 2), command=lambda _port: [sys.executable, "-c", WATCH, str(findings)])
        with Running(exporter, stub.environment(library, gpus=8), Path(folder)) as process:
            process.wait(exporter.ready)
        steps, (resident, anonymous) = json.loads(findings.read_text())
        return [tuple(step) for step in steps], (resident, anonymous)


def main() -> None:
    """Print a table by package, the largest first, and the largest modules."""
    steps, end = watched(stub.build(TOOLS / "stub"))
    packages: dict[str, list[float]] = {}
    for name, *taken in steps:
        sums = packages.setdefault(name.partition(".")[0], [0.0] * 4)
        for i, value in enumerate((1, *taken)):
            sums[i] += value
    imports = [sum(sums[i] for sums in packages.values()) for i in range(4)]
    rest = [0, end[0] - imports[1], end[1] - imports[2], 0.0]
    print(f"{'package':<28}{'modules':>8}{'resident MB':>13}{'anonymous MB':>14}{'ms':>8}")
    largest = sorted(packages.items(), key=lambda item: -item[1][1])
    rows = [*largest[:25], ("others", [sum(column) for column in zip(*(row for _, row in largest[25:]), strict=True)])]
    for title, (count, resident, anonymous, seconds) in [*rows, ("running, beyond imports", rest)]:
        print(f"{title:<28}{count:>8.0f}{resident:>13.2f}{anonymous:>14.2f}{seconds * 1e3:>8.1f}")
    print(f"{'all':<28}{imports[0]:>8.0f}{end[0]:>13.2f}{end[1]:>14.2f}{imports[3] * 1e3:>8.1f}")
    print("\nThe largest modules, without what they import:")
    for name, resident, _, seconds in sorted(steps, key=lambda step: -step[1])[:15]:
        print(f"{name:<40}{resident:>8.2f} MB{seconds * 1e3:>8.1f} ms")


if __name__ == "__main__":
    main()
