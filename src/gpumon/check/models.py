"""The check of model servers: which are there, how each is read, and what would make it show more."""

from __future__ import annotations

import asyncio

from gpumon.catalog import LLM_TRAFFIC
from gpumon.check.finding import Finding, Status
from gpumon.llm.discovery import Target, named
from gpumon.llm.fetch import Client
from gpumon.llm.kinds import OLLAMA
from gpumon.llm.names import ModelNames
from gpumon.llm.watch import Watch
from gpumon.settings import Settings

# What answers on this machine answers at once; a name may first have to be resolved.
ASK_SECONDS = 2.0
# A server that nothing is known of is asked some ten things.
WATCH_SECONDS = 15.0


def model_servers(settings: Settings) -> Finding:
    """Look at every server that the settings name, as the service would."""
    targets = named(settings.ollama, settings.llm)
    if not targets:
        return Finding(Status.INFO, "none are named: ollama.enabled is false and llm.servers is empty")
    watches = asyncio.run(_look(targets, settings.llm.model_limit))
    lost = any(watch.trouble is not None and watch.target.expected for watch in watches)
    read = any(watch.trouble is None for watch in watches)
    status = Status.WARN if lost else Status.OK if read else Status.INFO
    found = "; ".join(map(_found, watches))
    return Finding(status, found, "; ".join(filter(None, dict.fromkeys(map(_advice, watches)))))


async def _look(targets: tuple[Target, ...], limit: int) -> tuple[Watch, ...]:
    client = Client(ASK_SECONDS)
    names = ModelNames(limit)
    watches = tuple(Watch(target, client, names) for target in targets)

    async def poll(watch: Watch) -> None:
        try:
            async with asyncio.timeout(WATCH_SECONDS):
                await watch.poll()
        except TimeoutError:
            watch.trouble = "does not answer in time"

    try:
        await asyncio.gather(*map(poll, watches))
    finally:
        await client.close()
    return watches


def _found(watch: Watch) -> str:
    if watch.kind is None or watch.trouble is not None:
        title = "Ollama" if watch.target.kind == OLLAMA.name else "the server"
        return f"{title} at {watch.server} {_verb(watch.trouble)}"
    version = f" {watch.version}" if watch.version else ""
    good = [way for way, trouble in watch.ways.items() if not trouble]
    bad = [f"{way} {trouble}" for way, trouble in watch.ways.items() if trouble]
    how = f"read by {' and '.join(good)}" if good else "answers, but gives no readings"
    return f"{watch.kind.title}{version} at {watch.server}: {', '.join([how, *bad])}"


def _verb(trouble: str | None) -> str:
    trouble = trouble or "was not looked at"
    return f"is {trouble}" if trouble.startswith("of no kind") else trouble


def _advice(watch: Watch) -> str:
    """Say what would make a server show its tokens, where it does not; what to set where it is not there."""
    if watch.trouble is not None or watch.kind is None:
        if not watch.target.expected:
            return "right without Ollama, else set ollama.api_port or ollama.api_url"
        return "start it, or correct ollama.api_url or llm.servers"
    traffic = (entity for entity in watch.entities if entity.kind is LLM_TRAFFIC)
    if any(entity["generated_tokens_total"] is not None for entity in traffic):
        return ""
    return f"to see tokens of {watch.kind.title}: {watch.kind.turn_on}"
