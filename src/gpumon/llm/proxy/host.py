"""Puts another Host into requests on their way, for servers that refuse names they do not know."""

from __future__ import annotations

import re

from gpumon.llm.proxy.http import Reader, parse_head, request_length

_HOST = re.compile(rb"(\r\nhost:)[^\r]*", re.IGNORECASE)


class HostRewriter:
    """Rewrites one connection's requests; only their heads are held until complete."""

    __slots__ = ("_head", "_host", "_reader")

    def __init__(self, host: bytes) -> None:
        self._host = host
        self._reader = Reader(self)
        self._head = b""

    def feed(self, data: bytes) -> bytes:
        """Give what to send for the next bytes. HttpError: this is no HTTP/1.1, and cannot be rewritten."""
        out = []
        at = 0
        while at < len(data):
            begun, in_head = at, self._reader.in_head
            at = self._reader.step(data, at)
            if not in_head:
                out.append(data[begun:at])
            elif self._head:
                out.append(_HOST.sub(lambda line: line[1] + b" " + self._host, self._head, 1) + b"\r\n\r\n")
                self._head = b""
        return b"".join(out)

    def head(self, head: bytes) -> int:
        """Take a head."""
        self._head = head
        first_line, headers = parse_head(head)
        return request_length(first_line.partition(b" ")[0], headers)

    def body(self, data: bytes) -> None:
        """Take a piece of a body."""

    def end(self) -> None:
        """Note the end of a request."""
