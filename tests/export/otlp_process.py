"""gpumon as a process of its own over a simulated node, and what it serves and says."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
# Snapshots this far apart, exports closer together: every snapshot is sent, once.
POLL_SECS, EXPORT_SECS = 2.0, 1.0
PATIENCE_SECS = 30.0

Series = tuple[str, frozenset[tuple[str, str]]]
# What it says at its start with a collector.
STARTED = ["GPUs are simulated: no number about them is real", "otlp exports", "gpumon is running"]
TICKS: Series = ("gpumon_ticks_total", frozenset())


def free_port() -> int:
    """Give a port nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def until(look: Callable[[], Any], what: str) -> Any:
    """Give what `look` gives once it is something; a process apart has no event to wait for."""
    deadline = time.monotonic() + PATIENCE_SECS
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited in vain for {what}")


class Gpumon:
    """`gpumon run --simulate h100x8` that exports to a collector."""

    def __init__(self, folder: Path, endpoint: str, **environ: str) -> None:
        self.port = free_port()
        self.log = folder / "gpumon.log"
        environ = {
            "PYTHONPATH": str(ROOT / "src"),
            "HOME": str(folder),
            "GPUMON_SERVICE_DATA_DIR": str(folder / "data"),
            "GPUMON_SERVICE_LOG_FORMAT": "json",
            "GPUMON_SERVICE_POLL_INTERVAL_SECS": str(POLL_SECS),
            "GPUMON_TELEMETRY_METRICS_ADDRESS": "127.0.0.1",
            "GPUMON_TELEMETRY_METRICS_PORT": str(self.port),
            "GPUMON_API_ENABLED": "false",
            "GPUMON_TELEMETRY_OTLP_ENDPOINT": endpoint,
            "GPUMON_TELEMETRY_OTLP_INTERVAL_SECS": str(EXPORT_SECS),
            **environ,
        }
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "gpumon", "run", "--simulate", "h100x8"]
            self.process = subprocess.Popen(command, env=os.environ | environ, stderr=log)

    def samples(self) -> dict[Series, float]:
        """Give what /metrics says now; empty before it is there."""
        try:
            return page(self.port)
        except OSError:
            return {}

    def events(self) -> list[str]:
        """Give the events of its log lines; every line is one."""
        return [json.loads(line)["event"] for line in self.log.read_text().splitlines()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> float:
        """End it as an orchestrator does and give the seconds that took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0
        return time.monotonic() - began


def page(port: int) -> dict[Series, float]:
    """Give the samples of a page in Prometheus's text format."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    return {(s.name, label_set(s.labels)): s.value for family in families for s in family.samples}


def label_set(pairs: dict[str, str]) -> frozenset[tuple[str, str]]:
    """Give labels to compare: none is empty, and a bucket's bound is written in one way."""
    return frozenset((name, str(float(value)) if name == "le" else value) for name, value in pairs.items() if value)
