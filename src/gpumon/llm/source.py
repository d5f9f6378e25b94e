"""The source of what is known of model servers: watches each in a task of its own, and adds what was measured here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from gpumon.catalog import Entity
from gpumon.llm.counting import counted_once
from gpumon.llm.discovery import ServerProcess, Target, running, unique
from gpumon.llm.energy import Energy, EnergyUse
from gpumon.llm.fetch import Client
from gpumon.llm.sessions import Sessions
from gpumon.llm.watch import Watch
from gpumon.log import Logger, Onsets
from gpumon.source import SourceReading

# What was said this many polls ago is not told again.
STALE_POLLS = 3

# Share of the interval after which a question is given up, and after which a poll of several questions is.
ASK_SHARE, POLL_SHARE = 0.4, 0.9


# Servers come and go with their models, which takes longer to load than this.
FIND_SECONDS = 10.0

Key = tuple[tuple[str, ...], str | None]
Whose = Callable[[set[int]], tuple[str, str, str | None] | None]


class LlmSource:
    """Watches servers. Use on one event loop: `start`, then `read` at every tick; `stop` ends its tasks.

    A server that hangs delays nothing but its own next poll.
    `servers` finds servers among processes, `energy` gives what each used, told by `whose` whom a process works for.
    """

    name = "llm"

    def __init__(
        self,
        targets: Iterable[Target],
        sessions: Sessions,
        logger: Logger,
        *,
        interval: float,
        servers: Callable[[], Iterable[ServerProcess]] | None = None,
        energy: Callable[[Whose], Iterable[EnergyUse]] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._named = tuple(targets)
        self._sessions = sessions
        self._servers = servers
        self._servers_at = float("-inf")
        self._energy = Energy(lambda: energy(self.whose)) if energy is not None else None
        self._onsets = Onsets(logger)
        self._interval = interval
        self._monotonic = monotonic
        self._client: Client | None = None
        self._watches: dict[Key, Watch] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    @property
    def watches(self) -> tuple[Watch, ...]:
        """Give the servers that are watched."""
        return tuple(self._watches.values())

    def start(self) -> None:
        """Begin to watch the servers that were named."""
        self._client = Client(self._interval * ASK_SHARE)
        self.processes(())

    def processes(self, processes: Iterable[ServerProcess]) -> None:
        """Take the model servers among the processes of now: new ones are watched, those that ended no longer."""
        assert self._client is not None, "start first"
        found, runners = running(processes)
        # A server that was started anew has another pid, and what was counted of it goes on.
        targets = {(target.urls, target.kind): target for target in unique((*self._named, *found))}
        for key in self._watches.keys() - targets.keys():
            del self._watches[key]
            self._tasks.pop(key).cancel()
        for key, target in targets.items():
            if key not in self._watches:
                watch = Watch(target, self._client, self._sessions.names, monotonic=self._monotonic)
                self._watches[key] = watch
                self._tasks[key] = asyncio.create_task(self._keep_polling(watch))
        for key, watch in self._watches.items():
            watch.target = targets[key]
            watch.runners = tuple(
                runner for owner, runner in runners if _owns(watch.target, owner, tuple(targets.values()))
            )

    def whose(self, pids: set[int]) -> tuple[str, str, str | None] | None:
        """Give the server for which a process with these ancestors works, its kind, and the model if it is one alone."""
        for watch in self._watches.values():
            model = next((watch.runs[pid] for pid in pids & watch.runs.keys()), None)
            if watch.kind is not None and (model is not None or watch.target.pid in pids):
                return watch.server, watch.kind.name, model
        return None

    async def read(self, now: float, timeout: float) -> SourceReading:
        """Give what the last polls said and what was measured here; waits for nothing."""
        if self._servers is not None and self._monotonic() - self._servers_at >= FIND_SECONDS:
            self._servers_at = self._monotonic()
            self.processes(self._servers())
        fresh_since = self._monotonic() - STALE_POLLS * self._interval
        entities: list[Entity] = []
        success = True
        for watch in self._watches.values():
            if watch.polled_at is None:
                continue  # not looked at yet
            if watch.polled_at >= fresh_since:
                entities += watch.entities
            success &= watch.trouble is None or not (watch.target.expected or watch.answered)
        entities += self._sessions.entities()
        counted = tuple(counted_once(entities))
        if self._energy is not None:
            counted += self._energy.entities(self._monotonic(), counted)
        return SourceReading(counted, success)

    async def stop(self) -> None:
        """End all polls and close all connections."""
        tasks, self._tasks = tuple(self._tasks.values()), {}
        self._watches.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    async def poll(self, watch: Watch) -> None:
        """Look at one server, within its time."""
        started = self._monotonic()
        try:
            async with asyncio.timeout(self._interval * POLL_SHARE):
                await watch.poll()
        except TimeoutError:
            watch.give_up(started, "does not answer in time")
        except Exception as error:  # noqa: BLE001 - what one server answers must not end the watching of it
            watch.give_up(started, f"cannot be understood ({type(error).__name__}: {error})")
        where = watch.server
        if watch.trouble is None:
            self._onsets.mend(where, "model server answers again", server=where)
        elif watch.target.expected or watch.answered:
            self._onsets.fail(where, "model server cannot be read", server=where, reason=watch.trouble)

    async def _keep_polling(self, watch: Watch) -> None:
        # Not all in one moment, so that the tick beside them is not held up.
        await asyncio.sleep(len(self._watches) * 0.01)
        while True:
            began = self._monotonic()
            await self.poll(watch)
            await asyncio.sleep(max(0.0, began + self._interval - self._monotonic()))


def _owns(target: Target, owner: int | None, targets: tuple[Target, ...]) -> bool:
    """Say whether a runner belongs to a server: to its parent, or, where that is not known, to the only Ollama."""
    ollamas = [other for other in targets if other.kind == "ollama"]
    if target not in ollamas:
        return False
    return target.pid == owner if any(other.pid == owner and owner for other in ollamas) else len(ollamas) == 1
