"""What Prometheus and gpumon talk to in these tests: model servers whose numbers move, and a node that has everything."""

from __future__ import annotations

import itertools
import json
import math
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gpumon.catalog import GPU_XID, KINDS, WORKLOAD, Column, Entity, EntityKind, Histogram, Reading
from gpumon.export.prometheus import Form, Renderer
from tests.llm import servers

Answer = Callable[[], bytes]


@contextmanager
def serving(answers: Mapping[str, Answer]) -> Iterator[str]:
    """Answer paths on loopback until the end of the block, 404 for the rest; gives the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path)
            if answer is None:
                self.send_error(404)
                return
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = answer()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


# Seconds that half of what is observed stays below, by the words in a histogram's name.
MEDIANS = {"first_token": 0.25, "output_token": 0.02, "inter_token": 0.018, "queue": 0.03, "e2e": 3.0, "latency": 3.0}
# Requests a second, on the mean; the load comes and goes.
REQUESTS = 4.0
WAVE_SECONDS = 300.0


def vllm() -> dict[str, Answer]:
    """Give a vLLM under load: its counters grow, its buckets fill as such latencies do, its gauges follow the load."""
    lines = servers.page("vllm-0.11").decode().splitlines()
    grown: dict[str, float] = {}
    last = time.monotonic()

    def page() -> bytes:
        nonlocal last
        now = time.monotonic()
        load = 1 + 0.5 * math.sin(2 * math.pi * now / WAVE_SECONDS)
        passed, last = now - last, now
        return "\n".join(_moved(line, passed * load, load, grown) for line in lines).encode() + b"\n"

    return {"/metrics": page, "/version": lambda: b'{"version": "0.11.0"}'}


def _moved(line: str, passed: float, load: float, grown: dict[str, float]) -> str:
    """Give a line of the page after some more seconds; `grown` remembers what counts."""
    found = re.fullmatch(r"(\S+?)(\{.*\}) (\S+)", line)
    if found is None:
        return line
    name, labels, value = found.groups()
    if not name.endswith(("_total", "_bucket", "_count", "_sum")):
        return f"{name}{labels} {float(value) * load}" if name.endswith(("running", "waiting", "perc")) else line
    share = float(value) / 10
    if name.endswith(("_bucket", "_count", "_sum")) and name.split("_")[-2] in ("seconds", "latency"):
        median = next((seconds for word, seconds in MEDIANS.items() if word in name), 1.0)
        bound = re.search(r'le="([^"]+)"', labels)
        # A logistic distribution of the logarithm, slower under load.
        below = 1 / (1 + (median * load / max(float(bound[1]), 1e-9)) ** 3) if bound else 1.0
        share = REQUESTS * (median * load if name.endswith("_sum") else below)
    grown[name + labels] = grown.get(name + labels, 0.0) + passed * share
    return f"{name}{labels} {grown[name + labels]}"


def ollama(period: float = 10.0) -> dict[str, Answer]:
    """Give an Ollama that answers, and every `period` seconds takes a second model into memory and lets it go."""
    names = {"llama3.2:latest": 4_000_000_000, "qwen3:8b": 6_000_000_000}
    reply = {
        "model": "llama3.2:latest",
        "message": {"role": "assistant", "content": "abc"},
        "done": True,
        "done_reason": "stop",
        "total_duration": 2_600_000_000,
        "load_duration": 10_000_000,
        "prompt_eval_count": 26,
        "prompt_eval_duration": 130_000_000,
        "eval_count": 120,
        "eval_duration": 2_400_000_000,
    }

    def loaded() -> bytes:
        soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
        both = time.monotonic() % period < period / 2
        models = [
            servers.resident(name, size=size, size_vram=size, expires_at=soon)
            for name, size in list(names.items())[: 1 + both]
        ]
        return json.dumps({"models": models}).encode()

    def replied() -> bytes:
        return json.dumps(reply).encode()

    answers = servers.ollama(*map(servers.resident, names)).answers
    return {
        "/": lambda: b"Ollama is running",
        "/api/version": lambda: json.dumps(answers["/api/version"]).encode(),
        "/api/tags": lambda: json.dumps(answers["/api/tags"]).encode(),
        "/api/ps": loaded,
        "/api/chat": replied,
    }


def ask(proxy: str) -> None:
    """Send the proxy a request to a model."""
    question = {"model": "llama3.2:latest", "stream": False, "messages": [{"role": "user", "content": "?"}]}
    request = urllib.request.Request(f"{proxy}/api/chat", json.dumps(question).encode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


# The XID that comes once, and the scrape it comes with.
ONCE, WITH_SCRAPE = "13", 30
# Labels whose values the dashboards choose by.
LABELS = {"gpu_id": "0", "category": "ml_training", "namespace": "vision", "pod": "train-0", "server": "127.0.0.1:8000"}


def everything() -> dict[str, Answer]:
    """Give the page of a node that has every kind of thing, all of whose counters grow; its GPU is held, idle and down."""
    renderer = Renderer(KINDS)
    moments = itertools.count(1)

    def page() -> bytes:
        moment = next(moments)
        entities = [_made(kind, moment) for kind in KINDS]
        entities.append(_made(WORKLOAD, moment, category="idle"))
        if moment >= WITH_SCRAPE:
            entities.append(_made(GPU_XID, 1, xid=ONCE))
        return b"".join(renderer.render(entities, Form.TEXT))

    return {"/metrics": page}


def _made(kind: EntityKind, moment: int, **labels: str) -> Entity:
    texts = tuple((LABELS | labels).get(label.name, label.name) for label in kind.labels)
    spread = tuple(_observed(reading, moment) for reading in kind.histograms)
    return Entity(kind, texts, tuple(_value(column, moment) for column in kind.columns), spread)


def _value(column: Column, moment: int) -> float:
    if column.reading.counter:
        return float(moment)
    return 0.0 if column.name in ("utilization_gpu", "up") else 1.0


def _observed(reading: Reading, moment: int) -> Histogram:
    bounds = reading.buckets or (0.1, 1.0, 10.0)
    return Histogram(bounds, (float(moment),) * (len(bounds) + 1), float(moment))
