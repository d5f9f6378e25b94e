"""One token, one source: of the ways by which a server's requests were seen, only the best one counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gpumon.catalog import LLM_TRAFFIC, Entity
from gpumon.llm.request import RequestSource

TRUST = {source.value: rank for rank, source in enumerate(RequestSource)}

SERVER, SOURCE = (
    next(i for i, label in enumerate(LLM_TRAFFIC.labels) if label.name == name) for name in ("server", "source")
)
COUNTED = tuple(column.reading.counter or column.name == "session_count" for column in LLM_TRAFFIC.columns)


def counts(entity: Entity) -> bool:
    """Say whether an entity of LLM_TRAFFIC counts anything, or only says how things are."""
    return any(entity.histograms) or any(
        counted and value is not None for counted, value in zip(COUNTED, entity.values, strict=True)
    )


def counted_once(entities: Iterable[Entity]) -> Iterator[Entity]:
    """Give the entities without what a better source of the same server counts as well.

    It is decided by the server, not by the model, because sources may call one model by two names.
    What a source says besides, how many requests are waiting, stays.
    """
    some = tuple(entities)
    best: dict[str, int] = {}
    for entity in some:
        if entity.kind is LLM_TRAFFIC and counts(entity):
            server, rank = entity.labels[SERVER], TRUST[entity.labels[SOURCE]]
            best[server] = min(rank, best.get(server, rank))
    for entity in some:
        if entity.kind is not LLM_TRAFFIC or TRUST[entity.labels[SOURCE]] <= best.get(entity.labels[SERVER], 0):
            yield entity
            continue
        rest = tuple(None if counted else value for counted, value in zip(COUNTED, entity.values, strict=True))
        if any(value is not None for value in rest):
            yield Entity(LLM_TRAFFIC, entity.labels, rest)
