"""Which model servers to watch: those that the settings name and those whose processes were recognised.

No port is tried because it is a usual one: only an address that someone named, or a port on which a process
listens that is known to be a model server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from gpumon.llm.kinds import BY_NAME, LLAMA_CPP, OLLAMA
from gpumon.settings import Llm, SettingsError, named_servers
from gpumon.settings import Ollama as OllamaSettings

# Weights that Ollama manages are files named by their digest; a llama-server that loads one is Ollama's child.
BLOB = re.compile(r"(?:^|/)sha256-([0-9a-f]{64})$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess:
    """A process that was recognised as a model server, as the process room knows it.

    `kind` is the name of a row of KINDS; `ports` are those it listens on; `model` is the model or the file of
    weights its command line names, None if it names none.
    """

    pid: int
    kind: str
    ports: tuple[int, ...]
    parent: int | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server to watch. Of several `urls` the first that answers as one is it: a process may listen for other things.

    `kind` is None where it shall say itself what it is. One that is not `expected` may be absent without a word.
    """

    urls: tuple[str, ...]
    kind: str | None
    found_by: str
    expected: bool = True
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Runner:
    """A child of Ollama that runs one model; `blob` is the digest of its weights."""

    pid: int
    url: str
    blob: str


def address(url: str) -> str:
    """Give host and port of a URL, which is how a server is called."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"[{host}]:{port}" if ":" in host else f"{'127.0.0.1' if host == 'localhost' else host}:{port}"


def named(ollama: OllamaSettings, llm: Llm) -> tuple[Target, ...]:
    """Give the servers that the settings name. SettingsError: a kind in `llm.servers` is none."""
    targets = []
    if ollama.enabled:
        url = ollama.api_url.rstrip("/") or f"http://127.0.0.1:{ollama.api_port}"
        targets.append(
            Target(urls=(url,), kind=OLLAMA.name, found_by="settings", expected=bool(ollama.api_url)),
        )
    for kind, url in named_servers(llm.servers):
        if kind and kind not in BY_NAME:
            raise SettingsError(
                f'llm.servers is "{llm.servers}", but "{kind}" is no kind of server; allowed is {", ".join(BY_NAME)}.'
            )
        targets.append(Target(urls=(url.rstrip("/"),), kind=kind or None, found_by="settings"))
    return unique(targets)


def running(processes: Iterable[ServerProcess]) -> tuple[tuple[Target, ...], tuple[tuple[int | None, Runner], ...]]:
    """Give the servers among processes, and Ollama's runners, each with the pid of its Ollama where that is known."""
    all_of_them = {process.pid: process for process in processes}
    targets, runners = [], []
    for process in all_of_them.values():
        parent = all_of_them.get(process.parent) if process.parent is not None else None
        child = parent is not None and parent.kind == OLLAMA.name
        weights = BLOB.search(process.model or "")
        blob = weights[1] if weights else ""
        if process.kind == LLAMA_CPP.name and (child or blob):
            owner = process.parent if child else None
            runners += [(owner, Runner(process.pid, f"http://127.0.0.1:{port}", blob)) for port in process.ports[:1]]
        elif not child and process.kind in BY_NAME and process.ports:
            urls = tuple(f"http://127.0.0.1:{port}" for port in process.ports)
            # It may load its model for minutes before it answers, which is nothing to complain of.
            targets.append(
                Target(urls=urls, kind=process.kind, found_by="process", expected=False, pid=process.pid),
            )
    return unique(targets), tuple(runners)


def unique(targets: Iterable[Target]) -> tuple[Target, ...]:
    """Give each server once: of those that share an address the first, told what the others know."""
    kept: list[Target] = []
    for target in targets:
        addresses = {address(url) for url in target.urls}
        for i, other in enumerate(kept):
            if addresses & {address(url) for url in other.urls}:
                kept[i] = _both(other, target)
                break
        else:
            kept.append(target)
    return tuple(kept)


def _both(first: Target, other: Target) -> Target:
    return Target(
        urls=first.urls,
        kind=first.kind or other.kind,
        found_by=first.found_by,
        expected=first.expected or other.expected,
        pid=first.pid or other.pid,
    )
