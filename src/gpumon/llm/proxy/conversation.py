"""What is learnt of one connection from a copy of its bytes; nothing that goes wrong here touches the bytes."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from gpumon.llm.proxy.apis import api_of
from gpumon.llm.proxy.exchange import Exchange, Measured
from gpumon.llm.proxy.http import OPAQUE, HttpError, Reader, parse_head, request_length, response_length
from gpumon.llm.request import Outcome

# Requests of one connection that wait for their replies; clients that pipeline more are not followed.
MOST_WAITING = 100


class Ledger(Protocol):
    """Who wants to know."""

    server: str
    kind: str
    running: int

    def finished(self, measured: Measured) -> None:
        """Take a finished request."""

    def unreadable(self, error: Exception | None) -> None:
        """Count something that could not be read; `error` is what is our own fault."""

    def wall(self) -> float:
        """Give Unix seconds."""


class Conversation:
    """The requests and replies of one connection. `now` is the loop's time of the bytes."""

    __slots__ = ("_began", "_followed", "_ledger", "_left", "_now", "_requests", "_responses", "_sending", "_waiting")

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._requests = Reader(_Requests(self))
        self._responses = Reader(_Responses(self))
        self._waiting: deque[tuple[bytes, Exchange | None]] = deque()  # method, and what is measured
        self._sending: Exchange | None = None
        self._began = 0.0
        self._now = 0.0
        self._followed = True
        self._left = False  # the client sends no more

    @property
    def busy(self) -> bool:
        """Say whether a reply is owed, or whether that is not known."""
        return not self._followed or bool(self._waiting) or not self._requests.between

    @property
    def end_looks_clean(self) -> bool:
        """Say whether a client would take the connection's end for the reply's."""
        return not self._followed or self._responses.lasts_until_close

    def request_bytes(self, data: bytes, now: float) -> None:
        """Take what the client sent."""
        if self._followed:
            self._now = now
            if self._requests.between:
                self._began = now
            self._follow(self._requests, data)

    def response_bytes(self, data: bytes, now: float) -> None:
        """Take what the server sent."""
        if self._followed:
            self._now = now
            self._follow(self._responses, data)

    def client_left(self) -> None:
        """Note that the client sends no more; it may still want the reply."""
        self._left = True

    def client_gone(self, now: float) -> None:
        """Note that the client takes no more."""
        self._finish_all(Outcome.CANCELLED, None, now)

    def server_ended(self, now: float) -> None:
        """Note that the server sends no more, which may be how its reply ends."""
        if self._followed:
            self._now = now
            self._responses.end()
        self.server_gone(now)

    def server_gone(self, now: float) -> None:
        """Note that the server broke off, unless it did because the client had left."""
        self._finish_all(Outcome.CANCELLED if self._left else Outcome.ERROR, "connection", now)

    def _follow(self, reader: Reader, data: bytes) -> None:
        try:
            reader.feed(data)
        except HttpError:
            self._give_up(None)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the copy's reader, the bytes go on
            self._give_up(error)

    def _give_up(self, error: Exception | None) -> None:
        self._followed = False
        self._forget()
        self._ledger.unreadable(error)

    def _forget(self) -> None:
        self._ledger.running -= sum(exchange is not None for _, exchange in self._waiting)
        self._waiting.clear()
        self._sending = None

    def _finish_all(self, outcome: Outcome, error: str | None, now: float) -> None:
        while self._waiting:
            _, exchange = self._waiting.popleft()
            if exchange is not None:
                done = exchange.done
                self._finish(exchange, Outcome.OK if done else outcome, None if done else error, now)

    def _finish(self, exchange: Exchange, outcome: Outcome, error: str | None, now: float) -> None:
        ledger = self._ledger
        ledger.running -= 1
        if exchange.unreadable:
            ledger.unreadable(None)
        measured = exchange.measured(outcome, ledger.server, ledger.kind, now, error)
        if measured is not None:
            ledger.finished(measured)


class _Requests:
    """Takes the client's messages."""

    __slots__ = ("_conversation",)

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def head(self, head: bytes) -> int:
        first_line, headers = parse_head(head)
        conversation = self._conversation
        method, _, rest = first_line.partition(b" ")
        target, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/") or len(conversation._waiting) >= MOST_WAITING:
            raise HttpError("no request")
        length = request_length(method, headers)
        if length == OPAQUE:
            conversation._responses.stop()
            return length
        api = api_of(method, target)
        exchange = None
        if api is not None:
            ledger = conversation._ledger
            clock = ledger.wall() - (conversation._now - conversation._began)
            exchange = Exchange(api, target, headers, started=conversation._began, clock=clock)
            ledger.running += 1
        conversation._sending = exchange
        conversation._waiting.append((method, exchange))
        return length

    def body(self, data: bytes) -> None:
        exchange = self._conversation._sending
        if exchange is not None:
            exchange.request_body(data)

    def end(self) -> None:
        exchange = self._conversation._sending
        self._conversation._sending = None
        if exchange is not None:
            exchange.request_end()


class _Responses:
    """Takes the server's messages."""

    __slots__ = ("_conversation",)

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def head(self, head: bytes) -> int | None:
        first_line, headers = parse_head(head)
        conversation = self._conversation
        version, _, rest = first_line.partition(b" ")
        status = rest[:3]
        if not version.startswith(b"HTTP/1.") or not status.isdigit():
            raise HttpError("no response")
        # A reply that nobody asked for says why the server is about to close.
        method, exchange = conversation._waiting[0] if conversation._waiting else (b"", None)
        length = response_length(int(status), method, headers)
        if length == OPAQUE:
            conversation._requests.stop()
            conversation._forget()
        elif length is not None and exchange is not None:
            exchange.response_head(int(status), headers)
        return length

    def body(self, data: bytes) -> None:
        waiting = self._conversation._waiting
        exchange = waiting[0][1] if waiting else None
        if exchange is not None:
            exchange.response_body(data, self._conversation._now)

    def end(self) -> None:
        conversation = self._conversation
        if conversation._waiting:
            _, exchange = conversation._waiting.popleft()
            if exchange is not None:
                exchange.response_end(conversation._now)
                conversation._finish(exchange, Outcome.OK, None, conversation._now)
