"""Following HTTP/1.1 in pieces of any size."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumon.llm.proxy.host import HostRewriter
from gpumon.llm.proxy.http import (
    CHUNKED,
    LONGEST_HEAD,
    OPAQUE,
    UNTIL_CLOSE,
    HttpError,
    Reader,
    parse_head,
    request_length,
    response_length,
)


class Messages:
    """Writes down what a reader tells."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.ended = 0

    def head(self, head: bytes) -> int | None:
        """Take a request's head, or a response's."""
        self.heads.append(head)
        self.bodies.append(b"")
        first_line, headers = parse_head(head)
        if first_line.startswith(b"HTTP/"):
            return response_length(int(first_line.split()[1]), b"GET", headers)
        return request_length(first_line.split()[0], headers)

    def body(self, data: bytes) -> None:
        """Take a piece."""
        self.bodies[-1] += data

    def end(self) -> None:
        """Count."""
        self.ended += 1


def read(pieces: list[bytes]) -> tuple[list[bytes], list[bytes], int, bool]:
    """Give all that a reader tells of these pieces."""
    messages = Messages()
    reader = Reader(messages)
    for piece in pieces:
        reader.feed(piece)
    between = reader.between
    reader.end()
    return messages.heads, messages.bodies, messages.ended, between


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """Cut at these places."""
    places = sorted({0, *(place % (len(data) + 1) for place in at), len(data)})
    return [data[a:b] for a, b in pairwise(places)]


CONVERSATIONS: dict[str, tuple[bytes, list[bytes]]] = {
    "length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", [b"hello"]),
    "no body": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", [b""]),
    "empty lines before": (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", [b""]),
    "pipelined": (b"GET /1 HTTP/1.1\r\n\r\nPOST /2 HTTP/1.1\r\ncontent-LENGTH:2\r\n\r\nok" * 2, [b"", b"ok"] * 2),
    "chunked": (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n5\r\nhello\r\n1;name=value\r\n,\r\n%b"
        % b"06\r\n\r\nwide\r\n0\r\nTrailer: x\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        [b"hello,\r\nwide", b""],
    ),
    "until close": (b"HTTP/1.0 200 OK\r\n\r\nall\r\n\r\nthe rest", [b"all\r\n\r\nthe rest"]),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
        [b"", b"", b""],
    ),
    "a length twice": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", [b"ok"]),
    "switched": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x05hello", [b""]),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_bodies_are_found(name: str) -> None:
    """Whole, and cut in two at every byte, and byte by byte, the same is read."""
    data, bodies = CONVERSATIONS[name]
    whole = read([data])
    assert whole[1] == bodies
    for at in range(len(data)):
        assert read([data[:at], data[at:]]) == whole
    assert read([data[i : i + 1] for i in range(len(data))]) == whole


@given(st.sampled_from(sorted(CONVERSATIONS)), st.lists(st.integers(0, 10_000), max_size=8))
def test_pieces_do_not_matter(name: str, at: list[int]) -> None:
    """However a conversation is cut, the same is read."""
    data, _ = CONVERSATIONS[name]
    assert read(cut(data, at)) == read([data])


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: five\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n",
        b"x" * (LONGEST_HEAD + 1),
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 9000,
    ],
)
def test_what_is_no_http_is_refused(data: bytes) -> None:
    """An error, however it arrives, and no more held than a head may have."""
    with pytest.raises(HttpError):
        read([data])
    with pytest.raises(HttpError):
        read([data[i : i + 100] for i in range(0, len(data), 100)])


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_any_bytes_give_a_reading_or_an_error(data: bytes, at: list[int]) -> None:
    """Nothing else leaves the reader."""
    try:
        read(cut(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data, at))
    except HttpError:
        pass


def test_lengths_follow_rfc_9112() -> None:
    """Method and status decide before the headers do."""
    ten = {b"content-length": b"10"}
    assert response_length(200, b"HEAD", ten) == 0
    assert response_length(304, b"GET", ten) == 0
    assert response_length(200, b"CONNECT", ten) == OPAQUE
    assert response_length(101, b"GET", {}) == OPAQUE
    assert response_length(100, b"POST", {}) is None
    assert response_length(200, b"GET", {}) == UNTIL_CLOSE
    assert response_length(200, b"GET", ten | {b"transfer-encoding": b"chunked"}) == CHUNKED
    assert request_length(b"POST", {}) == 0
    assert request_length(b"PRI", {}) == OPAQUE


REQUESTS = (
    b"POST /api/chat HTTP/1.1\r\nhOST:\told.example:80\r\nX-Host: host: y\r\nContent-Length: 12\r\n\r\n\r\nHost: z\r\n\r"
    b"GET / HTTP/1.1\r\nA: b\r\nHost:\r\n\r\nGET / HTTP/1.0\r\n\r\n"
)
REWRITTEN = (
    b"POST /api/chat HTTP/1.1\r\nhOST: new:1\r\nX-Host: host: y\r\nContent-Length: 12\r\n\r\n\r\nHost: z\r\n\r"
    b"GET / HTTP/1.1\r\nA: b\r\nHost: new:1\r\n\r\nGET / HTTP/1.0\r\n\r\n"
)


@given(st.lists(st.integers(0, 10_000), max_size=8))
def test_only_the_host_is_rewritten(at: list[int]) -> None:
    """Every other byte stays, however requests are cut."""
    rewriter = HostRewriter(b"new:1")
    assert b"".join(rewriter.feed(piece) for piece in cut(REQUESTS, at)) == REWRITTEN
