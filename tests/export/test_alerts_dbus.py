"""Alerts on the desktop, before a session bus that answers, refuses, hangs or talks nonsense."""

from __future__ import annotations

import asyncio
import struct
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.export.test_alerts_outbox import incident

from gpumon.export import alerts_dbus
from gpumon.export.alerts_dbus import Desktop, bus, text
from gpumon.export.alerts_outbox import RefusedError

ACCEPT = b"OK 1234deadbeef\r\n"


def message(kind: int, serial: int, *, error: str = "", order: str = "<", body: bytes = b"") -> bytes:
    """Give an answer to the call with that serial, with fields of every form that a bus puts there."""
    fields = struct.pack(order + "BBBBI", 5, 1, ord("u"), 0, serial)
    for code, form, words in ((4, "s", error), (7, "s", "org.freedesktop.DBus"), (1, "o", "/x")):
        if words:
            fields += bytes(-len(fields) % 8)
            fields += struct.pack(order + "BBcBI", code, 1, form.encode(), 0, len(words)) + words.encode() + b"\0"
    fields += bytes(-len(fields) % 8) + struct.pack("BBcBB", 8, 1, b"g", 0, 1) + b"u\0"
    head = struct.pack(order + "cBBBIII", b"l" if order == "<" else b"B", kind, 0, 1, len(body), 9, len(fields))
    return head + fields + bytes(-len(fields) % 8) + body


@asynccontextmanager
async def session(folder: Path, accept: bytes, *answers: bytes) -> Any:
    """Serve a session bus; give the environment of who is in the session, and what the bus was told."""
    told = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over.clear()
        told.extend(await reader.readuntil(b"\r\n"))
        writer.write(accept)
        if accept.startswith(b"OK"):
            told.extend(await reader.readuntil(b"BEGIN\r\n"))
            told.extend(await reader.read(1 << 16))
            for answer in answers:
                writer.write(answer)
            if not answers:
                await reader.read()  # until whoever waits gives up
        writer.close()
        await writer.wait_closed()
        over.set()

    over = asyncio.Event()
    server = await asyncio.start_unix_server(serve, folder / "bus")
    async with server:
        over.set()
        try:
            yield {"XDG_RUNTIME_DIR": str(folder)}, told
        finally:
            await over.wait()


def show(folder: Path, accept: bytes, *answers: bytes) -> bytes:
    """Show an alert; give what the bus was told."""

    async def work() -> bytes:
        async with session(folder, accept, *answers) as (environ, told):
            await Desktop(environ).send([incident()], [])
            return bytes(told)

    return asyncio.run(work())


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_alert_is_shown_with_words_advice_and_urgency(tmp_path: Path, order: str) -> None:
    """Its end of the conversation is whole, and other messages of the bus, in either byte order, are passed over."""
    signal = message(4, 0, order=order, body=b"x" * 5)
    told = show(tmp_path, ACCEPT, message(2, 1, order=order), signal, message(2, 2, order=order, body=b"\1\0\0\0"))
    assert told.startswith(b"\0AUTH EXTERNAL ")
    for words in ("GPU 0 is hot\0", "GPU 0 is hot: 91 °C, above 85 °C\nLook at air flow", "susssasa{sv}i\0"):
        assert words.encode() in told
    assert told.endswith(b"urgency\0\1y\0\1\xff\xff\xff\xff")


FAILURES = {
    "no such service": ((ACCEPT, message(3, 2, error="org.freedesktop.DBus.Error.ServiceUnknown")), "ServiceUnknown"),
    "hello refused": ((ACCEPT, message(3, 1, error="org.freedesktop.DBus.Error.LimitsExceeded")), "LimitsExceeded"),
    "another user's": ((b"REJECTED EXTERNAL\r\n",), "the session bus is another user's"),
    "closed": ((b"",), "the session bus is another user's"),
    "broken off": ((ACCEPT, message(2, 1)[:20]), "the session bus cannot be used"),
    "nonsense": ((ACCEPT, b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3), "the session bus cannot be used"),
    "fields beyond the end": ((ACCEPT, message(2, 1)[:16] + b"\1\xff" * 32), "the session bus cannot be used"),
}


@pytest.mark.parametrize(("conversation", "reason"), FAILURES.values(), ids=FAILURES)
def test_a_bus_that_does_not_show_it_is_a_refusal_that_says_why(
    tmp_path: Path, conversation: tuple[bytes, ...], reason: str
) -> None:
    """So that it is tried again and counted."""
    with pytest.raises(RefusedError, match=reason):
        show(tmp_path, *conversation)


def test_a_bus_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while that is bounded."""
    monkeypatch.setattr(alerts_dbus, "TIMEOUT_SECS", 0.05)
    with pytest.raises(RefusedError, match="no answer within"):
        show(tmp_path, ACCEPT)


def test_without_a_session_it_says_so(tmp_path: Path) -> None:
    """As when gpumon runs as a service."""
    environ = {"XDG_RUNTIME_DIR": str(tmp_path), "DBUS_SESSION_BUS_ADDRESS": f"unix:path={tmp_path}/gone"}
    with pytest.raises(RefusedError, match="there is no session bus"):
        asyncio.run(Desktop(environ).send([incident()], []))


def test_the_address_of_the_bus_is_the_session_s(tmp_path: Path) -> None:
    """By path, by an abstract name, with characters escaped; else where systemd puts it."""

    async def work() -> None:
        async with session(tmp_path, ACCEPT) as (environ, _):
            path = f"{tmp_path}/bus"
            assert bus(environ) == path
            escaped = path.replace("/", "%2f")
            assert bus({"DBUS_SESSION_BUS_ADDRESS": f"tcp:host=x;unix:path={escaped},guid=1"}) == path
        assert bus({"DBUS_SESSION_BUS_ADDRESS": "unix:guid=1,abstract=/tmp/x"}) == "\0/tmp/x"

    asyncio.run(work())


def test_many_alerts_are_one_notification() -> None:
    """Nobody reads a hundred; what looks like a tag is text."""
    heading, body = text([incident(number) for number in range(8)])
    assert heading == "8 alerts"
    assert body.count("\n") == 5
    assert body.endswith("and 3 more")
    heading, body = text([incident(0, ended=1312.0)])
    assert (heading, body) == ("GPU 0 is hot", "GPU 0 is hot: over after 312 s")
    assert alerts_dbus._plain("<b>&") == "&lt;b&gt;&amp;"
