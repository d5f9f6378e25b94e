"""Alerts on the desktop: one call of org.freedesktop.Notifications over the session bus, written by hand.

Sources: D-Bus specification ("Message Protocol", "Authentication Protocol"), Desktop Notifications Specification 1.2.
A connection is made for each call: alerts are rare, and nothing has to be held open for them.
"""

from __future__ import annotations

import asyncio
import math
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from gpumon.export.alerts_outbox import RefusedError
from gpumon.export.alerts_watch import Incident

TIMEOUT_SECS = 10.0
# An answer has some hundred bytes.
LONGEST_MESSAGE = 1 << 16
# A notification is read at a glance.
MOST_LINES = 5
URGENCY = {"info": 0, "warning": 1, "critical": 2}

METHOD_CALL, METHOD_RETURN, ERROR = 1, 2, 3
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SIGNATURE = 1, 2, 3, 4, 5, 6, 8
BUS = ("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
NOTIFICATIONS = ("/org/freedesktop/Notifications", "org.freedesktop.Notifications", "org.freedesktop.Notifications")


class Marshal:
    """Bytes of a message, little-endian; every value stands at a multiple of its own size."""

    def __init__(self) -> None:
        self.bytes = bytearray()

    def align(self, size: int) -> None:
        """Fill up to a multiple of `size`."""
        self.bytes += bytes(-len(self.bytes) % size)

    def uint32(self, number: int) -> None:
        """Add a number of 32 bits; a negative one as an INT32."""
        self.align(4)
        self.bytes += struct.pack("<I", number & 0xFFFFFFFF)

    def string(self, text: str) -> None:
        """Add a text; none may hold a null character."""
        encoded = text.replace("\0", " ").encode(errors="replace")
        self.uint32(len(encoded))
        self.bytes += encoded + b"\0"

    def signature(self, types: str) -> None:
        """Add a signature."""
        self.bytes += bytes((len(types),)) + types.encode() + b"\0"


def call(serial: int, where: tuple[str, str, str], member: str, types: str = "", body: bytes = b"") -> bytes:
    """Give a method call to an object (path, interface, destination), with arguments of these types."""
    path, interface, destination = where
    message = Marshal()
    message.bytes += struct.pack("<BBBBII", ord("l"), METHOD_CALL, 0, 1, len(body), serial)
    fields = ((PATH, "o", path), (INTERFACE, "s", interface), (MEMBER, "s", member), (DESTINATION, "s", destination))
    message.uint32(0)
    began = len(message.bytes)
    for code, kind, text in fields:
        message.align(8)
        message.bytes.append(code)
        message.signature(kind)
        message.string(text)
    if types:
        message.align(8)
        message.bytes.append(SIGNATURE)
        message.signature("g")
        message.signature(types)
    struct.pack_into("<I", message.bytes, began - 4, len(message.bytes) - began)
    message.align(8)
    return bytes(message.bytes) + body


def notify(serial: int, summary: str, body: str, urgency: int) -> bytes:
    """Give the call that shows a notification; `urgency` is 0, 1 or 2."""
    arguments = Marshal()
    arguments.string("gpumon")
    arguments.uint32(0)  # replaces none
    arguments.string("")  # no icon
    arguments.string(summary)
    arguments.string(body)
    arguments.uint32(0)  # no actions
    arguments.uint32(0)  # the length of the hints, set below
    began = len(arguments.bytes)
    arguments.align(8)  # which is not part of the length
    first = len(arguments.bytes)
    arguments.string("urgency")
    arguments.signature("y")
    arguments.bytes.append(urgency)
    struct.pack_into("<I", arguments.bytes, began - 4, len(arguments.bytes) - first)
    arguments.uint32(-1)  # for as long as the desktop likes
    return call(serial, NOTIFICATIONS, "Notify", "susssasa{sv}i", bytes(arguments.bytes))


def answer(header: bytes) -> tuple[int, str]:
    """Give to which call a message answers, 0 for none, and the name of its error, if it is one."""
    order = "<" if header[:1] == b"l" else ">"
    length = struct.unpack_from(order + "I", header, 12)[0]
    at, end, serial, error = 16, 16 + length, 0, ""
    while at < end:
        at += -at % 8
        code, kind = header[at], header[at + 2 : at + 2 + header[at + 1]]
        at += 3 + header[at + 1]
        if kind == b"u":
            at += -at % 4
            serial = struct.unpack_from(order + "I", header, at)[0] if code == REPLY_SERIAL else serial
            at += 4
        elif kind == b"g":
            at += 2 + header[at]
        else:  # a string or an object path
            at += -at % 4
            size = struct.unpack_from(order + "I", header, at)[0]
            if code == ERROR_NAME:
                error = header[at + 4 : at + 4 + size].decode(errors="replace")
            at += 5 + size
    return serial, error


def bus(environ: Mapping[str, str]) -> str | None:
    """Give the Unix socket of the user's session bus as asyncio takes it; None where there is none."""
    for address in environ.get("DBUS_SESSION_BUS_ADDRESS", "").split(";"):
        kind, _, facts = address.partition(":")
        keys = dict(fact.partition("=")[::2] for fact in facts.split(","))
        if kind == "unix" and "abstract" in keys:
            return "\0" + unquote(keys["abstract"])
        if kind == "unix" and Path(path := unquote(keys.get("path", ""))).is_socket():
            return path
    usual = Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}", "bus")
    return str(usual) if usual.is_socket() else None


class Desktop:
    """The desktop of the user who runs gpumon."""

    name = "desktop"
    address = ""
    repeat_seconds = math.inf

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    async def send(self, news: Sequence[Incident], active: Sequence[Incident]) -> None:
        """Show what began and ended, in one notification; raises RefusedError."""
        summary, body = text(news)
        urgency = max(URGENCY[incident.alert.severity] if incident.ended is None else 0 for incident in news)
        try:
            async with asyncio.timeout(TIMEOUT_SECS):
                await self._show(summary, body, urgency)
        except TimeoutError:
            raise RefusedError(f"no answer within {TIMEOUT_SECS:g} s") from None
        except (OSError, EOFError, ValueError, IndexError, struct.error) as error:
            raise RefusedError(f"the session bus cannot be used: {error or type(error).__name__}") from None

    async def _show(self, summary: str, body: str, urgency: int) -> None:
        path = bus(self._environ)
        if path is None:
            raise RefusedError("there is no session bus: gpumon does not run in a desktop session")
        reader, writer = await asyncio.open_unix_connection(path, limit=LONGEST_MESSAGE)
        try:
            # The bus asks the kernel who calls; the number is only what is claimed.
            writer.write(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
            if not (await reader.readline()).startswith(b"OK "):
                raise RefusedError("the session bus is another user's")
            writer.write(b"BEGIN\r\n" + call(1, BUS, "Hello") + notify(2, summary, body, urgency))
            while (of := await _receive(reader))[0] != 2:
                if of[1]:
                    break
            if of[1]:
                raise RefusedError(f"the desktop does not show it: {of[1]}")
        finally:
            writer.close()

    async def close(self) -> None:
        """End nothing: no connection is kept."""


async def _receive(reader: asyncio.StreamReader) -> tuple[int, str]:
    """Give what `answer` gives for the next message."""
    head = await reader.readexactly(16)
    order = "<" if head[:1] == b"l" else ">"
    body, fields = struct.unpack_from(order + "I", head, 4)[0], struct.unpack_from(order + "I", head, 12)[0]
    fields += -fields % 8
    if body + fields > LONGEST_MESSAGE:
        raise ValueError("it sends more than an answer")
    rest = await reader.readexactly(fields + body)
    return answer(head + rest[:fields])


def text(news: Sequence[Incident]) -> tuple[str, str]:
    """Give heading and text of a notification."""
    if len(news) == 1:
        (incident,) = news
        body = incident.message if incident.ended is not None else f"{incident.message}\n{incident.advice}"
        return incident.summary, _plain(body)
    lines = [incident.message for incident in news[:MOST_LINES]]
    if len(news) > MOST_LINES:
        lines.append(f"and {len(news) - MOST_LINES} more")
    return f"{len(news)} alerts", _plain("\n".join(lines))


def _plain(words: str) -> str:
    """Give a text as it is to be read where some desktops look for tags."""
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
