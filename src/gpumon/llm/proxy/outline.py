"""Reads JSON of any length in pieces of any size, and keeps a few named small values of it."""

from __future__ import annotations

import json
import re

Document = dict[str, object]

# A text longer than this is not kept but shown as LONG; names of models and reasons are shorter.
LONGEST_TEXT = 256
LONG = "…"
# An escaped character takes up to six bytes; a text as it is read is kept up to one byte more than can be short enough.
_MOST_RAW = LONGEST_TEXT * 6 + 1
# Stands for a text of which nothing is to be kept, because it has no room.
_FULL = bytearray(_MOST_RAW)
# What is nested deeper, or comes later in a list, is passed over: an answer's shape needs neither.
DEEPEST = 8
MOST_ITEMS = 64

_TEXT = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_PASS = re.compile(rb'[^"{}\[\]]*')
_SPACE = re.compile(rb"[\s,:]*")
_WORD = re.compile(rb'[^\s,:"{}\[\]]*')

Outlined = dict[str, object] | list[object]


def outlined(value: object, kept: frozenset[str], depth: int = 0) -> object:
    """Give what an Outline keeps of a value that is whole already."""
    if isinstance(value, str):
        return value if len(value.encode("utf-8", "surrogatepass")) <= LONGEST_TEXT else LONG
    if isinstance(value, dict):
        if depth == DEEPEST:
            return None
        return {key: outlined(inner, kept, depth + 1) for key, inner in value.items() if key in kept}
    if isinstance(value, list):
        return None if depth == DEEPEST else [outlined(item, kept, depth + 1) for item in value[:MOST_ITEMS]]
    return value


class Outline:
    """One JSON value being read; lenient, because whoever it is for judges it.

    `kept` are the object keys whose values are kept, at any depth; what is under other keys is passed over.
    """

    __slots__ = ("_depth_passed", "_expects_key", "_kept", "_key", "_stack", "_tail", "_text", "_word", "root")

    def __init__(self, kept: frozenset[str]) -> None:
        self._kept = kept
        self.root: object = None
        self._stack: list[Outlined] = []
        self._key: str | None = None  # of the value that comes next; None where that is passed over
        self._expects_key = False
        self._depth_passed = 0  # inside what is passed over, how deep
        self._text: bytearray | None = None  # of the string under way
        self._word: bytearray | None = None  # of the number or word under way
        self._tail = b""  # a backslash that ended the last piece

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._tail:
            data, self._tail = self._tail + data, b""
        at, end = 0, len(data)
        while at < end:
            if self._text is not None:
                at = self._read_text(data, at, self._text)
            elif self._depth_passed:
                at = self._pass_over(data, at)
            elif self._word is not None:
                at = self._read_word(data, at, self._word)
            else:
                at = self._read_next(data, at)

    def end(self) -> object:
        """Give what was kept, None when the value is not complete."""
        if self._word is not None:
            self._end_word(self._word)
        return None if self._stack or self._text is not None else self.root

    def _read_next(self, data: bytes, at: int) -> int:
        space = _SPACE.match(data, at)
        assert space is not None
        if b"," in space[0] and self._stack and isinstance(self._stack[-1], dict):
            self._expects_key = True
        at = space.end()
        mark = data[at : at + 1]
        if mark == b'"':
            self._text = bytearray()
        elif mark in (b"{", b"["):
            self._open({} if mark == b"{" else [])
        elif mark in (b"}", b"]"):
            if self._stack:
                self._stack.pop()
            self._expects_key = False
        elif mark:
            self._word = bytearray()
            return at
        return at + 1

    def _open(self, container: Outlined) -> None:
        if not self._wanted() or len(self._stack) == DEEPEST:
            self._place(None)
            self._depth_passed = 1
            return
        self._place(container)
        self._stack.append(container)
        self._expects_key = isinstance(container, dict)

    def _wanted(self) -> bool:
        if not self._stack:
            return True
        within = self._stack[-1]
        return self._key is not None if isinstance(within, dict) else len(within) < MOST_ITEMS

    def _place(self, value: object) -> None:
        """Put a value where it belongs, if it is wanted there."""
        if not self._stack:
            self.root = value
        elif self._wanted():
            within = self._stack[-1]
            if isinstance(within, dict):
                within[self._key or ""] = value
            else:
                within.append(value)

    def _read_text(self, data: bytes, at: int, text: bytearray) -> int:
        piece = _TEXT.match(data, at)
        assert piece is not None
        stop = piece.end()
        room = _MOST_RAW - len(text)
        if room > 0:
            text += data[at : min(stop, at + room)]
        if stop == len(data):
            return stop
        if data[stop : stop + 1] == b"\\":
            self._tail = b"\\"
            return stop + 1
        self._text = None
        if not self._depth_passed:
            self._end_text(text)
        return stop + 1

    def _end_text(self, raw: bytearray) -> None:
        text = _decoded(raw)
        if self._expects_key:
            self._expects_key = False
            self._key = text if text in self._kept else None
        else:
            self._place(text)

    def _pass_over(self, data: bytes, at: int) -> int:
        skipped = _PASS.match(data, at)
        assert skipped is not None
        at = skipped.end()
        mark = data[at : at + 1]
        if mark == b'"':
            self._text = _FULL
        elif mark in (b"{", b"["):
            self._depth_passed += 1
        elif mark:
            self._depth_passed -= 1
        return at + 1

    def _read_word(self, data: bytes, at: int, word: bytearray) -> int:
        piece = _WORD.match(data, at)
        assert piece is not None
        if len(word) <= LONGEST_TEXT:
            word += piece[0][:LONGEST_TEXT]
        if piece.end() < len(data):
            self._end_word(word)
        return piece.end()

    def _end_word(self, word: bytearray) -> None:
        self._word = None
        if len(word) <= LONGEST_TEXT:
            try:
                self._place(json.loads(word))
            except ValueError:
                self._place(None)
        else:
            self._place(None)


def _decoded(raw: bytearray) -> str:
    """Give the text of a string as it stands between its quotes."""
    if len(raw) == _MOST_RAW:
        return LONG
    try:
        text: str = json.loads(b'"' + raw + b'"', strict=False) if b"\\" in raw else raw.decode()
    except ValueError:
        return LONG
    return text if len(text.encode("utf-8", "surrogatepass")) <= LONGEST_TEXT else LONG
