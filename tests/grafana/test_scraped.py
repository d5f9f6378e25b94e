"""Every panel over a real Prometheus that scraped simulated nodes: it has data, or the node lacks what it needs.

Needs Debian's prometheus; run by `make e2e`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from generate.__main__ import DASHBOARDS
from generate.rows import NEEDS
from tests import daemon
from tests.grafana import boards, servers
from tests.grafana.prometheus import Prometheus

pytestmark = pytest.mark.e2e

# Enough for a rate over the shortest interval, a sample a minute, and two changes of what Ollama holds.
SCRAPES = 65
WINDOW = 15

MODELS = {"model_server", "server_metrics", "ollama", "proxy", "model_energy"}
# What no simulated node has: pods, users of its processes, their energy by model, an archive within a minute, faults.
NOWHERE = {"kubelet", "model_energy", "archive", "otlp", "fault"}
# What a node lacks, so that panels which need it are empty there; and nothing else may be.
LACKS: Mapping[str, set[str]] = {
    "h100x8": {*NOWHERE, "mig", "fan"},
    "h100x8-mig": {*NOWHERE, *MODELS, "fan", "undivided"},
    "rtx4090x1": {
        *(*NOWHERE, *MODELS, "mig", "gpm", "memory_sensor", "nvlink", "fabric", "ecc", "remapping"),
    },
    "l40sx4": {*NOWHERE, *MODELS, "mig", "gpm", "memory_sensor", "nvlink", "fabric", "fan"},
    "a100x8": {*NOWHERE, *MODELS, "mig", "gpm", "margin", "fabric", "fan"},
    "everything": set(),
}


@contextmanager
def gpumon(profile: str, folder: Path, **environ: str) -> Iterator[str]:
    """Run gpumon over a simulated node and give the address of its metrics."""
    folder.mkdir()
    port = daemon.free_port()
    environ |= daemon.environment(folder, port) | {
        "GPUMON_SERVICE_POLL_INTERVAL_SECS": "0.5",
        "GPUMON_GPU_SLOW_INTERVAL_SECS": "1",
        "GPUMON_PROCESSES_PER_PROCESS_METRICS": "true",
    }
    command = [sys.executable, "-m", "gpumon", "run", "--simulate", profile]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | environ, stderr=log)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Give a Prometheus that has scraped a node of each profile, model servers on the first, for a minute."""
    folder = tmp_path_factory.mktemp("scraped")
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
        targets = {"everything": stack.enter_context(servers.serving(servers.everything())).removeprefix("http://")}
        for profile in LACKS.keys() - targets:
            environ = models if profile == "h100x8" else {"GPUMON_OLLAMA_ENABLED": "false"}
            targets[profile] = stack.enter_context(gpumon(profile, folder / profile, **environ))
        running = stack.enter_context(Prometheus(folder, targets))
        for scrapes in range(2, SCRAPES, 4):
            running.until_scraped(scrapes, len(targets))
            servers.ask(f"http://127.0.0.1:{proxy}")
        yield running


def values(key: str, node: str) -> dict[str, str]:
    """Give what variables become, as Grafana would for this Prometheus."""
    chosen = {variable["name"]: ".*" for variable in boards.board(key)["templating"]["list"]}
    ranges = {"__range": f"{SCRAPES}s", "__rate_interval": "4s"}
    return chosen | ranges | {"node": node, "price": "0.25"}


def needs(key: str) -> dict[tuple[int, int], set[str]]:
    """Give what each query of a dashboard needs, by its panel's id and its number."""
    (row,) = (row for row in DASHBOARDS if row.key == key)
    return {
        (id, number): {panel.needs, query.needs} - {""}
        for id, panel in enumerate((panel for group in row.rows for panel in group.panels), 1)  # noqa: A001
        for number, query in enumerate(panel.queries)
    }


@pytest.mark.parametrize("key", boards.KEYS)
@pytest.mark.parametrize("node", LACKS)
def test_every_query_has_data_where_the_node_has_what_it_needs(key: str, node: str, prometheus: Prometheus) -> None:
    """And none where it has not, so that no need is stated in vain."""
    needed, wrong = needs(key), []
    for target in boards.targets(key):
        expr = boards.interpolate(target.expr, values(key, node))
        found = prometheus.instant(expr) if target.instant else prometheus.over(expr, WINDOW)
        lacking = needed[target.id, target.number] & LACKS[node]
        if bool(found) == bool(lacking):
            wrong.append(f"{target} has {len(found)} series, lacking {lacking or 'nothing'}: {expr}")
    assert not wrong, "\n".join(wrong)


def test_every_need_is_met_somewhere() -> None:
    """No panel is allowed to be empty everywhere."""
    assert not set.intersection(*LACKS.values())
    assert set.union(*LACKS.values()) <= set(NEEDS)


@pytest.mark.parametrize("key", boards.KEYS)
def test_every_variable_offers_something(key: str, prometheus: Prometheus) -> None:
    """Nodes, GPUs, models and namespaces can be chosen; a cluster only where somebody adds that label."""
    for variable in boards.board(key)["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
            assert found is not None
            expr = boards.interpolate(found[1], values(key, ".*"))
            offered = prometheus.label_values(expr, found[2])
            assert bool(offered) == (variable["name"] != "cluster"), variable["name"]


@pytest.mark.parametrize("key", boards.KEYS)
def test_every_annotation_marks_what_happened(key: str, prometheus: Prometheus) -> None:
    """On the node that has everything, of which a GPU is down and counters grow; and on healthy nodes nothing."""
    for annotation in boards.board(key)["annotations"]["list"]:
        expr = annotation["expr"]
        marked = prometheus.over(boards.interpolate(expr, values(key, "everything")), WINDOW)
        healthy = prometheus.over(boards.interpolate(expr, values(key, "a100x8")), WINDOW)
        assert not healthy, annotation["name"]
        assert marked or annotation["name"] == "gpumon started", annotation["name"]
