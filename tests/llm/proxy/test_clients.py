"""The official clients, through the proxy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anthropic
import ollama
import openai
import pytest

from gpumon.llm.proxy.exchange import Measured
from gpumon.llm.request import ModelRequest, Outcome
from tests.llm.proxy.imitation import (
    Got,
    anthropic_message,
    chunk,
    ndjson,
    ollama_chat,
    openai_chat,
    read_body,
    responses,
    sse,
    stream,
    stream_head,
    whole,
)
from tests.llm.proxy.learning import GENERATED, LAST, NDJSON, SSE
from tests.llm.proxy.test_pump import run
from tests.llm.proxy.through import Through, through

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "d",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALLED = [{"function": {"name": "weather", "arguments": {"city": "Paris"}}}]
IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def split(data: bytes, size: int = 7) -> object:
    """Give a script that answers in small pieces."""

    async def serve(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.body = await read_body(got.head, reader)
        for at in range(0, len(data), size):
            writer.write(data[at : at + size])
            await asyncio.sleep(0)

    return serve


async def broken(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Begin a stream and die."""
    await read_body(got.head, reader)
    kind, pieces = (NDJSON, ndjson(ollama_chat("a"))) if "/api/" in got.path else (SSE, sse(openai_chat("a")))
    writer.write(stream_head(kind) + chunk(pieces[0]) + chunk(pieces[1])[:-9])
    await writer.drain()
    writer.close()


@asynccontextmanager
async def served(**scripts: object) -> AsyncIterator[Through]:
    """Give a proxy before scripts by the last parts of their paths."""
    paths = {"/" + name.replace("__", "/"): script for name, script in scripts.items()}
    async with through(paths) as t:  # type: ignore[arg-type]
        yield t


async def request_of(t: Through) -> ModelRequest:
    """Give the next measured request."""
    measured: Measured = await t.measured.get()
    return measured.request


def test_ollama_chat_streams() -> None:
    """Cut anywhere, with an image and tools; what the client counts is what is measured."""

    async def main() -> None:
        thinking = {"model": "tiny", "message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False}
        called = {"model": "tiny", "message": {"role": "assistant", "content": "", "tool_calls": CALLED}, "done": False}
        data = stream(NDJSON, ndjson([thinking, called, *ollama_chat("Hel", "lo")]))
        async with served(api__chat=split(data)) as t:
            client = ollama.AsyncClient(host=t.url)
            parts = [
                part
                async for part in await client.chat(
                    model="tiny",
                    messages=[{"role": "user", "content": "what is this?", "images": [IMAGE]}],
                    tools=[TOOL],
                    stream=True,
                )
            ]
            assert "".join(part.message.content or "" for part in parts) == "Hello"
            assert parts[1].message.tool_calls is not None
            assert t.server.got[-1].json["messages"][0]["images"] == [IMAGE]  # type: ignore[index]
            request = await request_of(t)
            assert (request.prompt_tokens, request.completion_tokens) == (26, parts[-1].eval_count)
            assert (request.model, request.streamed, request.outcome) == ("tiny:latest", True, Outcome.OK)
            await client._client.aclose()

    run(main())


def test_ollama_without_streaming() -> None:
    """generate, chat, embed, and what is not measured: list, ps, pull."""

    async def main() -> None:
        embedded = {"model": "embedder", "embeddings": [[0.5, 0.25]], "total_duration": 5, "load_duration": 2}
        async with served(
            api__generate=whole(json.dumps({**GENERATED[1], "response": "abc"}).encode()),
            api__chat=whole(json.dumps({**LAST, "message": {"role": "assistant", "content": "abc"}}).encode()),
            api__embed=whole(json.dumps({**embedded, "prompt_eval_count": 3}).encode()),
            api__ps=whole(b'{"models":[]}'),
            api__pull=stream(NDJSON, ndjson([{"status": "pulling"}, {"status": "success"}])),
        ) as t:
            client = ollama.AsyncClient(host=t.url)
            assert (await client.generate("tiny", "x")).response == "abc"
            assert (await client.chat("tiny", [{"role": "user", "content": "x"}])).message.content == "abc"
            assert (await client.embed("embedder", "x")).embeddings == [[0.5, 0.25]]
            assert [model.model for model in (await client.list()).models] == ["tiny:latest", "embedder:latest"]
            assert (await client.ps()).models == []
            assert [part.status async for part in await client.pull("x", stream=True)] == ["pulling", "success"]
            requests = [await request_of(t) for _ in range(3)]
            assert [(r.model, r.prompt_tokens, r.completion_tokens) for r in requests] == [
                ("tiny:latest", 26, 5),
                ("tiny:latest", 26, 5),
                ("embedder:latest", 3, None),
            ]
            assert not any(r.streamed for r in requests)
            assert t.measured.empty()
            await client._client.aclose()

    run(main())


def test_ollama_errors_are_errors() -> None:
    """Refused, in the stream, and by the server's death: the client raises what it raises without the proxy."""

    async def main() -> None:
        async with served(
            api__generate=whole(b'{"error":"model not found"}', "404 Not Found"),
            api__chat=stream(NDJSON, [*ndjson(ollama_chat("a")[:1]), b'{"error":"boom"}\n']),
        ) as t:
            client = ollama.AsyncClient(host=t.url)
            with pytest.raises(ollama.ResponseError, match="model not found") as refused:
                await client.generate("tiny", "x")
            assert refused.value.status_code == 404
            with pytest.raises(ollama.ResponseError, match="boom"):
                async for _ in await client.chat("tiny", [], stream=True):
                    pass
            t.server.scripts["/api/chat"] = broken
            with pytest.raises(Exception, match="peer closed connection without sending complete message body"):
                async for _ in await client.chat("tiny", [], stream=True):
                    pass
            assert [(await request_of(t)).outcome for _ in range(3)] == [Outcome.ERROR] * 3
            await client._client.aclose()

    run(main())


def test_openai_chat_streams() -> None:
    """With and without usage; the client's own count is what is measured."""

    async def main() -> None:
        async with served(v1__chat__completions=split(stream(SSE, sse(openai_chat("Hel", "lo"))))) as t:
            client = openai.AsyncOpenAI(base_url=t.url + "/v1", api_key="k", max_retries=0)
            ask = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
            chunks = [
                part
                async for part in await client.chat.completions.create(
                    **ask,  # type: ignore[call-overload]
                    stream=True,
                    stream_options={"include_usage": True},
                )
            ]
            assert "".join(part.choices[0].delta.content or "" for part in chunks if part.choices) == "Hello"
            request = await request_of(t)
            assert (request.prompt_tokens, request.cached_tokens, request.completion_tokens) == (20, 12, 7)
            assert request.prompt_tokens == chunks[-1].usage.prompt_tokens
            t.server.scripts["/v1/chat/completions"] = stream(SSE, sse(openai_chat("Hel", "lo", usage=False)))
            async for _ in await client.chat.completions.create(**ask, stream=True):  # type: ignore[call-overload]
                pass
            request = await request_of(t)
            assert (request.completion_tokens, request.completion_tokens_estimated) == (2, True)
            await client.close()

    run(main())


def test_openai_responses_completions_and_embeddings() -> None:
    """Each by the client's own method."""

    async def main() -> None:
        usage = {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}
        text = {"id": "c", "object": "text_completion", "created": 1, "model": "tiny", "usage": usage}
        embedding = {"object": "embedding", "index": 0, "embedding": [0.5]}
        async with served(
            v1__responses=split(stream(SSE, sse(responses("Hel", "lo"), named=True))),
            v1__completions=whole(
                json.dumps({**text, "choices": [{"text": "a", "index": 0, "finish_reason": "length"}]}).encode()
            ),
            v1__embeddings=whole(
                json.dumps({"object": "list", "data": [embedding], "model": "embedder", "usage": usage}).encode()
            ),
        ) as t:
            client = openai.AsyncOpenAI(base_url=t.url + "/v1", api_key="k", max_retries=0)
            events = [event async for event in await client.responses.create(model="tiny", input="x", stream=True)]
            assert events[-1].type == "response.completed"
            assert (await client.completions.create(model="tiny", prompt="x")).choices[0].text == "a"
            assert (await client.embeddings.create(model="embedder", input="x", encoding_format="float")).data
            first, second, third = [await request_of(t) for _ in range(3)]
            assert (first.prompt_tokens, first.cached_tokens, first.completion_tokens) == (30, 10, 8)
            assert (second.completion_tokens, second.finish_reason) == (6, "length")
            assert (third.model, third.prompt_tokens, third.completion_tokens) == ("embedder:latest", 4, None)
            await client.close()

    run(main())


def test_openai_errors_are_errors() -> None:
    """A status is the status, a broken stream breaks."""

    async def main() -> None:
        async with served(v1__chat__completions=whole(b'{"error":{"message":"busy"}}', "503 Service Unavailable")) as t:
            client = openai.AsyncOpenAI(base_url=t.url + "/v1", api_key="k", max_retries=0)
            with pytest.raises(openai.InternalServerError) as raised:
                await client.chat.completions.create(model="tiny", messages=[])
            assert raised.value.status_code == 503
            t.server.scripts["/v1/chat/completions"] = broken
            with pytest.raises(openai.APIConnectionError):
                async for _ in await client.chat.completions.create(model="tiny", messages=[], stream=True):
                    pass
            assert [(await request_of(t)).outcome for _ in range(2)] == [Outcome.ERROR] * 2
            await client.close()

    run(main())


def test_openai_client_that_stops_early_cancels() -> None:
    """Leaving the stream closes the connection, and the server is told."""

    async def main() -> None:
        gone = asyncio.Event()

        async def serve(got: Got, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_body(got.head, reader)
            writer.write(stream_head(SSE) + b"".join(map(chunk, sse(openai_chat("a", "b"))[:3])))
            assert await reader.read(1) == b""
            gone.set()
            writer.close()

        async with served(v1__chat__completions=serve) as t:
            client = openai.AsyncOpenAI(base_url=t.url + "/v1", api_key="k", max_retries=0)
            answer = await client.chat.completions.create(model="tiny", messages=[], stream=True)
            async for part in answer:
                if part.choices[0].delta.content == "a":
                    break
            await answer.close()
            await gone.wait()
            request = await request_of(t)
            assert request.outcome is Outcome.CANCELLED
            assert (request.completion_tokens, request.completion_tokens_estimated) == (2, True)
            await client.close()

    run(main())


def test_anthropic_messages_stream() -> None:
    """The prompt is what was read and what came from the cache; the reply is counted at its end."""

    async def main() -> None:
        async with served(v1__messages=split(stream(SSE, sse(anthropic_message("Hel", "lo"), named=True)))) as t:
            client = anthropic.AsyncAnthropic(base_url=t.url, api_key="k", max_retries=0)
            async with client.messages.stream(
                model="tiny", max_tokens=50, messages=[{"role": "user", "content": "x"}]
            ) as answer:
                assert await answer.get_final_text() == "Hello"
            request = await request_of(t)
            assert (request.prompt_tokens, request.cached_tokens, request.completion_tokens) == (15, 4, 15)
            assert request.finish_reason == "end_turn"
            await client.close()

    run(main())
