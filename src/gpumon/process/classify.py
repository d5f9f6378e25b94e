"""Tries the rules on what is known of a process, and gives the first that holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from gpumon.process.command import Command, parse
from gpumon.process.proc import Origin
from gpumon.process.rules import RULES, UNKNOWN, Example, Rule

# In the order of what it costs to know them.
_BY_COST = ("command", "argument", "context", "place", "parent", "behaviour", "port", "library")

CONTEXTS = {"C": "compute", "G": "graphics", "M": "mps"}


@dataclass(frozen=True, slots=True)
class Classification:
    """What kind of work a process does, how sure that is, and by which rule.

    `untried` names the rules before it that could not be tried, because the kernel does not tell what they look at or
    the process was not watched for long enough.
    """

    category: str = UNKNOWN
    confidence: float = 0.0
    rule: str = "none"
    untried: tuple[str, ...] = ()


class Evidence:
    """The words of each subject, a line each; those that cost something are read when first asked for.

    A subject that cannot be known is None.
    """

    def __init__(self, known: Mapping[str, str | None], readers: Mapping[str, Callable[[], str | None]]) -> None:
        self._known = dict(known)
        self._readers = readers

    def __getitem__(self, subject: str) -> str | None:
        """Give the words of a subject."""
        if subject not in self._known:
            self._known[subject] = self._readers[subject]()
        return self._known[subject]


class Classifier:
    """A list of rules, made ready."""

    def __init__(self, rules: Iterable[Rule] = RULES) -> None:
        self._rules = [_compile(rule) for rule in rules]

    def classify(self, evidence: Evidence) -> Classification:
        """Give what the first rule says that holds. Takes 0.2 ms at most, besides reading evidence."""
        untried: list[str] = []
        for rule, unless, patterns in self._rules:
            held: bool | None = True
            for subject, search in patterns:
                words = evidence[subject]
                if words is None:
                    held = None
                elif not search(words):
                    held = False
                    break
            if held is False or (unless is not None and unless(evidence["command"] or "")):
                continue
            if held is None:
                untried.append(rule.name)
            else:
                return Classification(rule.category, rule.confidence, rule.name, tuple(untried))
        return Classification(untried=tuple(untried))


_Search = Callable[[str], object]


def _compile(rule: Rule) -> tuple[Rule, _Search | None, list[tuple[str, _Search]]]:
    patterns = [(subject, _search(rule.when[subject])) for subject in _BY_COST if subject in rule.when]
    return rule, None if rule.unless is None else _search(rule.unless), patterns


def _search(pattern: str) -> _Search:
    """Give a function that looks for a word that matches wholly."""
    ignore_case = re.IGNORECASE if pattern != pattern.lower() else 0  # words are in lower case; users may not know
    return re.compile(rf"^(?:{pattern})$", re.MULTILINE | ignore_case).search


def evidence_of(
    origin: Origin,
    contexts: str,
    *,
    place: Callable[[], str | None],
    behaviour: Callable[[], str | None],
    port: Callable[[], str | None],
    library: Callable[[], str | None],
) -> Evidence:
    """Give what rules look at, of a process with GPU contexts such as "CG"."""
    command = _effective(origin)
    known = {
        "command": words(command.names),
        "argument": words(command.arguments),
        "context": words(CONTEXTS[letter] for letter in contexts),
        "parent": words(_parents(origin)),
    }
    return Evidence(known, {"place": place, "behaviour": behaviour, "port": port, "library": library})


def words(found: Iterable[str]) -> str:
    """Give words as the text that rules are tried on."""
    return "\n".join(found)


def _effective(origin: Origin) -> Command:
    """Give the command that counts: a worker that runs code from a command line is what its parent is."""
    command = origin.command
    for ancestor in origin.ancestors:
        if not (command.inline and command.interpreter):
            break
        if not ancestor.command.interpreter:
            break
        command = ancestor.command
    return command


def _parents(origin: Origin) -> Iterator[str]:
    for ancestor in origin.ancestors:
        yield from ancestor.command.names


def evidence_of_example(example: Example, split: Callable[[str], list[str]]) -> Evidence:
    """Give what rules look at, of a process as it is written down for documents and tests."""
    origin: Origin | None = None
    for line in reversed((example.line, *example.parents)):
        origin = Origin(0, 0, "", parse(split(line)), "", (), origin)
    assert origin is not None

    def given(found: Iterable[object] | None) -> Callable[[], str | None]:
        text = None if found is None else words(str(one).lower() for one in found)
        return lambda: text

    letters = {name: letter for letter, name in CONTEXTS.items()}
    return evidence_of(
        origin,
        "".join(letters[context] for context in example.contexts),
        place=given(example.places),
        behaviour=given(example.behaviours),
        port=given(example.ports),
        library=given(example.libraries),
    )


def library_words(libraries: Iterable[str] | None) -> str | None:
    """Give library names as rules look at them: in lower case."""
    return None if libraries is None else words(sorted(name.lower() for name in libraries))
