"""What Prometheus and gpumon talk to in these tests: model servers whose numbers move, and a node that has everything."""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gpumon.catalog import KINDS, WORKLOAD, Column, Entity, EntityKind, Histogram, Reading
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


def vllm() -> dict[str, Answer]:
    """Give a vLLM under load: its page's counters and buckets grow by half of what they were every second."""
    began = time.monotonic()
    lines = servers.page("vllm-0.11").decode().splitlines()

    def page() -> bytes:
        factor = 1 + (time.monotonic() - began) / 2
        return "\n".join(_grown(line, factor) for line in lines).encode() + b"\n"

    return {"/metrics": page, "/version": lambda: b'{"version": "0.11.0"}'}


def _grown(line: str, factor: float) -> str:
    found = re.fullmatch(r"(\S+?(?:_total|_bucket|_count|_sum)\{.*\}) (\S+)", line)
    return f"{found[1]} {float(found[2]) * factor}" if found else line


def ollama() -> dict[str, Answer]:
    """Give an Ollama that answers and, every five seconds, takes a second model into memory or lets it go."""
    resident = servers.resident()
    other = servers.resident("qwen3:8b", size=6_000_000_000, size_vram=6_000_000_000)
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
        both = time.monotonic() % 10 < 5
        return json.dumps({"models": [resident, other] if both else [resident]}).encode()

    def replied() -> bytes:
        return json.dumps(reply).encode()

    answers = servers.ollama(resident, other).answers
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
