"""A real Prometheus over nodes as dashboards meet them, for the tests that ask it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests import daemon
from tests.grafana import filled, servers
from tests.grafana.prometheus import Prometheus
from tests.tools import otelcol
from tests.tools.collector import Collector


@contextmanager
def gpumon(profile: str, folder: Path, **environ: str) -> Iterator[str]:
    """Run gpumon over a simulated node and give the address of its metrics."""
    folder.mkdir()
    port = daemon.free_port()
    more = {
        "GPUMON_PROCESSES_PER_PROCESS_METRICS": "true",
        "GPUMON_TELEMETRY_DCGM_COMPAT": "legacy",
        "GPUMON_GPU_SLOW_INTERVAL_SECS": "5",
    }
    environ = more | environ | daemon.environment(folder, port)
    command = [sys.executable, "-m", "gpumon", "run", "--simulate", profile]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | environ, stderr=log)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def collector(folder: Path) -> Iterator[Collector | None]:
    """Run a collector as the example has it; None where it cannot be built."""
    try:
        running = Collector(otelcol.build(), folder, resource_labels=True)
    except RuntimeError:
        yield None
        return
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Give a Prometheus that for a minute has scraped a node of each profile, one with model servers, one by OTLP."""
    folder = tmp_path_factory.mktemp("grafana")
    without = {"GPUMON_OLLAMA_ENABLED": "false"}
    with ExitStack() as stack:
        proxy = daemon.free_port()
        ollama = stack.enter_context(servers.serving(servers.ollama()))
        models = {
            "GPUMON_LLM_SERVERS": f"vllm={stack.enter_context(servers.serving(servers.vllm()))}",
            "GPUMON_LLM_POLL_INTERVAL_SECS": "1",
            "GPUMON_OLLAMA_API_URL": ollama,
            "GPUMON_PROXY_LISTEN": f"127.0.0.1:{proxy}",
            "GPUMON_PROXY_UPSTREAM": ollama,
        }
        made = stack.enter_context(servers.serving(servers.everything()))
        targets = {"everything": made.removeprefix("http://")}
        for profile in filled.LACKS.keys() - targets:
            environ = models if profile == "h100x8" else without
            targets[profile] = stack.enter_context(gpumon(profile, folder / profile, **environ))
        pushed = []
        if between := stack.enter_context(collector(folder)):
            environ = without | {
                "GPUMON_TELEMETRY_OTLP_ENDPOINT": f"http://127.0.0.1:{between.grpc}",
                "GPUMON_TELEMETRY_OTLP_INTERVAL_SECS": "1",
                "GPUMON_TELEMETRY_OTLP_NAMES": "prometheus",
                "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={filled.PUSHED}",
            }
            stack.enter_context(gpumon("h100x8", folder / "pushed", **environ))
            pushed.append(f"127.0.0.1:{between.prometheus}")
        running = stack.enter_context(Prometheus(folder, targets, pushed))
        for scrapes in range(2, filled.SCRAPES, 4):
            running.until_scraped(scrapes)
            servers.ask(f"http://127.0.0.1:{proxy}")
        yield running
