"""What the built-in page costs whoever looks at it: bytes, the first paint, CPU of a browser that shows 16 GPUs live.

`python bench/page.py` from the checkout; takes two minutes. Needs Chromium. Exits with 1 when a limit is missed.
"""

from __future__ import annotations

import gzip
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from playwright.sync_api import Browser, CDPSession, sync_playwright  # noqa: E402
from tests.web.page.browser import CHROMIUM_ARGUMENTS, Gpumon, gpumon  # noqa: E402

from gpumon.web.api.page import FOLDER  # noqa: E402

GPUS = 16
VISITS = 5
# Long enough for 30 snapshots, so that one of them more or less is 3 %.
SECONDS = 60.0
# While the page opens, it takes more.
SETTLE_SECONDS = 10.0

LIMITS = {"bytes": 150_000.0, "paint": 1000.0, "cpu": 10.0}


def first_paints(browser: Browser, node: Gpumon) -> list[float]:
    """Give milliseconds from the request to the first content, each with nothing cached."""
    paints = []
    for _ in range(VISITS):
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page = context.new_page()
        page.goto(node.url)
        page.wait_for_selector(".card .value")
        paints.append(float(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")))
        context.close()
    return paints


def cpu_seconds(session: CDPSession) -> dict[str, float]:
    """Give CPU seconds of the browser's processes by their kind, as the kernel counts them."""
    found: dict[str, float] = {}
    for process in session.send("SystemInfo.getProcessInfo")["processInfo"]:
        fields = Path(f"/proc/{process['id']}/stat").read_text().rpartition(")")[2].split()
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        found[process["type"]] = found.get(process["type"], 0.0) + seconds
    return found


def live_cpu(browser: Browser, node: Gpumon) -> tuple[dict[str, float], dict[str, float]]:
    """Give percent of one core that a live page takes: by kind of process, and of its main thread by kind of work."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(node.url)
    work, whole = context.new_cdp_session(page), browser.new_browser_cdp_session()
    work.send("Performance.enable")

    def metrics() -> dict[str, float]:
        return {each["name"]: each["value"] for each in work.send("Performance.getMetrics")["metrics"]}

    page.wait_for_timeout(SETTLE_SECONDS * 1000)
    before, work_before, began = cpu_seconds(whole), metrics(), time.monotonic()
    page.wait_for_timeout(SECONDS * 1000)
    after, work_after, took = cpu_seconds(whole), metrics(), time.monotonic() - began
    context.close()
    kinds = ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
    return (
        {kind: 100 * (seconds - before.get(kind, 0.0)) / took for kind, seconds in after.items()},
        {kind: 100 * (work_after[kind] - work_before[kind]) / took for kind in kinds},
    )


def main() -> int:
    """Measure and print; give 1 when a limit is missed."""
    chromium = shutil.which("chromium")
    if chromium is None:
        print("the page is NOT measured: no chromium on the path")
        return 1
    size = sum(len(gzip.compress(file.read_bytes(), 9)) for file in FOLDER.iterdir())
    with (
        tempfile.TemporaryDirectory() as folder,
        gpumon(Path(folder), "--simulate", f"h100x{GPUS}", interval=2) as node,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=list(CHROMIUM_ARGUMENTS))
        paints = first_paints(browser, node)
        by_process, by_work = live_cpu(browser, node)
        browser.close()
    figures = {"bytes": float(size), "paint": max(paints), "cpu": sum(by_process.values())}
    print(f"all files, compressed: {size / 1000:.1f} kB of {LIMITS['bytes'] / 1000:.0f}")
    print(
        f"first content painted: {statistics.median(paints):.0f} ms, at most {max(paints):.0f} of {LIMITS['paint']:.0f}"
    )
    shares = ", ".join(f"{kind} {share:.2f}" for kind, share in sorted(by_process.items()))
    print(f"{GPUS} GPUs live: {figures['cpu']:.2f} % of one core of {LIMITS['cpu']:.0f} ({shares})")
    print(
        "main thread: " + ", ".join(f"{kind.removesuffix('Duration')} {share:.2f} %" for kind, share in by_work.items())
    )
    return int(any(figures[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
