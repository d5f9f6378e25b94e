"""Finds the JSON documents in a body: one that is the body, one per line, or one per server-sent event."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from typing import Protocol

from gpumon.llm.proxy.apis import KEPT
from gpumon.llm.proxy.outline import Document, Outline

# A document longer than this is outlined while it comes instead of being kept until it is whole.
# A streamed piece of a reply takes 100 to 500 bytes, a whole short request a few thousand.
LONGEST_KEPT = 1 << 14
# What a piece takes beside its bytes, so that a document in pieces of one byte is bounded as well.
_PIECE_BYTES = 41

# What may stand in a document's place: nothing, and OpenAI's word for the end of a stream.
_MARKS: dict[bytes, Document | None] = {b"": None, b"[DONE]": {"done": True}}
_DATA = b"data:"

Take = Callable[[Document], None]


class DocumentError(ValueError):
    """A document is not what its kind of body should hold."""


class Body(Protocol):
    """A body being read, whichever form it has."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes. DocumentError: it cannot be read; feed no more."""

    def end(self) -> None:
        """Take what is left when no more bytes come."""


class Text:
    """One document that comes in pieces."""

    __slots__ = ("_outline", "_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._outline: Outline | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._size += len(data) + _PIECE_BYTES
        if self._outline is None:
            self._pieces.append(data)
            if self._size <= LONGEST_KEPT:
                return
            self._outline = Outline(KEPT)
            data = b"".join(self._pieces)
            self._pieces = []
        self._outline.feed(data)

    def end(self) -> Document | None:
        """Give the document, None when there is nothing but space, and begin anew. DocumentError: it is no object."""
        if self._outline is None:
            text = b"".join(self._pieces).strip()
            value = _MARKS[text] if text in _MARKS else parsed(text)
        else:
            value = self._outline.end()
        self._pieces, self._size, self._outline = [], 0, None
        if value is None or isinstance(value, dict):
            return value
        raise DocumentError("no JSON object")


def parsed(text: bytes) -> object:
    """Give what JSON says. DocumentError: it is none."""
    try:
        return json.loads(text.decode())  # twice as fast as finding out what encoding it is, which is UTF-8
    except (ValueError, RecursionError):
        raise DocumentError("no JSON") from None


class Whole:
    """A body that is one document."""

    __slots__ = ("_take", "_text")

    def __init__(self, take: Take) -> None:
        self._take = take
        self._text = Text()

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._text.feed(data)

    def end(self) -> None:
        """Read the document."""
        document = self._text.end()
        if document is not None:
            self._take(document)


class Lines(Whole):
    """A body of one document per line: newline-delimited JSON."""

    __slots__ = ()

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        first, *rest = data.split(b"\n")
        if first:
            self._text.feed(first)
        for line in rest:
            self.end()
            if line:
                self._text.feed(line)


class Events(Whole):
    """A body of server-sent events, of which each has a document as data.

    Source: WHATWG HTML, server-sent events; a lone CR does not end a line here, because no server writes one.
    """

    __slots__ = ("_begun", "_is_data")

    def __init__(self, take: Take) -> None:
        super().__init__(take)
        self._begun = b""  # a line, as long as it does not show what it is
        self._is_data: bool | None = None  # what the line is; None as long as it does not show

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        first, *rest = data.split(b"\n")
        if first:
            self._feed_line(first)
        for line in rest:
            self._end_line()
            if line:
                self._feed_line(line)

    def _feed_line(self, piece: bytes) -> None:
        if self._is_data is None:
            piece = self._begun + piece
            if _DATA.startswith(piece) or piece == b"\r":
                self._begun = piece
                return
            self._begun = b""
            self._is_data = piece.startswith(_DATA)
            piece = piece.removeprefix(_DATA)
        if self._is_data:
            self._text.feed(piece)

    def _end_line(self) -> None:
        if self._is_data is None and self._begun in (b"", b"\r"):
            self.end()
        self._begun, self._is_data = b"", None


class Decoder:
    """A compressed body, decoded for another."""

    __slots__ = ("_body", "_decoder")

    def __init__(self, body: Body) -> None:
        self._body = body
        self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip or zlib, as its head says

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        try:
            while data:
                self._body.feed(self._decoder.decompress(data, LONGEST_KEPT))
                data = self._decoder.unconsumed_tail
        except zlib.error:
            raise DocumentError("not compressed as stated") from None

    def end(self) -> None:
        """Read what is left."""
        self._body.feed(self._decoder.flush())
        self._body.end()


# By content-encoding, what reads a body for another; what is not here is passed on unread. Brotli and Zstandard
# would take packages of their own (zstd until Python 3.14).
DECODERS: dict[bytes, Callable[[Body], Body]] = {
    b"": lambda body: body,
    b"identity": lambda body: body,
    b"gzip": Decoder,
    b"x-gzip": Decoder,
    b"deflate": Decoder,
}
