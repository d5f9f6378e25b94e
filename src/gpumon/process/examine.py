"""Finds out what a process is: its facts when it is met, its category then and again while that is not sure.

All of it may hang: the command line and the libraries of a process are read under its memory map's lock, which one that
is stuck in the driver may hold for ever. So it is done on threads, and only frozen objects cross.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpumon.process.classify import CONTEXTS, Classification, Classifier, Evidence, evidence_of, library_words, words
from gpumon.process.container import NOWHERE, Container, find
from gpumon.process.proc import Facts, Proc, Stat
from gpumon.process.secrets import redact
from gpumon.process.steam import Steam

# A classification that is not sure is looked at again after this, then after twice as long each time.
REVIEW_SECONDS, LONGEST_REVIEW_SECONDS, SURE = 30.0, 600.0, 0.85


@dataclass(frozen=True, slots=True)
class Person:
    """What does not change of a process; `facts` is None for one that /proc does not show."""

    name: str
    facts: Facts | None = None
    container: Container = NOWHERE
    command_line: str = ""  # redacted; empty unless switched on


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be found out of a process, and what is known of it.

    `behaviour` is None before it was watched for long enough; `thorough` allows readings that cost a millisecond.
    """

    pid: int
    stat: Stat | None
    person: Person | None  # None for one that is new
    contexts: str
    behaviour: tuple[str, ...] | None
    thorough: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found out; `denied` names what the kernel refused, `waits` says that more could be read."""

    person: Person
    classification: Classification
    denied: tuple[str, ...] = ()
    waits: bool = False


class Examiner:
    """Looks at processes, on any thread. `simulated_name` names the pids of a simulated driver, which no /proc can have."""

    def __init__(
        self, proc: Proc, classifier: Classifier, simulated_name: Callable[[int], str | None] | None = None
    ) -> None:
        self._proc = proc
        self._classifier = classifier
        self._simulated_name = simulated_name
        self._steam = Steam()

    def examine(self, question: Question) -> Answer:
        """Find out what a process is. May hang."""
        person = question.person or self._meet(question.pid, question.stat)
        denied = list(person.facts.denied) if person.facts is not None else []
        waits = False

        def reader(read: Callable[[int], str | None], fact: str) -> Callable[[], str | None]:
            def carry_out() -> str | None:
                nonlocal waits
                if person.facts is None:
                    return None
                if not question.thorough:
                    waits = True
                    return None
                answer = read(question.pid)
                if answer is None:
                    denied.append(fact)
                return answer

            return carry_out

        evidence = self._evidence(
            question, person, reader(self._libraries, "library"), reader(self._ports, "port"), denied
        )
        return Answer(person, self._classifier.classify(evidence), tuple(dict.fromkeys(denied)), waits)

    def _meet(self, pid: int, stat: Stat | None) -> Person:
        """Give a process that is new, with all that does not change of it."""
        if stat is None:
            name = self._simulated_name(pid) if self._simulated_name is not None else None
            return Person(name or "")
        facts = self._proc.facts(pid, stat)
        return Person(facts.origin.name, facts, find(facts.cgroup or ""), redact(facts.origin.argv))

    def _evidence(
        self,
        question: Question,
        person: Person,
        library: Callable[[], str | None],
        port: Callable[[], str | None],
        denied: list[str],
    ) -> Evidence:
        behaviour = None if question.behaviour is None else words(question.behaviour)
        if person.facts is not None:
            facts = person.facts
            return evidence_of(
                facts.origin,
                question.contexts,
                place=lambda: self._place(question.pid, facts, denied),
                behaviour=lambda: behaviour,
                port=port,
                library=library,
            )
        known = {
            "command": person.name.lower(),
            "argument": "",
            "parent": "",
            "place": "",
            "context": words(CONTEXTS[letter] for letter in question.contexts),
        }
        if self._simulated_name is not None:
            # A simulated python is one with PyTorch, so that a simulated node shows all kinds of work.
            known["library"] = "libtorch_cuda.so" if person.name == "python" else ""
            known["port"] = ""
        return Evidence(known, {"behaviour": lambda: behaviour, "library": library, "port": port})

    def _libraries(self, pid: int) -> str | None:
        return library_words(self._proc.libraries(pid))

    def _ports(self, pid: int) -> str | None:
        ports = self._proc.listening(pid)
        return None if ports is None else words(map(str, ports))

    def _place(self, pid: int, facts: Facts, denied: list[str]) -> str:
        home = self._proc.home(facts.uid)
        exe = self._proc.exe(pid)
        if exe is None:
            denied.append("exe")
        for path in (facts.origin.path, exe):
            if path and (place := self._steam.place(path, Path(home) if home else None)):
                return place
        return ""
