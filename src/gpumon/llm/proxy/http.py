"""Follows HTTP/1.1 in a copy of the bytes of one direction: heads, bodies and their ends, in pieces of any size.

It only finds out where things are; it judges nothing and changes nothing, because the bytes have been passed on already.
Source: RFC 9112.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

# What a body's length is when it is no number.
CHUNKED = -1
UNTIL_CLOSE = -2
OPAQUE = -3  # no HTTP any more: a tunnel, a WebSocket

# Bytes kept of a head that is not complete yet; servers take 8 to 64 KiB at most.
LONGEST_HEAD = 1 << 16
# Bytes kept of a line with a chunk's size or a trailer; anything longer than a size carries extensions nobody uses.
LONGEST_LINE = 1 << 13

Headers = Mapping[bytes, bytes]


class HttpError(ValueError):
    """These bytes are not HTTP/1.1 as far as it can be followed."""


class Receiver(Protocol):
    """What is told of the messages of one direction."""

    def head(self, head: bytes) -> int | None:
        """Take a head; give its body's length or one of the words above, None when another head follows (100, 103)."""

    def body(self, data: bytes) -> None:
        """Take a piece of the body, without the framing of chunks."""

    def end(self) -> None:
        """Note that the message is complete."""


class Reader:
    """Reads one direction of one connection; holds an incomplete head or line at most."""

    __slots__ = ("_held", "_left", "_receiver", "_step")

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._held = bytearray()
        self._left = 0
        self._step: Step = _head

    def feed(self, data: bytes) -> None:
        """Take the next bytes. HttpError: they cannot be followed; feed no more."""
        at, end = 0, len(data)
        while at < end:
            at = self._step(self, data, at)

    def step(self, data: bytes, at: int) -> int:
        """Take what comes at `at` as far as it is one thing; give where the next begins. HttpError as for `feed`."""
        return self._step(self, data, at)

    def end(self) -> None:
        """Note that no more bytes come; a body that lasts until then is complete by that."""
        if self.lasts_until_close:
            self._finish()

    def stop(self) -> None:
        """Follow no more: what comes is no HTTP."""
        self._step = _opaque

    @property
    def lasts_until_close(self) -> bool:
        """Say whether only the connection's end tells that the message is complete."""
        return self._step is _rest

    @property
    def in_head(self) -> bool:
        """Say whether what comes next belongs to a head."""
        return self._step is _head

    @property
    def between(self) -> bool:
        """Say whether no message is under way."""
        return self._step is _head and not self._held

    def _line(self, data: bytes, at: int, ending: bytes, limit: int) -> tuple[bytes | None, int]:
        """Give the bytes up to `ending`, None while they are incomplete; and where to go on."""
        held = self._held
        if not held:
            stop = data.find(ending, at)
            if stop >= 0:
                return data[at:stop], stop + len(ending)
        seen = len(held)
        held += data[at : at + limit + 1]
        stop = held.find(ending, max(0, seen - len(ending) + 1))
        if stop < 0:
            if len(held) > limit:
                raise HttpError("a head or a line without an end")
            return None, len(data)
        line = bytes(held[:stop])
        held.clear()
        return line, at + stop + len(ending) - seen

    def _begin(self, head: bytes) -> None:
        length = self._receiver.head(head)
        if length is None:
            return
        if length == 0:
            self._receiver.end()
        elif length > 0:
            self._left = length
            self._step = _fixed
        else:
            self._step = {CHUNKED: _size, UNTIL_CLOSE: _rest, OPAQUE: _opaque}[length]

    def _finish(self) -> None:
        self._step = _head
        self._receiver.end()

    def _take(self, data: bytes, at: int) -> int:
        """Hand on what belongs to the body or the chunk; give where that ends."""
        stop = min(at + self._left, len(data))
        self._left -= stop - at
        self._receiver.body(data[at:stop])
        return stop


Step = Callable[[Reader, bytes, int], int]


def _head(reader: Reader, data: bytes, at: int) -> int:
    head, at = reader._line(data, at, b"\r\n\r\n", LONGEST_HEAD)
    if head is not None and head.strip():
        reader._begin(head.lstrip(b"\r\n"))
    return at


def _fixed(reader: Reader, data: bytes, at: int) -> int:
    at = reader._take(data, at)
    if not reader._left:
        reader._finish()
    return at


def _size(reader: Reader, data: bytes, at: int) -> int:
    line, at = reader._line(data, at, b"\r\n", LONGEST_LINE)
    if line is not None:
        try:
            reader._left = int(line.partition(b";")[0], 16)
        except ValueError:
            raise HttpError("a chunk without a size") from None
        if reader._left < 0:
            raise HttpError("a chunk of negative size")
        reader._step = _chunk if reader._left else _trailer
    return at


def _chunk(reader: Reader, data: bytes, at: int) -> int:
    at = reader._take(data, at)
    if not reader._left:
        if data.startswith(b"\r\n", at):
            reader._step = _size
            return at + 2
        reader._step = _chunk_end
    return at


def _chunk_end(reader: Reader, data: bytes, at: int) -> int:
    line, at = reader._line(data, at, b"\r\n", 2)
    if line:
        raise HttpError("a chunk longer than its size")
    if line is not None:
        reader._step = _size
    return at


def _trailer(reader: Reader, data: bytes, at: int) -> int:
    line, at = reader._line(data, at, b"\r\n", LONGEST_LINE)
    if line == b"":
        reader._finish()
    return at


def _rest(reader: Reader, data: bytes, at: int) -> int:
    reader._receiver.body(data[at:] if at else data)
    return len(data)


def _opaque(reader: Reader, data: bytes, at: int) -> int:
    return len(data)


def parse_head(head: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Give the first line, and the fields by lower-case name; those that come more than once joined by commas."""
    first_line, *lines = head.split(b"\r\n")
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise HttpError("a header line without a colon")
        name, value = name.strip().lower(), value.strip()
        headers[name] = headers[name] + b", " + value if name in headers else value
    return first_line, headers


def request_length(method: bytes, headers: Headers) -> int:
    """Give the length of a request's body as its head states it."""
    if method == b"PRI":  # the preface of HTTP/2
        return OPAQUE
    return _stated(headers, 0)


def response_length(status: int, method: bytes, headers: Headers) -> int | None:
    """Give the length of the body of a response to `method`; None when this is not the final response yet."""
    if status == 101 or (method == b"CONNECT" and 200 <= status < 300):
        return OPAQUE
    if status < 200:
        return None
    if method == b"HEAD" or status in (204, 304):
        return 0
    return _stated(headers, UNTIL_CLOSE)


def _stated(headers: Headers, otherwise: int) -> int:
    if b"transfer-encoding" in headers:
        return CHUNKED if b"chunked" in headers[b"transfer-encoding"].lower() else UNTIL_CLOSE
    if b"content-length" not in headers:
        return otherwise
    length = headers[b"content-length"].split(b",")[0].strip()
    if not length.isdigit():
        raise HttpError("a content-length that is no number")
    return int(length)
