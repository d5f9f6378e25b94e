"""Draws the dashboards with Grafana's own components over a simulated fleet, and keeps the pictures in docs/images.

    python -m tests.tools.pictures [--minutes N] [--prometheus URL] [DASHBOARD …]

Needs node and npm (the components, 625 MB, are put into TOOLS_DIR or `.tools` once), chromium, prometheus and ImageMagick.
`--prometheus` draws what a Prometheus has already; without it a fleet is simulated for so many minutes first (15).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from playwright.sync_api import ConsoleMessage, sync_playwright
from tests import daemon
from tests.grafana import boards, servers
from tests.grafana.conftest import gpumon
from tests.grafana.prometheus import Prometheus

from gpumon.catalog import LLM_ENERGY, Entity
from gpumon.export.prometheus import Form, Renderer

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests" / "tools" / "render"
TOOLS = Path(os.environ.get("TOOLS_DIR") or ROOT / ".tools")
PICTURES = ROOT / "docs" / "images"
SCRAPE_SECONDS = 5
CHROMIUM = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")

# A picture in 16 million colours takes three times the space, and looks no better; the fewest are for the largest.
COLORS = (128, 96, 64, 40)
BYTES = 250_000
# Grafana's packages ask for more peers than they need here.
INSTALL = ("npm", "install", "--ignore-scripts", "--legacy-peer-deps", "--no-package-lock", "--no-audit", "--no-fund")

# What stands in the fleet: node, its cluster and what is simulated there.
FLEET = (
    ("gpu-a1", "training", "h100x8"),
    ("gpu-a2", "training", "a100x8"),
    ("gpu-b1", "serving", "l40sx4"),
    ("gpu-b2", "serving", "h100x8-mig"),
    ("desk-7", "office", "rtx4090x1"),
)
# Where the model servers are.
SERVING = "gpu-b1"
# Simulated processes are in no pod: these names are put upon them. Node, kind of work, GPUs; namespace, pod, container.
PODS = (
    ("gpu-a1", "ml_training", "[0-3]", "vision", "resnet-sweep-4", "train"),
    ("gpu-a1", "ml_training", "[4-7]", "language", "pretrain-0", "trainer"),
    ("gpu-a1", "llm_inference", ".", "chat", "vllm-llama-0", "server"),
    ("gpu-a2", "ml_training", "[0-5]", "language", "pretrain-1", "trainer"),
    ("gpu-a2", "ml_training", "[67]", "speech", "whisper-ft-2", "train"),
    ("gpu-b1", "llm_inference", "[01]", "chat", "ollama-0", "ollama"),
    ("gpu-b1", "llm_inference", "[23]", "search", "embed-3", "embed"),
    ("gpu-b2", "llm_inference", ".", "search", "rerank-1", "server"),
)
# Minutes that are shown, where fewer: a line for each of eight GPUs is a blur over more.
MINUTES: Mapping[str, float] = {"gpu": 3.0}
# Values of variables that are not "All".
CHOSEN: Mapping[str, Mapping[str, str]] = {"gpu": {"node": "gpu-a1"}}


def relabel() -> list[dict[str, object]]:
    """Give Prometheus's rules that add clusters and pods to what simulated nodes say."""
    rules: list[dict[str, object]] = [
        {"source_labels": ["instance"], "regex": node, "target_label": "cluster", "replacement": cluster}
        for node, cluster, _ in FLEET
    ]
    for node, category, gpus, *names in PODS:
        for label, name in zip(("namespace", "pod", "container"), names, strict=True):
            rules.append(
                {
                    "source_labels": ["__name__", "instance", "category", "gpu_id"],
                    "regex": f"gpumon_(?:workload|gpu_process)_.*;{node};{category};{gpus}",
                    "target_label": label,
                    "replacement": name,
                }
            )
    return rules


@contextmanager
def fleet(folder: Path) -> Iterator[tuple[Prometheus, str]]:
    """Run the fleet with a Prometheus; gives that, and where to ask a model."""
    with ExitStack() as stack:
        proxy = daemon.free_port()
        ollama = stack.enter_context(servers.serving(servers.ollama(period=240)))
        models = {
            "GPUMON_LLM_SERVERS": f"vllm={stack.enter_context(servers.serving(servers.vllm()))}",
            "GPUMON_LLM_POLL_INTERVAL_SECS": "2",
            "GPUMON_OLLAMA_API_URL": ollama,
            "GPUMON_PROXY_LISTEN": f"127.0.0.1:{proxy}",
            "GPUMON_PROXY_UPSTREAM": ollama,
        }
        targets = {}
        for node, _, profile in FLEET:
            environ = models if node == SERVING else {"GPUMON_OLLAMA_ENABLED": "false"}
            targets[node] = stack.enter_context(gpumon(profile, folder / node, **environ))
        energy = stack.enter_context(servers.serving({"/metrics": energy_page})).removeprefix("http://")
        running = stack.enter_context(Prometheus(folder, targets, [energy], seconds=SCRAPE_SECONDS, relabel=relabel()))
        yield running, f"http://127.0.0.1:{proxy}"


def energy_page() -> bytes:
    """Give what models cost, made up: the processes of a simulated node are no model servers."""
    now = time.time()
    place = 'cluster="serving",job="gpumon",' + f'instance="{SERVING}"'
    entities = []
    for model, watts, joules in (("meta-llama/Llama-3.1-8B-Instruct", 310.0, 0.84), ("llama3.2", 42.0, 0.31)):
        wave = 1 + 0.12 * math.sin(now / 70 + watts)
        # The counter is the integral of its wave, so that its rate is the power.
        total = watts * (now - 0.12 * 70 * math.cos(now / 70 + watts)) - watts * 1.7e9
        values = {"energy_joules_total": total, "joules_per_token": joules * wave, "joules_per_token_error_ratio": 0.04}
        labels = ("127.0.0.1:8000", "vllm" if "/" in model else "ollama", model)
        entities.append(Entity(LLM_ENERGY, labels, tuple(map(values.get, LLM_ENERGY.index))))
    return b"".join(Renderer().render(entities, Form.TEXT)).replace(b"{", b"{" + place.encode() + b",")


def components() -> Path:
    """Give the folder with the built page; installs and builds it where it is missing or older than its sources."""
    folder = TOOLS / "grafana-render"
    folder.mkdir(parents=True, exist_ok=True)
    for source in SOURCES.iterdir():
        shutil.copy2(source, folder / source.name)
    if not (folder / "node_modules").is_dir():
        subprocess.run(INSTALL, cwd=folder, check=True)
    built = folder / "dist" / "index.html"
    if not built.exists() or any(built.stat().st_mtime < source.stat().st_mtime for source in SOURCES.iterdir()):
        subprocess.run(["nice", "-n", "19", "npx", "vite", "build"], cwd=folder, check=True)
    return folder / "dist"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def draw(prometheus: str, minutes: float, keys: tuple[str, ...], pictures: Path) -> None:
    """Draw dashboards over the last minutes that a Prometheus has."""
    pictures.mkdir(parents=True, exist_ok=True)
    with served(components()) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(CHROMIUM))
        for key in keys:
            page = browser.new_page(viewport={"width": 1600, "height": 900})
            page.on("pageerror", lambda error: print(f"page error: {error}"))
            page.on("console", lambda message: print(message.text) if _matters(message) else None)
            asked = {
                "board": boards.board(key),
                "prometheus": prometheus,
                "seconds": min(minutes, MINUTES.get(key, minutes)) * 60,
                "scrape": SCRAPE_SECONDS,
                "chosen": CHOSEN.get(key, {}),
            }
            page.add_init_script(f"window.asked = {json.dumps(asked)}")
            page.goto(url)
            page.wait_for_selector("#done", state="attached", timeout=120_000)
            _keep(page.screenshot(full_page=True), pictures / f"grafana-{key}.png")
            page.close()
        browser.close()


def _keep(screenshot: bytes, picture: Path) -> None:
    """Write a picture with as many colours as its size allows."""
    for colors in COLORS:
        smaller = ("convert", "png:-", "+dither", "-colors", f"{colors}", "-define", "png:compression-level=9")
        subprocess.run([*smaller, f"PNG8:{picture}"], input=screenshot, check=True)
        if picture.stat().st_size < BYTES:
            return


def _matters(message: ConsoleMessage) -> bool:
    """Say whether it is an error of ours: Grafana's icons are on its server, and missing here."""
    return message.type == "error" and "Failed to load resource" not in message.text


def main() -> None:
    """Simulate a fleet, where no Prometheus is given, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--prometheus")
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    parser.add_argument("dashboards", nargs="*", default=list(boards.KEYS))
    given = parser.parse_args()
    if given.prometheus:
        draw(given.prometheus, given.minutes, tuple(given.dashboards), given.pictures)
        return
    components()  # first, because it may take minutes or fail
    with tempfile.TemporaryDirectory() as name, fleet(Path(name)) as (prometheus, proxy):
        end = time.monotonic() + given.minutes * 60
        print(f"{prometheus.url} collects for {given.minutes:g} minutes", flush=True)
        prometheus.until_scraped(2)
        while time.monotonic() < end:
            servers.ask(proxy)
            time.sleep(SCRAPE_SECONDS)
        draw(prometheus.url, given.minutes, tuple(given.dashboards), given.pictures)


if __name__ == "__main__":
    main()
