"""Which names of models may be shown: those on the server's own list."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from gpumon.llm.kinds import LLAMA_CPP, LMDEPLOY, OLLAMA, SGLANG, VLLM

# Names taken from a list; a hub with more is no model server.
MOST_NAMES = 10_000
LONGEST_NAME = 256
# A name that is not on the list makes the list be fetched anew, but not more often than this.
FETCH_SECONDS = 5.0

Fetch = Callable[[str], Awaitable[bytes]]

# What `owned_by` of /v1/models says, by the kind of server.
OWNERS = {"vllm": VLLM, "sglang": SGLANG, "llamacpp": LLAMA_CPP, "library": OLLAMA, "lmdeploy": LMDEPLOY}


@dataclass(frozen=True, slots=True)
class Listing:
    """What a server says it has; `kind` is empty where that does not show."""

    names: frozenset[str] = frozenset()
    kind: str = ""


async def listing(fetch: Fetch) -> Listing:
    """Give what the server has, by Ollama's list or else OpenAI's; neither loads a model. Empty when neither is there.

    OSError leaves when the server cannot be reached.
    """
    tags = _items(await fetch("/api/tags"), "models")
    if tags is not None:
        return Listing(_names(tags, "name", "model"), OLLAMA.name)
    models = _items(await fetch("/v1/models"), "data")
    if models is None:
        return Listing()
    owner = next((str(item.get("owned_by", "")) for item in models), "")
    kind = OWNERS.get(owner.lower())
    return Listing(_names(models, "id"), kind.name if kind else "")


def _items(page: bytes, key: str) -> list[dict[str, object]] | None:
    try:
        value = json.loads(page)
    except (ValueError, RecursionError):
        return None
    items = value.get(key) if isinstance(value, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else None


def _names(items: Iterable[dict[str, object]], *keys: str) -> frozenset[str]:
    found = (item[key] for item in list(items)[:MOST_NAMES] for key in keys if key in item)
    return frozenset(
        name for name in found if isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and name.isprintable()
    )


class Names:
    """The server's list as far as it is known."""

    def __init__(self, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self.known = Listing()
        self._fetch = fetch
        self._clock = clock
        self._fetched: float | None = None
        self._lock = asyncio.Lock()

    @property
    def fresh(self) -> bool:
        """Say whether the list was asked for a moment ago, so that asking again is no use yet."""
        return self._fetched is not None and self._clock() - self._fetched < FETCH_SECONDS

    async def refresh(self) -> None:
        """Fetch the list, unless that was done a moment ago; a server that does not answer keeps the old one."""
        async with self._lock:
            if self.fresh:
                return
            try:
                self.known = await listing(self._fetch)
            except OSError:
                pass
            self._fetched = self._clock()

    def listed(self, names: Iterable[str], *, answered: bool) -> str | None:
        """Give the first of `names` on the list as it stands there, None when none is on it.

        A server that has one model and `answered` did so with that one, whatever it was called (llama.cpp does not look).
        """
        known = self.known.names
        for name in names:
            for full in (name, f"{name}:latest"):  # Ollama's list has the tag that clients leave out
                if full in known:
                    return self._shown(full)
        return self._shown(next(iter(known))) if answered and len(known) == 1 else None

    def _shown(self, name: str) -> str:
        """Give a name as it is shown: llama.cpp lists the whole path of a file of weights, where it was given no name."""
        return name.rsplit("/", 1)[-1] if self.known.kind == LLAMA_CPP.name else name
