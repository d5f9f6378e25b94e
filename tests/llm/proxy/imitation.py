"""An imitation of a model server: answers by scripts, byte by byte as they say, and remembers what it was sent.

Shapes are those of Ollama's api/types.go, OpenAI's and Anthropic's API references; see docs/proxy.md.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self


@dataclass
class Got:
    """A request as it arrived."""

    method: str
    path: str
    head: bytes
    peer: object
    body: bytes = b""

    @property
    def json(self) -> dict[str, object]:
        """Give the body as JSON."""
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


Script = Callable[[Got, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def chunk(data: bytes) -> bytes:
    """Frame as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(body: bytes, status: str = "200 OK", content_type: str = "application/json", extra: str = "") -> bytes:
    """Give a response with a length."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def stream_head(content_type: str, extra: str = "") -> bytes:
    """Give the head of a chunked response."""
    return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{extra}Transfer-Encoding: chunked\r\n\r\n".encode()


def ndjson(documents: Sequence[Mapping[str, object]]) -> list[bytes]:
    """Give documents as lines."""
    return [json.dumps(document, separators=(",", ":")).encode() + b"\n" for document in documents]


def sse(documents: Sequence[Mapping[str, object] | str], named: bool = False) -> list[bytes]:
    """Give documents as server-sent events; `named` adds the event's name, as Anthropic and /v1/responses do."""
    events = []
    for document in documents:
        name = f"event: {document['type']}\n" if named and isinstance(document, dict) else ""
        data = document if isinstance(document, str) else json.dumps(document, separators=(",", ":"))
        events.append(f"{name}data: {data}\n\n".encode())
    return events


def stream(content_type: str, pieces: Sequence[bytes], extra: str = "") -> bytes:
    """Give a whole chunked response."""
    return stream_head(content_type, extra) + b"".join(map(chunk, pieces)) + b"0\r\n\r\n"


@dataclass
class Imitation:
    """A server on 127.0.0.1; `scripts` by path answer requests, and every request is in `got`."""

    scripts: dict[str, Script | bytes]
    tls: ssl.SSLContext | None = None
    got: list[Got] = field(default_factory=list)
    port: int = 0
    connections: set[asyncio.StreamWriter] = field(default_factory=set)
    tasks: set[asyncio.Task[object]] = field(default_factory=set)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def stop(self) -> None:
        """Stop at once, as a killed process does."""
        self._server.close()
        for writer in tuple(self.connections):
            writer.transport.abort()

    @property
    def url(self) -> str:
        """Give its base URL."""
        return f"https://localhost:{self.port}" if self.tls else f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
                got = Got(method, path, head, writer.get_extra_info("peername"))
                self.got.append(got)
                script = self.scripts.get(path.partition("?")[0], whole(b'{"error":"not found"}', "404 Not Found"))
                if isinstance(script, bytes):
                    got.body = await read_body(head, reader)
                    writer.write(script)
                    await writer.drain()
                else:
                    await script(got, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connections.discard(writer)
            self.tasks.discard(task)
            writer.close()


def header(head: bytes, name: str) -> str | None:
    """Give a header of a head."""
    for line in head.decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name:
            return value.strip()
    return None


async def read_body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    """Read a request's body, of whichever framing."""
    if header(head, "transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body
    return await reader.readexactly(int(header(head, "content-length") or 0))


# What an Ollama with two models answers.
TAGS = whole(
    json.dumps(
        {
            "models": [
                {"name": name, "model": name, "size": 1, "digest": "0" * 64, "details": {"family": "llama"}}
                for name in ("tiny:latest", "embedder:latest")
            ]
        }
    ).encode()
)

METRICS = {
    "total_duration": 5_000_000_000,
    "load_duration": 2_000_000_000,
    "prompt_eval_count": 26,
    "prompt_eval_duration": 500_000_000,
    "eval_count": 5,
    "eval_duration": 2_000_000_000,
}


def ollama_chat(*contents: str, **last: object) -> list[dict[str, object]]:
    """Give the documents of a streamed /api/chat."""
    common = {"model": "tiny", "created_at": "2026-01-01T00:00:00.000000000Z"}
    return [
        *({**common, "message": {"role": "assistant", "content": text}, "done": False} for text in contents),
        {
            **common,
            "message": {"role": "assistant", "content": ""},
            "done": True,
            "done_reason": "stop",
            **METRICS,
            **last,
        },
    ]


def openai_chat(*contents: str, usage: bool = True, finish: str = "stop") -> list[dict[str, object] | str]:
    """Give the documents of a streamed /v1/chat/completions."""

    def piece(delta: dict[str, object], reason: str | None = None) -> dict[str, object]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [choice]}

    documents: list[dict[str, object] | str] = [piece({"role": "assistant", "content": ""})]
    documents += [piece({"content": text}) for text in contents]
    documents.append(piece({}, finish))
    if usage:
        counts = {
            "prompt_tokens": 20,
            "completion_tokens": 7,
            "total_tokens": 27,
            "prompt_tokens_details": {"cached_tokens": 12},
        }
        documents.append({**piece({}), "choices": [], "usage": counts})
    return [*documents, "[DONE]"]


def anthropic_message(*contents: str) -> list[dict[str, object]]:
    """Give the documents of a streamed /v1/messages."""
    usage = {"input_tokens": 9, "output_tokens": 1, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "tiny", "content": [], "stop_reason": None}
    return [
        {"type": "message_start", "message": {**message, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
            for text in contents
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 15},
        },
        {"type": "message_stop"},
    ]


def responses(*contents: str) -> list[dict[str, object]]:
    """Give the documents of a streamed /v1/responses."""
    response: dict[str, object] = {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": "tiny",
        "status": "in_progress",
        "output": [],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "instructions": "be brief",
    }
    usage = {
        "input_tokens": 30,
        "input_tokens_details": {"cached_tokens": 10},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 38,
    }
    at = {"item_id": "i", "output_index": 0, "content_index": 0}
    return [
        {"type": "response.created", "sequence_number": 0, "response": response},
        *(
            {"type": "response.output_text.delta", "sequence_number": i, **at, "delta": text, "logprobs": []}
            for i, text in enumerate(contents, 1)
        ),
        {
            "type": "response.completed",
            "sequence_number": 99,
            "response": {**response, "status": "completed", "usage": usage},
        },
    ]
