"""Reading one llama.cpp server, which may be a child of Ollama: by its metrics, or by its slots where it has none.

`/slots` is on by default, `/metrics` is not. Slots show requests while they run, so short ones between two looks
are missed and the last tokens of each: what they count is a lower bound and called an estimate.
Source: llama.cpp, tools/server/README.md; `next_token` is an object or a list of one, by version.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gpumon.catalog import LLM_TRAFFIC
from gpumon.llm.fetch import Answer, Client, Json
from gpumon.llm.kinds import LLAMA_CPP
from gpumon.llm.normal import NormalForm
from gpumon.llm.request import RequestSource

# Polls that go by before a way that is switched off is tried again: it takes a restart to switch it on.
OFF_POLLS = 12

# Answers that say that a way is switched off, not that it fails now.
OFF = (400, 401, 403, 404, 501)


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look gave: values by column of LLM_TRAFFIC, how they came, and for each way why it gave none."""

    values: dict[str, float]
    source: RequestSource
    ways: dict[str, str] = field(default_factory=dict)
    reached: bool = False


class Way:
    """One path of a server, asked at each poll unless it is switched off."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.trouble = ""
        self._rest = 0

    async def ask(self, client: Client) -> Answer | None:
        """Give the answer, None while the way rests."""
        if self._rest:
            self._rest -= 1
            return None
        answer = await client.get(self.url)
        self.trouble = answer.trouble
        if answer.status in OFF:
            self._rest = OFF_POLLS
        return answer


class LlamaServer:
    """Reads one server again and again."""

    def __init__(self, url: str) -> None:
        self._metrics = Way(f"{url}/metrics")
        self._slots = Way(f"{url}/slots")
        self._form = NormalForm(LLAMA_CPP)
        self._counts = SlotCounts()

    async def look(self, client: Client) -> Reading:
        """Read it once; raises nothing."""
        answer = await self._metrics.ask(client)
        if answer is not None and answer.status == 200:
            values = _values(self._form, answer.body)
            return Reading(values, RequestSource.RUNNER, {"/metrics": ""}, reached=True)
        if answer is not None and answer.status == 0:
            return Reading({}, RequestSource.RUNNER, {"/metrics": answer.trouble})
        slots = await self._slots.ask(client)
        ways = {"/metrics": self._metrics.trouble, "/slots": self._slots.trouble}
        if slots is None or slots.status != 200:
            return Reading({}, RequestSource.SLOTS, ways, reached=slots is None or slots.status != 0)
        return Reading(self._counts.observe(slots.json), RequestSource.SLOTS, ways, reached=True)


def _values(form: NormalForm, page: bytes) -> dict[str, float]:
    for entity in form.read(page, ""):
        pairs = zip(LLM_TRAFFIC.columns, entity.values, strict=True)
        return {column.name: value for column, value in pairs if value is not None}
    return {}


@dataclass(slots=True)
class _Slot:
    task: object
    prompt: int
    cached: int
    generated: int


class SlotCounts:
    """Counts tokens from what slots show; keeps nothing of a slot but numbers."""

    def __init__(self) -> None:
        self._slots: dict[object, _Slot] = {}
        self._prompt = self._cached = self._generated = 0

    def observe(self, slots: Json) -> dict[str, float]:
        """Give the values of LLM_TRAFFIC after this look."""
        busy = 0
        for slot in slots if isinstance(slots, list) else ():
            if isinstance(slot, dict):
                busy += slot.get("is_processing") is True
                self._observe(slot)
        return {
            "requests_running": busy,
            "prompt_tokens_total": self._prompt,
            "cached_prompt_tokens_total": self._cached,
            "generated_tokens_total": self._generated,
        }

    def _observe(self, slot: dict[str, Json]) -> None:
        token = slot.get("next_token")
        token = token[0] if isinstance(token, list) and token else token
        decoded = _count(token.get("n_decoded")) if isinstance(token, dict) else _count(slot.get("n_decoded"))
        cached = _count(slot.get("n_prompt_tokens_cache"))
        # n_prompt_tokens grows with the reply; what was read is what was worked on and what was in the cache.
        new = _Slot(slot.get("id_task"), _count(slot.get("n_prompt_tokens_processed")) + cached, cached, decoded)
        old = self._slots.get(slot.get("id"))
        self._slots[slot.get("id")] = new
        if old is None and slot.get("is_processing") is not True:
            return  # of a request that had ended before gpumon came
        if old is None or old.task != new.task:
            old = _Slot(new.task, 0, 0, 0)
        self._prompt += max(0, new.prompt - old.prompt)
        self._cached += max(0, new.cached - old.cached)
        self._generated += max(0, new.generated - old.generated)


def _count(number: Json) -> int:
    return number if isinstance(number, int) and number > 0 else 0
