"""Model servers for tests: they answer what they are told to, on a port of their own, and remember what was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

PAGES = Path(__file__).with_name("pages")

BLOB = "a" * 64


def page(name: str) -> bytes:
    """Give a page that is kept beside the tests."""
    return (PAGES / f"{name}.prom").read_bytes()


class Imitation:
    """A server whose answers are set by path: a status, JSON, bytes, or an event to wait for before answering."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = answers
        self.asked: list[str] = []
        self.url = ""
        self._news = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer what is set for the path, 404 for the rest."""
        self.asked.append(f"{request.method} {request.path}")
        self._news.set()
        self._news = asyncio.Event()
        answer = self.answers.get(request.path, 404)
        if callable(answer):
            answer = answer(await request.json())
        if isinstance(answer, asyncio.Event):
            await answer.wait()
            return web.Response()
        if isinstance(answer, int):
            return web.Response(status=answer)
        if isinstance(answer, bytes):
            return web.Response(body=answer, content_type="text/plain")
        return web.json_response(answer)

    async def until(self, question: str, times: int) -> None:
        """Wait until something was asked so many times."""
        while self.asked.count(question) < times:
            await self._news.wait()

    @property
    def port(self) -> int:
        """Give the port it listens on."""
        return int(self.url.rpartition(":")[2])


@asynccontextmanager
async def serving(imitation: Imitation, port: int = 0) -> AsyncIterator[Imitation]:
    """Let it listen on loopback until the end of the block; whoever it kept waiting is let go then."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", imitation.answer)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    imitation.url = site.name
    try:
        yield imitation
    finally:
        for answer in imitation.answers.values():
            if isinstance(answer, asyncio.Event):
                answer.set()
        await runner.cleanup()


def resident(name: str = "llama3.2:latest", **more: Any) -> dict[str, Any]:
    """Give a model as Ollama's /api/ps lists it."""
    return {
        "name": name,
        "model": name,
        "size": 4_000_000_000,
        "digest": "sha256:" + "d" * 64,
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "3.2B",
            "quantization_level": "Q4_K_M",
        },
        "expires_at": "2026-11-24T07:30:00.123456789+01:00",
        "size_vram": 3_000_000_000,
        "context_length": 4096,
    } | more


def ollama(*models: dict[str, Any], **more: Any) -> Imitation:
    """Give an Ollama that holds these models."""
    listed = [{"name": model["name"], "model": model["name"], "size": 1} for model in models]
    answers = {
        "/": b"Ollama is running",
        "/api/version": {"version": "0.33.2"},
        "/api/tags": {"models": listed},
        "/api/ps": {"models": list(models)},
        "/api/show": lambda asked: {"modelfile": f"# Modelfile\nFROM /models/blobs/sha256-{BLOB}\n# {asked['model']}"},
    }
    return Imitation(**(answers | more))


def slot(number: int, *, task: int, decoded: int, busy: bool, listed: bool = True) -> dict[str, Any]:
    """Give a slot as llama.cpp's /slots lists it; `listed` is its newer form."""
    token = {"n_decoded": decoded, "n_remain": -1, "has_next_token": busy}
    return {
        "id": number,
        "id_task": task,
        "n_ctx": 4096,
        "is_processing": busy,
        "n_prompt_tokens": 100 + decoded,
        "n_prompt_tokens_processed": 60,
        "n_prompt_tokens_cache": 40,
        "prompt": "a secret",
        "params": {"stream": True, "temperature": 0.8},
        "next_token": [token] if listed else token,
    }


def vllm(name: str = "vllm-0.11") -> Imitation:
    """Give a vLLM."""
    models = {"object": "list", "data": [{"id": "meta-llama/Llama-3.1-8B-Instruct", "max_model_len": 8192}]}
    return Imitation(**{"/metrics": page(name), "/version": {"version": "0.11.0"}, "/v1/models": models})
