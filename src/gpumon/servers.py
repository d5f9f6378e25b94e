"""Which of the processes on GPUs are model servers, where they listen, and what energy they use.

Stands between the source of processes and that of model servers, which do not know each other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from gpumon.llm.discovery import ServerProcess
from gpumon.llm.energy import EnergyUse
from gpumon.llm.kinds import KINDS
from gpumon.process.proc import Origin, Proc
from gpumon.process.tracked import Tracked

# What an Ollama that runs a model is told, as its child of its own kind is; it is no server of its own.
MODEL_OPTIONS = ("--model", "-m")
PORT_OPTION = "--port"

# Server, kind, and the model where its processes run that one only.
Whose = tuple[str, str, str | None]


@dataclass(slots=True)
class _Use:
    """What was used for one model of one server since gpumon started, and how much of it on GPUs that others used too."""

    joules: float = 0.0
    shared: float = 0.0


@dataclass
class Servers:
    """Finds servers among the processes that `tracked` gives, with their parents, by the names of their programs."""

    tracked: Callable[[], Iterable[Tracked]]
    proc: Proc
    _uses: dict[Whose, _Use] = field(default_factory=dict)
    _last: dict[tuple[Hashable, str], float] = field(default_factory=dict)

    def processes(self) -> tuple[ServerProcess, ...]:
        """Give the servers, their runners included. Costs a link per open file of each that is not told its port."""
        found: dict[int, ServerProcess] = {}
        for one in self.tracked():
            if one.facts is None:
                continue
            chain = (one.facts.origin, *one.facts.origin.ancestors)
            for origin, above in zip(chain, (*chain[1:], None), strict=True):
                kind = kind_of(origin)
                # Of parent and child of one kind the parent is the server, and the child its worker.
                if kind is None or origin.pid in found or (above is not None and kind_of(above) == kind):
                    continue
                found[origin.pid] = ServerProcess(
                    pid=origin.pid,
                    kind=kind,
                    ports=self._ports(origin),
                    parent=None if above is None else above.pid,
                    model=_option(origin, MODEL_OPTIONS),
                )
        return tuple(found.values())

    def energy(self, whose: Callable[[set[int]], Whose | None]) -> Iterator[EnergyUse]:
        """Give the energy above idling of every server; `whose` says whom a process with these ancestors works for."""
        users: dict[str, int] = {}
        some = tuple(self.tracked())
        for one in some:
            for uuid in one.gpus:
                users[uuid] = users.get(uuid, 0) + 1
        last, self._last = self._last, {}
        for one in some:
            owner = None
            if one.facts is not None:
                owner = whose({one.pid, *(origin.pid for origin in one.facts.origin.ancestors)})
            for uuid, on in one.gpus.items():
                before = last.get((one.key, uuid), 0.0)
                # One that left the GPU and came back is counted from its coming.
                grown = on.energy_joules - before if on.energy_joules >= before else on.energy_joules
                self._last[one.key, uuid] = on.energy_joules
                if owner is not None:
                    use = self._uses.setdefault(owner, _Use())
                    use.joules += grown
                    use.shared += grown if users[uuid] > 1 else 0.0
        for (server, kind, model), use in self._uses.items():
            # Of a GPU's energy that others used as well, all might be theirs, or as much more ours.
            error = use.shared / use.joules if use.joules else 0.0
            yield EnergyUse(server, kind, model, use.joules, error)

    def _ports(self, origin: Origin) -> tuple[int, ...]:
        """Give the ports by which a server can be asked from here; none where it is in another network namespace."""
        try:
            here = Path("/proc/self/ns/net").readlink() == Path(self.proc.root, str(origin.pid), "ns/net").readlink()
        except OSError:
            return ()  # whether what listens there is this process cannot be known
        if not here:
            return ()
        told = _option(origin, (PORT_OPTION,))
        if told is not None and told.isdigit():
            return (int(told),)
        return tuple(sorted(self.proc.listening(origin.pid) or ()))


def kind_of(origin: Origin) -> str | None:
    """Give the kind of server that a process is by its command line, None if it is none."""
    names = tuple(origin.command.names)
    for kind in KINDS:
        for word in kind.processes:
            if any(name == word or name.startswith(f"{word}.") for name in names):
                return kind.name
    return None


def _option(origin: Origin, names: tuple[str, ...]) -> str | None:
    words = origin.command.arguments
    return next((value for word, value in pairwise(words) if word in names), None)
