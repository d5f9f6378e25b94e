"""gpumon's notification over a real session bus: dbus-daemon checks and carries it, dbus-monitor tells what it read."""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpumon.export.alerts_dbus import BUS, Desktop, Marshal, bus, call
from gpumon.export.alerts_outbox import RefusedError
from gpumon.export.alerts_settings import rules
from gpumon.export.alerts_watch import Incident
from gpumon.settings import Settings

pytestmark = pytest.mark.e2e

NAME = "org.freedesktop.Notifications"
CONFIG = """<busconfig><type>session</type><listen>unix:dir={folder}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>"""


@contextmanager
def ended(*command: str, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, and end it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def session(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give the environment of a session with a bus."""
    if shutil.which("dbus-daemon") is None or shutil.which("dbus-monitor") is None:
        pytest.skip("notifications are NOT tested over a real bus: dbus-daemon and dbus-monitor are not installed")
    config = tmp_path / "session.conf"
    config.write_text(CONFIG.format(folder=tmp_path))
    with ended("dbus-daemon", f"--config-file={config}", "--nofork", "--print-address=1") as daemon:
        assert daemon.stdout is not None
        yield {"DBUS_SESSION_BUS_ADDRESS": daemon.stdout.readline().decode().strip()}


async def serve(environ: dict[str, str], owned: asyncio.Event) -> None:
    """Own the name of the notification service, and answer each call with the number of a notification."""
    path = bus(environ)
    assert path is not None
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
    assert (await reader.readline()).startswith(b"OK ")
    request = Marshal()
    request.string(NAME)
    request.uint32(0)
    writer.write(b"BEGIN\r\n" + call(1, BUS, "Hello") + call(2, BUS, "RequestName", "su", bytes(request.bytes)))
    answers = 0
    try:
        while True:
            answers += await answer(reader, writer)
            if answers == 2:
                owned.set()
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Take one message; answer it if it is a call, and say whether it is itself an answer."""
    head = await reader.readexactly(16)
    _, kind, _, _, body, serial, fields = struct.unpack("<cBBBIII", head)
    rest = await reader.readexactly(fields + -fields % 8 + body)
    if kind == 1:
        sender = rest.split(b"\7\1s\0", 1)[1]
        size = struct.unpack("<I", sender[:4])[0]
        writer.write(reply(serial, sender[4 : 4 + size].decode()))
    return kind == 2


def reply(serial: int, to: str) -> bytes:
    """Give an answer that holds one UINT32."""
    fields = struct.pack("<BBBBI", 5, 1, ord("u"), 0, serial)
    fields += struct.pack("<BBcBI", 6, 1, b"s", 0, len(to)) + to.encode() + b"\0"
    fields += bytes(-len(fields) % 8) + struct.pack("<BBcBB", 8, 1, b"g", 0, 1) + b"u\0"
    return struct.pack("<cBBBIII", b"l", 2, 0, 1, 4, 3, len(fields)) + fields + bytes(-len(fields) % 8) + b"\7\0\0\0"


def incident() -> Incident:
    """Give an alert with characters of several bytes."""
    labels = {"gpu_id": "3", "gpu_name": "H100", "gpu_uuid": "GPU-3"}
    alert = rules(Settings())[0].alert
    return Incident(alert=alert, labels=labels, words=labels, value=91, threshold=85, started=1000.0)


def test_a_notification_is_carried_by_a_real_bus_and_read_as_it_was_meant(session: dict[str, str]) -> None:
    """The daemon ends a connection that sends what is no D-Bus; the monitor is the reference library's own reader."""
    watch = f"type='method_call',interface='{NAME}'"

    async def work() -> str:
        owned = asyncio.Event()
        service = asyncio.create_task(serve(session, owned))
        await owned.wait()
        with ended("dbus-monitor", "--session", watch, env=session | {"PATH": os.environ["PATH"]}) as monitor:
            assert monitor.stdout is not None
            heard = b""
            while b"NameLost" not in heard:  # the monitor listens now
                heard = await asyncio.to_thread(monitor.stdout.readline)
            await Desktop(session).send([incident()], [])
            lines = []
            while "int32 -1" not in "".join(lines):
                lines.append((await asyncio.to_thread(monitor.stdout.readline)).decode())
        service.cancel()
        await asyncio.gather(service, return_exceptions=True)
        return "".join(lines)

    heard = asyncio.run(asyncio.wait_for(work(), 30))
    assert f"interface={NAME}; member=Notify" in heard
    assert 'string "gpumon"' in heard
    assert 'string "GPU 3 is hot"' in heard
    assert 'string "GPU 3 is hot: 91 °C, above 85 °C' in heard
    assert 'string "urgency"' in heard
    assert "byte 1" in heard


def test_a_session_without_notifications_is_a_refusal(session: dict[str, str]) -> None:
    """As on a machine where a session runs, but no desktop."""
    with pytest.raises(RefusedError, match=r"the desktop does not show it: org\.freedesktop\.DBus\.Error"):
        asyncio.run(Desktop(session).send([incident()], []))
