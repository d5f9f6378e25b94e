"""Finds out what a process is: its facts when it is met, its category then and again while that is not sure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gpumon.process.classify import CONTEXTS, Classifier, Evidence, evidence_of, library_words, words
from gpumon.process.container import find
from gpumon.process.proc import Proc, Stat
from gpumon.process.secrets import redact
from gpumon.process.steam import Steam
from gpumon.process.tracked import Tracked

# Reading what a process has loaded costs about a millisecond: no more than so many at a tick, the others wait for the next.
MOST_EXPENSIVE = 4
# A classification that is not sure is looked at again after this, then after twice as long each time.
REVIEW_SECONDS, LONGEST_REVIEW_SECONDS, SURE = 30.0, 600.0, 0.85


class Examiner:
    """Looks at processes. `simulated_name` names the pids of a simulated driver, which no /proc can have."""

    def __init__(
        self, proc: Proc, classifier: Classifier, simulated_name: Callable[[int], str | None] | None = None
    ) -> None:
        self._proc = proc
        self._classifier = classifier
        self._simulated_name = simulated_name
        self._steam = Steam()
        self._left = MOST_EXPENSIVE

    def begin_tick(self) -> None:
        """Allow as many expensive readings as a tick may have."""
        self._left = MOST_EXPENSIVE

    def meet(self, pid: int, stat: Stat | None) -> Tracked:
        """Give a process that is new, with all that does not change of it."""
        if stat is None:
            name = self._simulated_name(pid) if self._simulated_name is not None else None
            return Tracked(pid, None, None, name or "")
        facts = self._proc.facts(pid, stat)
        return Tracked(
            pid,
            stat,
            facts,
            facts.origin.name,
            find(facts.cgroup or ""),
            denied=facts.denied,
            command_line=redact(facts.origin.argv),
        )

    def review(self, one: Tracked, time: float) -> bool:
        """Classify a process for which that is due; `time` is monotonic seconds. Say whether its category is another now."""
        if one.waits and self._left <= 0:
            return False
        first, before = one.review_at == 0.0, one.classification.category
        one.waits = False

        def reader(read: Callable[[int], str | None], fact: str) -> Callable[[], str | None]:
            def carry_out() -> str | None:
                if one.facts is None:
                    return None
                if self._left <= 0:
                    one.waits = True
                    return None
                self._left -= 1
                answer = read(one.pid)
                if answer is None and fact not in one.denied:
                    one.denied = (*one.denied, fact)
                return answer

            return carry_out

        evidence = self._evidence(one, reader(self._libraries, "library"), reader(self._ports, "port"))
        one.classification = self._classifier.classify(evidence)
        if one.classification.confidence >= SURE:
            one.review_at = float("inf")
        elif one.waits:
            one.review_at = time
        else:
            one.review_gap = min(2 * one.review_gap or REVIEW_SECONDS, LONGEST_REVIEW_SECONDS)
            one.review_at = time + one.review_gap
        return not first and before != one.classification.category

    def _evidence(self, one: Tracked, library: Callable[[], str | None], port: Callable[[], str | None]) -> Evidence:
        def behaviour() -> str | None:
            found = one.watch.words()
            return None if found is None else words(found)

        if one.facts is not None:
            return evidence_of(
                one.facts.origin,
                one.contexts,
                place=lambda: self._place(one),
                behaviour=behaviour,
                port=port,
                library=library,
            )
        known = {
            "command": one.name.lower(),
            "argument": "",
            "parent": "",
            "place": "",
            "context": words(CONTEXTS[letter] for letter in one.contexts),
        }
        if self._simulated_name is not None:
            # A simulated python is one with PyTorch, so that a simulated node shows all kinds of work.
            known["library"] = "libtorch_cuda.so" if one.name == "python" else ""
            known["port"] = ""
        return Evidence(known, {"behaviour": behaviour, "library": library, "port": port})

    def _libraries(self, pid: int) -> str | None:
        return library_words(self._proc.libraries(pid))

    def _ports(self, pid: int) -> str | None:
        ports = self._proc.listening(pid)
        return None if ports is None else words(map(str, ports))

    def _place(self, one: Tracked) -> str:
        assert one.facts is not None
        home = self._proc.home(one.facts.uid)
        exe = self._proc.exe(one.pid)
        if exe is None and "exe" not in one.denied:
            one.denied = (*one.denied, "exe")
        for path in (one.facts.origin.path, exe):
            if path and (place := self._steam.place(path, Path(home) if home else None)):
                return place
        return ""
