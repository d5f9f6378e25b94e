"""The samples that are wanted of a page in Prometheus's text format, read cheaply enough to be read all day.

A page of vLLM has a thousand lines of which two hundred are wanted; prometheus_client's parser makes objects of all.
What a line's beginning means is worked out once and remembered while the line is there; after that a poll only
looks it up and reads the number. Names are kept as they stand on the page: prometheus_client renames some.
Source: Prometheus's "Exposition formats".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Labels = dict[str, str]
Meaning = TypeVar("Meaning")

_SERIES = re.compile(rb'([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]*(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?')
_LABEL = re.compile(rb'[ \t,]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n"}


class Page(Generic[Meaning]):
    """Reads one server's page again and again.

    `names` are the beginnings of the names that are wanted; `meaning` says, once per series, what a sample of
    that name and these labels is to the caller, or None if it is nothing.
    """

    def __init__(self, names: tuple[str, ...], meaning: Callable[[str, Labels], Meaning | None]) -> None:
        self._names = tuple(name.encode() for name in names)
        self._meaning = meaning
        self._known: dict[bytes, Meaning | None] = {}

    def read(self, page: bytes) -> Iterator[tuple[Meaning, float]]:
        """Give the wanted samples in the page's order; NaN and what is no sample is left out."""
        known, seen = self._known, 0
        for line in self._wanted(page):
            end = line.rfind(b" ")
            series = line[:end]
            if series in known:
                meaning = known[series]
            elif (plain := _series(series)) is not None:
                meaning = known[series] = self._meaning(*plain)
            else:  # with a time stamp, an exemplar or other spaces: rare, so not remembered
                yield from self._odd(line)
                continue
            seen += 1
            if meaning is not None and (value := _number(line[end + 1 :])) is not None:
                yield meaning, value
        if seen < len(known):
            self._known = {}  # some are gone; those that are there are learnt anew

    def _wanted(self, page: bytes) -> list[bytes]:
        """Give the lines with the wanted names; families that are not wanted are passed over as a whole."""
        names = self._names
        head, *families = (b"\n" + page.replace(b"\r\n", b"\n")).split(b"\n#")
        lines = [line for line in head.split(b"\n") if line.startswith(names)]
        for family in families:
            first = family.find(b"\n") + 1
            if not first:
                continue  # a comment without samples
            comment = family[:first].split(None, 2)
            declared = comment[1] if len(comment) > 1 else b"#"
            last = family.rfind(b"\n", 0, -1) + 1
            if not (family.startswith(declared, first) and family.startswith(declared, last)):
                lines += [line for line in family[first:].split(b"\n") if line.startswith(names)]
            elif family.startswith(names, first):
                lines += family[first:].rstrip(b"\n").split(b"\n")
        return lines

    def _odd(self, line: bytes) -> Iterator[tuple[Meaning, float]]:
        match = _SERIES.match(line)
        rest = line[match.end() :].split() if match else []
        if match is None or not rest:
            return
        meaning = self._meaning(*_named(match))
        value = _number(rest[0])
        if meaning is not None and value is not None:
            yield meaning, value


def _series(text: bytes) -> tuple[str, Labels] | None:
    match = _SERIES.fullmatch(text)
    return _named(match) if match else None


def _named(match: re.Match[bytes]) -> tuple[str, Labels]:
    labels = _LABEL.findall(match[2] or b"")
    return match[1].decode(), {name.decode(): _text(value) for name, value in labels}


def _text(value: bytes) -> str:
    text = value.decode(errors="replace")
    return _ESCAPED.sub(lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), text) if "\\" in text else text


def _number(text: bytes) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value else None  # NaN is no number
