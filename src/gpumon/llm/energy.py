"""Joules per token: the energy of a server's processes against the tokens that were written meanwhile.

Energy comes as the share of each GPU's energy that the server's processes used, counted by whoever knows the
processes; tokens come from the traffic of the same tick. The two are read at moments that differ by up to a tick,
and some servers count a reply's tokens at its end only: that, and the error of the sharing, is the error stated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gpumon.catalog import LLM_ENERGY, LLM_TRAFFIC, Entity

# Long enough for some replies of a slow model to end in it, short enough to follow a change of load.
WINDOW_SECONDS = 60.0

_GENERATED = LLM_TRAFFIC.index["generated_tokens_total"]


@dataclass(frozen=True, slots=True)
class EnergyUse:
    """Energy that the processes of a server used on all GPUs since some moment that stays the same.

    `model` is the label of the model they run, None where one process runs all the server's.
    `error_ratio` is the largest error of `joules`, as a share of it: 0 where a GPU has no other user.
    """

    server: str
    kind: str
    model: str | None
    joules: float
    error_ratio: float


@dataclass(frozen=True, slots=True)
class _Sample:
    """What was known at one tick; `gap` is the time since the tokens changed before, where they changed at this tick."""

    time: float
    joules: float
    tokens: float
    gap: float | None


Key = tuple[str, str, str]


class _Model:
    """The energy and the tokens of one model, over the window."""

    def __init__(self) -> None:
        self.joules = 0.0
        self.error_ratio = 0.0
        self._samples: deque[_Sample] = deque()
        self._changed_at: float | None = None

    def recent(self, tokens: float) -> float:
        """Give how many of the tokens were written within the window."""
        return max(0.0, tokens - self._samples[0].tokens) if self._samples else 0.0

    def observe(self, time: float, tokens: float) -> None:
        """Note a tick."""
        before = self._samples[-1] if self._samples else None
        if before is not None and tokens < before.tokens:
            self._samples.clear()  # the server began anew
            before = None
        gap = None
        if before is not None and tokens > before.tokens:
            gap = time - (before.time if self._changed_at is None else self._changed_at)
            self._changed_at = time
        self._samples.append(_Sample(time, self.joules, tokens, gap))
        while time - self._samples[0].time > WINDOW_SECONDS:
            self._samples.popleft()

    def per_token(self) -> tuple[float | None, float | None]:
        """Give joules per token and its error, between the first and the last moment of the window at which tokens came."""
        changes = [sample for sample in self._samples if sample.gap is not None]
        if not changes:
            return None, None
        end, start = changes[-1], changes[0]
        if start is end:
            start = self._samples[0]  # tokens came once: since when they were written is not known well
        joules, tokens, span = end.joules - start.joules, end.tokens - start.tokens, end.time - start.time
        if tokens <= 0 or span <= 0:
            return None, None
        loose = (end.gap or 0.0) + (start.gap or 0.0) if start.gap is not None else span
        return joules / tokens, min(1.0, self.error_ratio + loose / span)


class Energy:
    """Puts energy and tokens together, tick by tick. `use` gives the energy of all servers now."""

    def __init__(self, use: Callable[[], Iterable[EnergyUse]]) -> None:
        self._use = use
        self._last: dict[tuple[str, str | None], float] = {}
        self._models: dict[Key, _Model] = {}

    def entities(self, now: float, traffic: Iterable[Entity]) -> tuple[Entity, ...]:
        """Give LLM_ENERGY at `now` (any clock that only grows) for traffic in which no token stands twice."""
        tokens: dict[Key, float] = {}
        for entity in traffic:
            count = entity.values[_GENERATED] if entity.kind is LLM_TRAFFIC else None
            if count is not None:
                server, kind, model, _ = entity.labels
                tokens[server, kind, model] = tokens.get((server, kind, model), 0.0) + count
        for use in self._use():
            self._share(use, tokens)
        for key in self._models.keys() & tokens.keys():
            self._models[key].observe(now, tokens[key])
        return tuple(Entity(LLM_ENERGY, key, (model.joules, *model.per_token())) for key, model in self._models.items())

    def _share(self, use: EnergyUse, tokens: Mapping[Key, float]) -> None:
        """Give a server's energy since the last tick to its models: by their tokens of late, else in equal parts."""
        before = self._last.get((use.server, use.model), use.joules)
        self._last[use.server, use.model] = use.joules
        joules = use.joules - before if use.joules >= before else use.joules
        names = [use.model] if use.model is not None else [key[2] for key in tokens if key[0] == use.server] or [""]
        keys = [(use.server, use.kind, name) for name in names]
        models = {key: self._models.setdefault(key, _Model()) for key in keys}
        recent = {key: model.recent(tokens.get(key, 0.0)) for key, model in models.items()}
        written = sum(recent.values())
        for key, model in models.items():
            model.joules += joules * (recent[key] / written if written else 1 / len(models))
            # Tokens of different models do not cost the same; that they do is an assumption, not a measurement.
            model.error_ratio = use.error_ratio if len(models) == 1 else 1.0
