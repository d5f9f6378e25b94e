"""What alerts cost: CPU per tick over snapshots of a simulated node, and the memory of what is there only for them.

`python -m bench.alerts [PROFILE]` from the checkout, with `src` on the path; takes some seconds.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from dataclasses import replace

import structlog
from tests.node import Node

from gpumon.export.alerts_settings import rules
from gpumon.export.alerts_watch import Watch
from gpumon.settings import Settings

TICKS = 20
ROUNDS = 30

# What the service has in memory anyway, then what alerts add: modules and rules.
MEMORY = """
import re
from pathlib import Path
def anonymous():
    return int(re.search(r"Anonymous: +(\\d+) kB", Path("/proc/self/smaps_rollup").read_text())[1])
from gpumon import app, cli
from gpumon.export import otlp
from gpumon.web import metrics
from gpumon.settings import Settings
import aiohttp, json, random
before = anonymous()
from gpumon.export import alerts, alerts_http
from gpumon.export.alerts_watch import Watch
watch = Watch(alerts.rules(Settings()))
print(anonymous() - before)
"""


def main() -> None:
    """Measure, and print a line for each."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    profile = sys.argv[1] if len(sys.argv) > 1 else "h100x8"
    watch = Watch(rules(Settings()))
    with Node(profile) as node:
        snapshots = [node.tick() for _ in range(TICKS)]
    seconds = TICKS * node.interval
    took = []
    for n in range(ROUNDS):
        later = [
            replace(each, time=each.time + n * seconds, monotonic=each.monotonic + n * seconds) for each in snapshots
        ]
        began = time.process_time()
        for snapshot in later:
            watch.take(snapshot)
        took.append((time.process_time() - began) / TICKS * 1000)
    entities = len(snapshots[-1].entities)
    print(
        f"{profile}, {entities} entities: {min(took):.3f} ms of CPU per tick at best, {sorted(took)[ROUNDS // 2]:.3f} at the median"
    )
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    print(f"modules and rules, a webhook's included: {int(done.stdout) / 1000:.2f} MB of anonymous memory")


if __name__ == "__main__":
    main()
