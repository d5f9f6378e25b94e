"""One model server, looked at again and again: what it is, whether it answers, and what it says of itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from gpumon.catalog import LLM_SERVER, LLM_SERVER_INFO, LLM_TRAFFIC, LLM_WAY, Entity
from gpumon.llm.discovery import Runner, Target, address
from gpumon.llm.fetch import Answer, Client, dig
from gpumon.llm.kinds import BY_NAME, KINDS, LLAMA_CPP, OLLAMA, Kind
from gpumon.llm.llamacpp import LlamaServer, Way
from gpumon.llm.names import ModelNames
from gpumon.llm.normal import NormalForm
from gpumon.llm.ollama import Ollama
from gpumon.llm.request import RequestSource

# What changes with a restart or by hand: the version, the list of models, what an unknown server is.
SLOW_SECONDS = 60.0

UNKNOWN = "of no kind that is known"


class Watch:
    """Watches one server. `poll` it; `entities` are those of the last poll, `trouble` why it could not be read."""

    def __init__(
        self,
        target: Target,
        client: Client,
        names: ModelNames,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.target = target
        self.runners: tuple[Runner, ...] = ()
        self.kind: Kind | None = None
        self.entities: tuple[Entity, ...] = ()
        self.polled_at: float | None = None
        self.answered = False
        self.trouble: str | None = None
        self.ways: dict[str, str] = {}
        self.version = ""
        self.models: list[str] = []
        self._url = target.urls[0]
        self._client = client
        self._names = names
        self._monotonic = monotonic
        self._slow_at = self._quiet_until = float("-inf")
        self._page: Way | None = None
        self._form: NormalForm | None = None
        self._ollama: Ollama | None = None
        self._llama: LlamaServer | None = None

    @property
    def server(self) -> str:
        """Give the address by which the server is called."""
        return address(self._url)

    @property
    def runs(self) -> dict[int, str]:
        """Give the label of the model that each runner runs, by its pid."""
        return self._ollama.models if self._ollama is not None else {}

    async def poll(self) -> None:
        """Look at the server once; raises nothing that can be expected to go wrong."""
        started = self._monotonic()
        self.ways = {}
        traffic: tuple[Entity, ...] = ()
        if self.kind is None and not await self._identify():
            up = False
        else:
            up, traffic = await self._look()
        self._close(started, up, traffic)

    def give_up(self, started: float, reason: str) -> None:
        """Note that a poll could not be ended."""
        self.trouble = reason
        self._close(started, False, ())

    def _close(self, started: float, up: bool, traffic: tuple[Entity, ...]) -> None:
        self.polled_at = self._monotonic()
        self.answered |= up
        if up:
            self.trouble = None
        name = self.kind.name if self.kind else self.target.kind or "unknown"
        whose = (self.server, name)
        if not up and not self.answered and not self.target.expected:
            self.entities = ()  # no Ollama where it was only looked for is nothing to tell
            return
        loaded = self._ollama.loaded if self._ollama is not None and up else None
        entities = [Entity(LLM_SERVER, whose, (float(up), self.polled_at - started, loaded))]
        if up:
            entities.append(Entity(LLM_SERVER_INFO, (*whose, self.version, self.target.found_by), (1.0,)))
        for way, trouble in self.ways.items():
            entities.append(Entity(LLM_WAY, (*whose, way, trouble), (float(not trouble),)))
        self.entities = (*entities, *traffic)

    async def _identify(self) -> bool:
        """Find out which of the addresses is the server, of which kind, and where its metrics are."""
        if self._monotonic() < self._quiet_until:
            return False
        given = BY_NAME.get(self.target.kind or "")
        kinds = (given,) if given else KINDS
        for url in self.target.urls:
            asked: dict[str, Answer] = {}
            for kind in kinds:
                if await self._is(kind, url, asked, sure=given is not None):
                    self._settle(kind, url, asked)
                    return True
                if asked and all(answer.status == 0 for answer in asked.values()):
                    self.trouble = next(iter(asked.values())).trouble
                    break
            else:
                self.trouble = UNKNOWN if given is None else f"does not answer as {given.title} does"
                # It was asked a lot, and will hardly become something else at once.
                self._quiet_until = self._monotonic() + SLOW_SECONDS
        return False

    async def _is(self, kind: Kind, url: str, asked: dict[str, Answer], *, sure: bool) -> bool:
        for page in kind.pages:
            if _marked((await self._once(url + page, asked)).body, kind):
                return True
        known = [kind.known_by] if kind.known_by else []
        if sure:
            known += [ask for ask in (kind.version, kind.models) if ask]
        for ask in known:
            if dig((await self._once(url + ask.path, asked)).json, ask.pick):
                return True
        return False

    async def _once(self, url: str, asked: dict[str, Answer]) -> Answer:
        if url not in asked:
            asked[url] = await self._client.get(url)
        return asked[url]

    def _settle(self, kind: Kind, url: str, asked: dict[str, Answer]) -> None:
        self.kind, self._url = kind, url
        self._slow_at = float("-inf")
        if kind is OLLAMA:
            self._ollama = Ollama(url, self.server, self._names)
        if kind is LLAMA_CPP:
            self._llama = LlamaServer(url)
        elif kind.pages:
            marked = (page for page in kind.pages if url + page in asked and _marked(asked[url + page].body, kind))
            self._page = Way(url + next(marked, kind.pages[0]))
            self._form = NormalForm(kind)

    async def _look(self) -> tuple[bool, tuple[Entity, ...]]:
        """Give whether it answers, and what it says; nothing where one of its ways is not answered at all."""
        assert self.kind is not None
        if self._monotonic() - self._slow_at >= SLOW_SECONDS and not await self._ask_what_it_is(self.kind):
            return False, ()
        entities: list[Entity] = []
        for look in (self._look_at_models, self._look_at_llama, self._look_at_page):
            found = await look()
            if found is None:
                return False, ()
            entities += found
        return True, tuple(entities)

    async def _look_at_models(self) -> Iterable[Entity] | None:
        """Give what an Ollama holds, and what its runners do."""
        if self._ollama is None:
            return ()
        found, ways = await self._ollama.look(self._client, self.runners)
        self.ways |= ways
        if ways["/api/ps"]:
            self.trouble = ways["/api/ps"]
            return None
        return found

    async def _look_at_llama(self) -> Iterable[Entity] | None:
        """Give what a llama.cpp server counts, by either of its ways."""
        if self._llama is None:
            return ()
        reading = await self._llama.look(self._client)
        self.ways |= reading.ways
        if not reading.reached:
            self.trouble = next(iter(reading.ways.values()))
            return None
        # What stands on the server's own page is the server's; only a child's is a runner's.
        source = RequestSource.SERVER if reading.source is RequestSource.RUNNER else reading.source
        labels = (self.server, LLAMA_CPP.name, self._only_model(), source.value)
        values = tuple(map(reading.values.get, LLM_TRAFFIC.index))
        return (Entity(LLM_TRAFFIC, labels, values),) if reading.values else ()

    async def _look_at_page(self) -> Iterable[Entity] | None:
        """Give what stands on a server's page of metrics."""
        if self._page is None or self._form is None:
            return ()
        answer = await self._page.ask(self._client)
        if answer is not None and answer.status == 0:
            self.trouble = answer.trouble
            return None
        # That a release of Ollama has no metrics is no way that fails.
        if self._ollama is None or not self._page.trouble:
            self.ways[self._page.url.removeprefix(self._url)] = self._page.trouble
        if answer is None or answer.status != 200:
            return ()
        return map(self._labelled, self._form.read(answer.body, self.server, self._only_model()))

    async def _ask_what_it_is(self, kind: Kind) -> bool:
        """Ask for version and models; False if it does not answer at all."""
        reached = kind.version is None and kind.models is None
        for ask in (kind.version, kind.models):
            if ask is None:
                continue
            answer = await self._client.get(self._url + ask.path)
            reached |= answer.status != 0
            if answer.status == 0:
                self.trouble = answer.trouble
            found = dig(answer.json, ask.pick) if answer.status == 200 else []
            if ask is kind.version:
                self.version = found[0] if found else ""
            elif answer.status == 200:
                # llama.cpp calls a model by the path of its file.
                self.models = [name.rsplit("/", 1)[-1] for name in found] if kind is LLAMA_CPP else found
                self._names.listed(self.server, self.models)
        if reached:
            self._slow_at = self._monotonic()
        return reached

    def _only_model(self) -> str:
        """Give the label of the only model there is, "" where there are several or none is known."""
        return self._names.label(self.server, self.models[0]) if len(self.models) == 1 else ""

    def _labelled(self, entity: Entity) -> Entity:
        server, kind, model, source = entity.labels
        labels = (server, kind, self._names.label(server, model, own=True), source)
        return Entity(entity.kind, labels, entity.values, entity.histograms)


def _marked(page: bytes, kind: Kind) -> bool:
    """Say whether a line of a page begins as only this kind's do."""
    return any(page.startswith(mark) or b"\n" + mark in page for mark in map(str.encode, kind.marks))
