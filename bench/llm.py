"""What watching ten model servers costs: CPU of the real source, polling imitations in a process of their own.

`python -m bench.llm` from the checkout, with `src` on the path; takes a minute.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import AsyncExitStack

import structlog
from tests.llm.servers import Imitation, ollama, resident, serving, vllm

from gpumon.llm.discovery import Target
from gpumon.llm.names import ModelNames
from gpumon.llm.sessions import Sessions
from gpumon.llm.source import LlmSource

SERVERS = 10
INTERVAL_SECONDS = 5.0
MEASURED_SECONDS = 25.0


def make(kind: str) -> Imitation:
    """Give a server of a kind: a vLLM with two engines, or an Ollama with a model."""
    return vllm() if kind == "vllm" else ollama(resident())


async def serve(kind: str) -> None:
    """Serve until stdin ends; write the addresses."""
    async with AsyncExitStack() as stack:
        for _ in range(SERVERS):
            print((await stack.enter_async_context(serving(make(kind)))).url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


async def watch(kind: str, urls: list[str]) -> None:
    """Watch the servers and print what that takes."""
    targets = [Target(urls=(url,), kind=kind, found_by="settings") for url in urls]
    source = LlmSource(targets, Sessions(ModelNames(50)), structlog.get_logger(), interval=INTERVAL_SECONDS)
    source.start()
    await asyncio.sleep(1.5 * INTERVAL_SECONDS)  # the first polls ask more
    cpu, wall = time.process_time(), time.monotonic()
    await asyncio.sleep(MEASURED_SECONDS)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    reading = await source.read(0.0, 1.0)
    await source.stop()
    assert reading.success
    each = cpu / (wall / INTERVAL_SECONDS) / SERVERS
    print(
        f"{SERVERS} {kind}, each every {INTERVAL_SECONDS:g} s: {cpu / wall:.3%} of a core, {each * 1000:.2f} ms a poll"
    )


def main() -> None:
    """Measure both kinds, or serve one when told to."""
    if len(sys.argv) > 1:
        asyncio.run(serve(sys.argv[1]))
        return
    for kind in ("vllm", "ollama"):
        command = [sys.executable, "-m", "bench.llm", kind]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as servers:
            assert servers.stdout is not None
            assert servers.stdin is not None
            urls = [servers.stdout.readline().strip() for _ in range(SERVERS)]
            asyncio.run(watch(kind, urls))
            servers.stdin.close()


if __name__ == "__main__":
    main()
