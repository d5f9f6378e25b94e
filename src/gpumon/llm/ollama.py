"""Watching Ollama without touching it: the models it holds, their coming and going, and its runners.

Asked are only paths that neither load a model nor keep one loaded: /api/ps at each poll, and /api/show once for
each model when a runner is to be told whose it is. Of the models' memory Ollama says what it reckoned at loading.
Source: Ollama's docs/api.md and api/types.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from gpumon.catalog import LLM_MODEL, LLM_MODEL_INFO, LLM_MODEL_LOADS, LLM_TRAFFIC, Entity
from gpumon.llm.discovery import Runner
from gpumon.llm.fetch import Client, Json
from gpumon.llm.kinds import OLLAMA
from gpumon.llm.llamacpp import LlamaServer, Reading
from gpumon.llm.names import ModelNames
from gpumon.llm.tally import Tally

COUNTERS = frozenset(name for name in LLM_TRAFFIC.index if name.endswith("_total"))

# The file of weights in what /api/show answers, a JSON text with the model's file in it.
_WEIGHTS = re.compile(rb"FROM [^\\\"]*?sha256-([0-9a-f]{64})")

Model = dict[str, Json]


class Ollama:
    """One Ollama server: its models and its runners. `entities` are those of the last look."""

    def __init__(self, url: str, server: str, names: ModelNames) -> None:
        self._url = url
        self._server = server
        self._names = names
        self._loads: dict[str, list[float]] = {}
        self._resident: dict[str, Model] | None = None
        self._blobs: dict[str, str] = {}
        self._runners: dict[Runner, LlamaServer] = {}
        self._tally = Tally()
        self.models: dict[int, str] = {}  # label of the model that each runner runs, by its pid

    @property
    def loaded(self) -> int:
        """Give the number of models in memory."""
        return len(self._resident or ())

    async def look(self, client: Client, runners: Iterable[Runner]) -> tuple[tuple[Entity, ...], dict[str, str]]:
        """Give the entities, and for each way why it gave nothing ("" where it gave something); raises nothing."""
        answer = await client.get(f"{self._url}/api/ps")
        ways = {"/api/ps": answer.trouble}
        if answer.status == 200:
            self._note(_models(answer.json))
        entities = [*self._residency(), *self._comings()] if answer.status == 200 else []
        entities += await self._look_at_runners(client, tuple(runners), ways)
        return tuple(entities), ways

    def _note(self, models: dict[str, Model]) -> None:
        """Count what came and what went since the last look; a reload under another digest is both."""
        before, self._resident = self._resident, models
        for name in models:
            self._loads.setdefault(self._label(name), [0.0, 0.0])
        if before is None:
            return  # what was there before gpumon looked was not seen to come
        for name in models.keys() | before.keys():
            was, now = before.get(name), models.get(name)
            changed = was is not None and now is not None and was.get("digest") != now.get("digest")
            loads = self._loads[self._label(name)]
            loads[0] += was is None or changed
            loads[1] += now is None or changed

    def _label(self, name: str) -> str:
        return self._names.label(self._server, name, own=True)

    def _residency(self) -> Iterable[Entity]:
        for name, model in (self._resident or {}).items():
            labels = (self._server, OLLAMA.name, self._label(name))
            size, on_gpu = _number(model.get("size")), _number(model.get("size_vram"))
            on_gpu = 0.0 if on_gpu is None and size is not None else on_gpu  # Ollama leaves out what is 0
            share = on_gpu / size if size and on_gpu is not None else None
            values = (size, on_gpu, share, _number(model.get("context_length")), _time(model.get("expires_at")))
            yield Entity(LLM_MODEL, labels, values)
            details = model.get("details")
            facts: Model = details if isinstance(details, dict) else {}
            texts = (str(facts.get(key) or "") for key in ("family", "parameter_size", "quantization_level"))
            digest = str(model.get("digest") or "").removeprefix("sha256:")[:12]
            yield Entity(LLM_MODEL_INFO, (*labels, *texts, digest), (1.0,))

    def _comings(self) -> Iterable[Entity]:
        for model, (loads, unloads) in self._loads.items():
            yield Entity(LLM_MODEL_LOADS, (self._server, OLLAMA.name, model), (loads, unloads))

    async def _look_at_runners(
        self, client: Client, runners: tuple[Runner, ...], ways: dict[str, str]
    ) -> Iterable[Entity]:
        self._runners = {runner: self._runners.get(runner) or LlamaServer(runner.url) for runner in runners}
        now: dict[tuple[str, str], Reading] = {}
        self.models = {}
        for runner, server in self._runners.items():
            reading = await server.look(client)
            for way, trouble in reading.ways.items():
                ways[f"runner {way}"] = ways.get(f"runner {way}", "") or trouble
            model = await self._model_of(client, runner)
            if model is not None:
                self.models[runner.pid] = model
            if model is None or not reading.values:
                continue
            counts = {name: value for name, value in reading.values.items() if name in COUNTERS}
            self._tally.add((model, reading.source.value), runner, counts)
            now[model, reading.source.value] = reading
        self._tally.keep(set(self._runners))
        return [self._traffic(key, counts, now) for key, counts in self._tally.totals().items()]

    def _traffic(self, key: tuple[str, ...], counts: object, now: dict[tuple[str, str], Reading]) -> Entity:
        model, source = key
        reading = now.get((model, source))
        values = {**(reading.values if reading else {}), **counts}  # type: ignore[dict-item]
        row = tuple(values.get(column.name) for column in LLM_TRAFFIC.columns)
        return Entity(LLM_TRAFFIC, (self._server, OLLAMA.name, model, source), row)

    async def _model_of(self, client: Client, runner: Runner) -> str | None:
        """Give the label of the model that a runner runs, None where it cannot be told."""
        resident = self._resident or {}
        for name, model in resident.items():
            digest = str(model.get("digest"))
            if digest not in self._blobs:
                if len(resident) == 1 and len(self._runners) == 1:
                    return self._label(name)
                answer = await client.post(f"{self._url}/api/show", {"model": name})
                weights = _WEIGHTS.search(answer.body)
                if answer.status in (0, 503):
                    return None  # asked again at the next look
                self._blobs[digest] = weights[1].decode() if weights else ""
            if runner.blob and self._blobs[digest] == runner.blob:
                return self._label(name)
        return None


def _models(answer: Json) -> dict[str, Model]:
    models = answer.get("models") if isinstance(answer, dict) else None
    found = [model for model in models if isinstance(model, dict)] if isinstance(models, list) else []
    named = {str(model.get("name") or model.get("model") or ""): model for model in found}
    return {name: model for name, model in named.items() if name}


def _number(value: Json) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _time(value: Json) -> float | None:
    """Give Unix seconds of a time as Go writes it; None for none, and for the far future that means never."""
    if not isinstance(value, str):
        return None
    try:
        # Go writes up to nine digits of a second, Python 3.11 reads six.
        moment = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", value))
    except ValueError:
        return None
    return moment.timestamp() if 1970 < moment.year < 2200 else None
