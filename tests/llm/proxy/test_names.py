"""Only names from the server's own list become labels."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import pytest

from gpumon.llm.names import OTHER
from gpumon.llm.proxy.names import FETCH_SECONDS, Listing, Names, listing
from gpumon.llm.request import Outcome
from tests.llm.proxy.imitation import whole
from tests.llm.proxy.learning import CASES, Case
from tests.llm.proxy.test_pump import run
from tests.llm.proxy.through import through

TAGS = b'{"models":[{"name":"a:latest","model":"a:latest"},{"name":"b:7b","size":1},{"name":5},"x"]}'
VLLM = b'{"object":"list","data":[{"id":"org/a","object":"model","owned_by":"vllm"},{"id":"lora","owned_by":"vllm"}]}'


def pages(**by_path: bytes) -> Mapping[str, bytes]:
    """Give pages by the last part of their path."""
    return {"/api/tags": by_path.get("tags", b""), "/v1/models": by_path.get("models", b"")}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (pages(tags=TAGS), Listing(frozenset({"a:latest", "b:7b"}), "ollama")),
        (pages(models=VLLM), Listing(frozenset({"org/a", "lora"}), "vllm")),
        (pages(tags=b"<html>", models=b'{"data":[{"id":"m"}]}'), Listing(frozenset({"m"}))),
        (pages(tags=b'{"models":[]}', models=VLLM), Listing(kind="ollama")),
        (pages(models=b'{"data":[{"id":"' + b"x" * 300 + b'"},{"id":"a\\u0000"},{"id":""}]}'), Listing()),
        (pages(tags=b"[" * 100_000), Listing()),
        (pages(), Listing()),
    ],
)
def test_lists_are_read(given: Mapping[str, bytes], found: Listing) -> None:
    """Ollama's and OpenAI's; what is no name is left out, what is no list is none."""

    async def fetch(path: str) -> bytes:
        return given[path]

    assert asyncio.run(listing(fetch)) == found


def test_a_path_is_shown_by_its_last_part() -> None:
    """llama.cpp lists where the file of weights is; nobody else's names are cut."""
    for owner, shown in (("llamacpp", "tiny.gguf"), ("vllm", "/models/tiny.gguf")):

        async def fetch(path: str, owner: str = owner) -> bytes:
            model = {"id": "/models/tiny.gguf", "owned_by": owner}
            return json.dumps({"data": [model]}).encode() if path == "/v1/models" else b""

        names = Names(fetch)
        asyncio.run(names.refresh())
        assert names.listed(("/models/tiny.gguf",), answered=True) == shown
        assert names.listed(("anything",), answered=True) == shown


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def known(*names: str) -> Names:
    """Give names of which these are on the list."""

    async def fetch(path: str) -> bytes:
        return json.dumps({"models": [{"name": name} for name in names]}).encode()

    found = Names(fetch)
    asyncio.run(found.refresh())
    return found


def test_labels_are_names_of_the_list() -> None:
    """With the tag that clients leave out; the reply's name goes before the request's."""
    names = known("a:latest", "b:7b")
    assert names.listed(("a",), answered=True) == "a:latest"
    assert names.listed(("b:7b", "a"), answered=True) == "b:7b"
    assert names.listed(("b", "a"), answered=True) == "a:latest"
    assert names.listed(("b",), answered=True) is None
    assert names.listed((), answered=True) is None


def test_a_server_with_one_model_answers_with_that_one() -> None:
    """llama.cpp's server takes any name; one that refuses did not answer with it."""
    names = known("only")
    assert names.listed(("gpt-4",), answered=True) == "only"
    assert names.listed(("gpt-4",), answered=False) is None


def test_a_list_is_not_asked_for_too_often_and_is_kept_while_the_server_is_away() -> None:
    """Whatever clients send, once in five seconds at most."""
    clock = Clock()
    asked = []

    async def fetch(path: str) -> bytes:
        asked.append(clock.now)
        if clock.now > 10:
            raise OSError
        return TAGS

    async def main() -> None:
        names = Names(fetch, clock)
        await asyncio.gather(*(names.refresh() for _ in range(10)))
        for clock.now in (1.0, FETCH_SECONDS - 0.1, FETCH_SECONDS, 2 * FETCH_SECONDS + 1):
            await names.refresh()
        assert asked == [0.0, FETCH_SECONDS, *[2 * FETCH_SECONDS + 1]]
        assert names.known.names == {"a:latest", "b:7b"}

    asyncio.run(main())


def test_a_model_that_was_made_since_is_found() -> None:
    """A name that is not on the list makes it be fetched anew before the request is handed on."""

    async def main() -> None:
        chat = CASES["ollama chat"]
        async with through({"/api/tags": whole(b'{"models":[]}'), "/api/chat": chat.response}) as t:
            t.server.scripts["/api/tags"] = whole(b'{"models":[{"name":"tiny:latest"}]}')
            t.proxy._names._clock = lambda: 1e9
            await t.ask(chat.request_bytes)
            request = (await t.measured.get()).request
            assert (request.model, request.kind) == ("tiny:latest", "ollama")

    run(main())


def test_a_name_that_clients_make_up_is_no_label() -> None:
    """Neither in a request that is refused nor in one that the server echoes."""

    async def main() -> None:
        refused = whole(b'{"error":"model \'x\' not found"}', "404 Not Found")
        echoed = whole(b'{"model":"x","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}')
        async with through({"/api/chat": refused, "/v1/chat/completions": echoed}) as t:
            for path, outcome in (("/api/chat", Outcome.ERROR), ("/v1/chat/completions", Outcome.OK)):
                await t.ask(Case(path, {"model": "x"}, b"", None).request_bytes)
                measured = await t.measured.get()
                assert (measured.request.model, measured.request.outcome) == (OTHER, outcome)
                assert measured.names == ()

    run(main())
