"""Requests and replies as bytes, with what is to be learnt of each; shared by the tests of the copy and of the pump."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field

from gpumon.llm.proxy.conversation import Conversation
from gpumon.llm.proxy.exchange import Measured
from gpumon.llm.request import ModelRequest, Outcome
from tests.llm.proxy import imitation
from tests.llm.proxy.imitation import anthropic_message, ndjson, ollama_chat, openai_chat, responses, sse, stream, whole


class Ledger:
    """Keeps what a conversation tells."""

    server = "127.0.0.1:1"
    kind = "ollama"

    def __init__(self) -> None:
        self.running = 0
        self.measured: list[Measured] = []
        self.unread = 0
        self.errors: list[Exception] = []

    def finished(self, measured: Measured) -> None:
        """Keep."""
        self.measured.append(measured)

    def unreadable(self, error: Exception | None) -> None:
        """Count."""
        self.unread += 1
        if error is not None:
            self.errors.append(error)

    def wall(self) -> float:
        """Stand still."""
        return 1000.0


@dataclass
class Case:
    """One exchange, and the fields of its ModelRequest that are not None; no fields: not a request to a model."""

    path: str
    request: object
    response: bytes
    fields: dict[str, object] | None
    unread: int = 0
    headers: str = ""
    close: bool = False
    error: str | None = None

    @property
    def request_bytes(self) -> bytes:
        """Give the request as sent."""
        body = self.request if isinstance(self.request, bytes) else json.dumps(self.request).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: a\r\n{self.headers}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


OK = {"outcome": Outcome.OK, "model": "tiny"}
TIMES = {"time_to_first_token_seconds": 0.0}
OLLAMA = {
    **OK,
    "prompt_tokens": 26,
    "completion_tokens": 5,
    "load_seconds": 2.0,
    "queue_seconds": 0.5,
    "time_per_output_token_seconds": 0.5,
    "finish_reason": "stop",
}
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": 'say "model": "x"'}]}


def without(document: dict[str, object], *names: str) -> dict[str, object]:
    """Give a document without these."""
    return {name: value for name, value in document.items() if name not in names}


def _chat(*contents: str, **last: object) -> bytes:
    return stream(NDJSON, ndjson(ollama_chat(*contents, **last)))


GENERATED = [
    {"model": "tiny", "response": "a", "done": False},
    {"model": "tiny", "response": "", "done": True, "done_reason": "length", **imitation.METRICS},
]
LAST = ollama_chat()[-1]
TOOLS = [{"function": {"name": "f", "arguments": {"content": ""}}}]
LONG_CONTEXT = {**LAST, "context": list(range(30_000))}
COMPRESSED = gzip.compress(b"".join(sse(openai_chat("a", "b"))))

CASES = {
    "ollama chat": Case("/api/chat", CHAT, _chat("a", "b", "c"), {**OLLAMA, **TIMES, "streamed": True}),
    "ollama chat, not streamed": Case(
        "/api/chat",
        {**CHAT, "stream": False},
        whole(json.dumps({**LAST, "message": {"role": "assistant", "content": "abc"}}).encode()),
        {**OLLAMA, "streamed": False},
    ),
    "ollama chat, no counts": Case(
        "/api/chat",
        CHAT,
        stream(NDJSON, ndjson([*ollama_chat("a", "b", "c")[:-1], without(LAST, *imitation.METRICS)])),
        {**OK, **TIMES, "completion_tokens": 3, "completion_tokens_estimated": True, "finish_reason": "stop"},
    ),
    "ollama chat, prompt from the cache": Case(
        "/api/chat",
        CHAT,
        stream(NDJSON, ndjson([*ollama_chat("a")[:-1], without(LAST, "prompt_eval_count", "prompt_eval_duration")])),
        {**without(OLLAMA, "prompt_tokens", "queue_seconds"), **TIMES},
    ),
    "ollama chat, thinking and tools": Case(
        "/api/chat",
        {"messages": [{"role": "user", "content": "x", "images": ["A" * 40_000]}], "tools": TOOLS, "model": "tiny"},
        stream(
            NDJSON,
            ndjson(
                [
                    {"model": "tiny", "message": {"role": "assistant", "content": ""}, "done": False},
                    {"model": "tiny", "message": {"role": "assistant", "thinking": "hm"}, "done": False},
                    {
                        "model": "tiny",
                        "message": {"role": "assistant", "content": "", "tool_calls": TOOLS},
                        "done": False,
                    },
                    LAST,
                ]
            ),
        ),
        {**OLLAMA, **TIMES},
    ),
    "ollama generate": Case(
        "/api/generate?x=1",
        {"model": "tiny", "prompt": "x"},
        stream(NDJSON, ndjson(GENERATED)),
        {**OLLAMA, **TIMES, "finish_reason": "length", "endpoint": "/api/generate"},
    ),
    "ollama chat, a last line of 180 kB": Case(
        "/api/chat", CHAT, stream(NDJSON, ndjson([ollama_chat("a")[0], LONG_CONTEXT])), {**OLLAMA, **TIMES}
    ),
    "ollama, only loads": Case(
        "/api/generate",
        {"model": "tiny"},
        whole(b'{"model":"tiny","response":"","done":true,"done_reason":"load"}'),
        None,
    ),
    "ollama, only unloads": Case(
        "/api/chat",
        {"model": "tiny", "keep_alive": 0},
        stream(
            NDJSON,
            [b'{"model":"tiny","message":{"role":"assistant","content":""},"done":true,"done_reason":"unload"}\n'],
        ),
        None,
    ),
    "ollama, an error in the stream": Case(
        "/api/chat",
        CHAT,
        stream(NDJSON, [*ndjson(ollama_chat("a", "b")[:2]), b'{"error":"an error was encountered"}\n']),
        {
            "outcome": Outcome.ERROR,
            "model": "tiny",
            **TIMES,
            "completion_tokens": 2,
            "completion_tokens_estimated": True,
        },
        error="stream",
    ),
    "ollama, a stream that ends too early": Case(
        "/api/chat",
        CHAT,
        stream(NDJSON, ndjson(ollama_chat("a", "b")[:2])),
        {
            "outcome": Outcome.ERROR,
            "model": "tiny",
            **TIMES,
            "completion_tokens": 2,
            "completion_tokens_estimated": True,
        },
        error="incomplete",
    ),
    "ollama, no such model": Case(
        "/api/chat",
        CHAT,
        whole(b'{"error":"model not found"}', "404 Not Found"),
        {"outcome": Outcome.ERROR, "model": "tiny", "streamed": True},
        error="404",
    ),
    "ollama, busy": Case(
        "/api/chat",
        {**CHAT, "stream": False},
        whole(b"<html>", "503 Service Unavailable", "text/html"),
        {"outcome": Outcome.ERROR, "model": "tiny"},
        error="503",
    ),
    "ollama embed": Case(
        "/api/embed",
        {"model": "tiny", "input": ["a"] * 50},
        whole(
            json.dumps(
                {
                    "model": "tiny",
                    "embeddings": [[0.25] * 3000] * 3,
                    "total_duration": 10**9,
                    "load_duration": 5 * 10**8,
                    "prompt_eval_count": 50,
                }
            ).encode()
        ),
        {**OK, "prompt_tokens": 50, "load_seconds": 0.5, "streamed": False},
    ),
    "ollama, an old server that closes": Case(
        "/api/chat",
        CHAT,
        b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nConnection: close\r\n\r\n"
        + b"".join(ndjson(ollama_chat("a"))),
        {**OLLAMA, **TIMES},
        close=True,
    ),
    "openai chat": Case(
        "/v1/chat/completions",
        {**CHAT, "stream": True, "stream_options": {"include_usage": True}},
        stream(SSE, sse(openai_chat("a", "b", "c"))),
        {**OK, **TIMES, "prompt_tokens": 20, "cached_tokens": 12, "completion_tokens": 7, "finish_reason": "stop"},
    ),
    "openai chat, usage not asked for": Case(
        "/openai/v1/chat/completions",
        {**CHAT, "stream": True},
        stream(SSE, sse(openai_chat("a", "b", "c", usage=False))),
        {**OK, **TIMES, "completion_tokens": 3, "completion_tokens_estimated": True, "finish_reason": "stop"},
    ),
    "openai chat, comments and CRLF": Case(
        "/v1/chat/completions",
        {**CHAT, "stream": True},
        stream(
            SSE,
            [b": ping\r\n\r\n", b"retry: 5\nid: 1\n"]
            + [event.replace(b"data: ", b"data:").replace(b"\n", b"\r\n") for event in sse(openai_chat("a", "b"))],
        ),
        {**OK, **TIMES, "prompt_tokens": 20, "cached_tokens": 12, "completion_tokens": 7, "finish_reason": "stop"},
    ),
    "openai chat, data in several lines": Case(
        "/v1/chat/completions",
        {**CHAT, "stream": True},
        stream(SSE, [event.replace(b',"choices"', b',\ndata: "choices"') for event in sse(openai_chat("a"))]),
        {**OK, **TIMES, "prompt_tokens": 20, "cached_tokens": 12, "completion_tokens": 7, "finish_reason": "stop"},
    ),
    "openai chat, gzip": Case(
        "/v1/chat/completions",
        {**CHAT, "stream": True},
        whole(COMPRESSED, content_type=SSE, extra="Content-Encoding: gzip\r\n"),
        {**OK, **TIMES, "prompt_tokens": 20, "cached_tokens": 12, "completion_tokens": 7, "finish_reason": "stop"},
    ),
    "openai chat, brotli": Case(
        "/v1/chat/completions",
        {**CHAT, "stream": True},
        whole(b"\x0b\x02\x80", content_type=SSE, extra="Content-Encoding: br\r\n"),
        {**OK, "streamed": True},
    ),
    "openai chat, a request in zstd": Case(
        "/v1/chat/completions",
        b"\x28\xb5\x2f\xfd",
        stream(SSE, sse(openai_chat("a"))),
        {**OK, **TIMES, "prompt_tokens": 20, "cached_tokens": 12, "completion_tokens": 7, "finish_reason": "stop"},
        headers="Content-Encoding: zstd\r\n",
    ),
    "openai chat, not streamed": Case(
        "/v1/chat/completions",
        CHAT,
        whole(
            json.dumps(
                {
                    "model": "tiny",
                    "choices": [{"message": {"content": "x" * 20_000}, "finish_reason": "tool_calls"}],
                    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
                }
            ).encode()
        ),
        {**OK, "prompt_tokens": 3, "completion_tokens": 4, "finish_reason": "tool_calls", "streamed": False},
    ),
    "openai chat, an error in the stream": Case(
        "/v1/chat/completions",
        {**CHAT, "stream": True},
        stream(SSE, [*sse(openai_chat("a")[:2]), b'data: {"error":{"message":"out of memory","code":500}}\n\n']),
        {
            "outcome": Outcome.ERROR,
            "model": "tiny",
            **TIMES,
            "completion_tokens": 1,
            "completion_tokens_estimated": True,
        },
        error="stream",
    ),
    "llama.cpp": Case(
        "/v1/chat/completions",
        {**CHAT, "stream": True},
        stream(
            SSE,
            sse(
                [
                    *openai_chat("a", "b", usage=False)[:-1],
                    {"choices": [], "timings": {"cache_n": 8, "predicted_n": 3, "predicted_ms": 100}},
                    "[DONE]",
                ]
            ),
        ),
        {
            **OK,
            **TIMES,
            "cached_tokens": 8,
            "completion_tokens": 3,
            "time_per_output_token_seconds": 0.05,
            "finish_reason": "stop",
        },
    ),
    "openai completions, usage of zeros on every chunk": Case(
        "/v1/completions",
        {"model": "tiny", "prompt": "x", "stream": True},
        stream(
            SSE,
            sse(
                [
                    {
                        "model": "tiny",
                        "choices": [{"text": "a"}],
                        "usage": {"prompt_tokens": 0, "completion_tokens": 0},
                    },
                    {"model": "tiny", "choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 6}},
                    "[DONE]",
                ]
            ),
        ),
        {**OK, **TIMES, "prompt_tokens": 4, "completion_tokens": 6},
    ),
    "openai responses": Case(
        "/v1/responses",
        {"model": "tiny", "input": "x", "stream": True},
        stream(SSE, sse(responses("a", "b"), named=True)),
        {**OK, **TIMES, "prompt_tokens": 30, "cached_tokens": 10, "completion_tokens": 8, "finish_reason": "completed"},
    ),
    "openai embeddings": Case(
        "/v1/embeddings",
        {"model": "tiny", "input": "x"},
        whole(b'{"data":[{"embedding":[1,2]}],"model":"tiny","usage":{"prompt_tokens":2,"total_tokens":2}}'),
        {**OK, "prompt_tokens": 2},
    ),
    "anthropic messages": Case(
        "/v1/messages",
        {"model": "tiny", "max_tokens": 9, "stream": True},
        stream(SSE, sse(anthropic_message("a", "b"), named=True)),
        {**OK, **TIMES, "prompt_tokens": 15, "cached_tokens": 4, "completion_tokens": 15, "finish_reason": "end_turn"},
    ),
    "a reply that is no JSON": Case(
        "/v1/chat/completions", {**CHAT, "stream": True}, stream(SSE, [b"data: {oops\n\n"]), {**OK}, unread=1
    ),
    "a request that is no JSON": Case("/api/chat", b"{oops", _chat("a"), {**OLLAMA, **TIMES}, unread=1),
    "nested too deeply": Case(
        "/api/chat", b'{"model":' + b"[" * 10_000, whole(b"[" * 10_000), {"outcome": Outcome.OK, "model": ""}, unread=1
    ),
    "something else": Case("/api/pull", {"model": "tiny"}, stream(NDJSON, [b'{"status":"success"}\n']), None),
}


@dataclass
class Learnt:
    """What came of a conversation."""

    requests: list[ModelRequest] = field(default_factory=list)
    errors: list[str | None] = field(default_factory=list)
    unread: int = 0


def learn(case: Case, request: list[bytes], response: list[bytes]) -> Learnt:
    """Give what is learnt of a case that comes in these pieces, all at the same moment."""
    ledger = Ledger()
    conversation = Conversation(ledger)
    for piece in request:
        conversation.request_bytes(piece, 5.0)
    for piece in response:
        conversation.response_bytes(piece, 5.0)
    if case.close:
        conversation.server_ended(5.0)
    assert not ledger.errors
    assert ledger.running == 0
    return Learnt([m.request for m in ledger.measured], [m.error for m in ledger.measured], ledger.unread)
