"""The kernel log is read as it grows, and XIDs of any driver's form are found in it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumon.gpu.kmsg import KMSG, KernelLog, parse_xid
from gpumon.gpu.xid import XidLog

UUID = "GPU-0e7a2f4c-5a1d-4a8e-9b57-6a3f6c1d2e90"
FALLEN = b"3,1207,5140900980,-;NVRM: Xid (PCI:0000:3b:00): 79, pid=41, name=train, GPU has fallen off the bus.\n"


def fifo(folder: Path) -> tuple[Path, int]:
    """Make a named pipe that stands in for the device; give its path and a descriptor to write to."""
    path = folder / "kmsg"
    os.mkfifo(path)
    return path, os.open(path, os.O_RDWR)


async def until(true: Callable[[], bool]) -> None:
    """Let the loop turn until something is so; fails the test after five seconds."""
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0)


def run(scenario: Callable[[XidLog, KernelLog, int], Awaitable[None]], folder: Path) -> XidLog:
    """Run a scenario on a started kernel log over a pipe; give the XIDs seen."""
    path, writer = fifo(folder)
    xids = XidLog()
    xids.register(UUID, "00000000:3B:00.0")

    async def main() -> None:
        log = KernelLog(xids, path, clock=lambda: 1000.0)
        assert log.start()
        try:
            await scenario(xids, log, writer)
        finally:
            log.close()

    try:
        asyncio.run(main())
    finally:
        os.close(writer)
    return xids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NVRM: Xid (0000:03:00): 14, Channel 00000001", ("0000:03:00", 14)),
        ("NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.", ("0000:3b:00", 79)),
        ("NVRM: Xid (PCI:0000:3b:00.0): 31, Ch 0000000b, engmask 00000120", ("0000:3b:00.0", 31)),
        ("NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off", ("0000:3b:00", 79)),
        ("NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel", ("0000:01:00", 94)),
        ("NVRM: Xid (PCI:0000:01:00 GPU-I:05 GPU-CI:02): 13, pid=9, name=a, Graphics", ("0000:01:00", 13)),
        ("NVRM: Xid (PCI:0009:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6)", ("0009:01:00", 149)),
        ("NVRM: Xid (PCI:10000:01:00): 154, GPU recovery action changed from 0x0 (None)", ("10000:01:00", 154)),
        ("NVRM: GPU at PCI:0000:3b:00: GPU-b850f46d-d5ea-c752-ddf3-c4453e44d3f7", None),
        ("nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 24007, Fatal, Link 46", None),
        ("NVRM: Xid (invalid): some error", None),
        ("NVRM: Xid (PCI:0000:3b:00): , no code", None),
        ("usb 1-1: said NVRM: Xid (PCI:0000:3b:00): 79, to confuse", None),
    ],
)
def test_xids_of_every_driver_form_are_understood_and_nothing_else(text: str, expected: tuple[str, int] | None) -> None:
    """Old, new, with MIG instances, with a function, with large domains."""
    assert parse_xid(b"4,99,1234567,-;" + text.encode()) == expected
    assert parse_xid(b"4,99,1234567,-,caller=T41;" + text.encode()) == expected


@given(st.binary())
def test_no_record_makes_the_parser_fail(record: bytes) -> None:
    """None, or an address and a code that are in the record."""
    for data in (record, b"4,1,1,-;NVRM: Xid (" + record, b"4,1,1,-;NVRM: Xid (PCI:0000:01:00): " + record):
        found = parse_xid(data)
        assert found is None or (found[0].encode() in data and str(found[1]).encode().lstrip(b"0") in data)


def test_what_is_logged_after_the_start_is_counted(tmp_path: Path) -> None:
    """Records come one per read from the device, in any pieces from a pipe."""

    async def scenario(xids: XidLog, _log: KernelLog, writer: int) -> None:
        os.write(
            writer, b"6,1205,5140900000,-;eth0: link up\n SUBSYSTEM=net\n DEVICE=+pci:0000:3b:00.0\n" + FALLEN[:60]
        )
        os.write(writer, FALLEN[60:] + FALLEN)
        await until(lambda: xids.counts(UUID) == {79: 2})

    xids = run(scenario, tmp_path)
    assert xids.last_time(UUID) == 1000.0


def test_nothing_a_record_says_of_a_process_is_kept(tmp_path: Path) -> None:
    """A name in the kernel log is nobody's business."""

    async def scenario(xids: XidLog, _log: KernelLog, writer: int) -> None:
        os.write(writer, FALLEN)
        await until(lambda: bool(xids.recent()))

    (event,) = run(scenario, tmp_path).recent()
    assert "train" not in repr(event)


def test_a_flood_of_records_leaves_the_loop_its_turns_and_none_is_lost(tmp_path: Path) -> None:
    """More than one turn reads at once."""

    async def scenario(xids: XidLog, _log: KernelLog, writer: int) -> None:
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(None, lambda: [os.write(writer, FALLEN) for _ in range(20_000)])
        await until(lambda: xids.counts(UUID).get(79) == 20_000)
        await writing

    run(scenario, tmp_path)


def test_a_line_without_end_is_not_kept(tmp_path: Path) -> None:
    """Memory stays bounded whatever stands in for the device."""

    async def scenario(xids: XidLog, log: KernelLog, writer: int) -> None:
        for _ in range(10):
            os.write(writer, b"x" * 5000)
        os.write(writer, b"\n" + FALLEN)
        await until(lambda: xids.counts(UUID) == {79: 1})
        assert log._rest == b""

    run(scenario, tmp_path)


def test_a_log_that_ends_is_said_to_have_ended(tmp_path: Path) -> None:
    """And the loop is not woken for it any more."""
    path, writer = fifo(tmp_path)

    async def main() -> KernelLog:
        log = KernelLog(XidLog(), path)
        assert log.start()
        os.close(writer)
        await until(lambda: log.problem is not None)
        log.close()
        return log

    assert asyncio.run(main()).problem == f"{path} has ended"


def test_a_missing_kernel_log_is_named_with_what_to_do(tmp_path: Path) -> None:
    """One sentence."""
    path = tmp_path / "kmsg"

    async def main() -> str | None:
        log = KernelLog(XidLog(), path)
        assert not log.start()
        log.close()
        return log.problem

    assert asyncio.run(main()) == f"{path} does not exist here; in a container, pass the host's /dev/kmsg in"


@pytest.mark.parametrize("path", [Path("/dev/null"), None])
def test_what_is_no_kernel_log_is_refused(path: Path | None, tmp_path: Path) -> None:
    """Some clusters bind /dev/null there; a plain file cannot be waited on either."""
    if path is None:
        path = tmp_path / "file"
        path.write_bytes(FALLEN)

    async def main() -> str | None:
        log = KernelLog(XidLog(), path)
        assert not log.start()
        return log.problem

    assert asyncio.run(main()) == f"{path} is not the kernel log; in a container, pass the host's /dev/kmsg in"


@pytest.mark.skipif(not os.access(KMSG, os.R_OK), reason="not tried on the real device: /dev/kmsg cannot be read here")
def test_the_real_device_can_be_read_and_its_history_does_not_count() -> None:
    """Opened at its end: what the machine logged before is not seen again."""
    xids = XidLog()

    async def main() -> None:
        log = KernelLog(xids)
        assert log.start(), log.problem
        log._read()
        log.close()

    assert KMSG.is_char_device()
    asyncio.run(main())
    assert xids.recent() == ()


@pytest.mark.skipif(not os.access(KMSG, os.R_OK), reason="not tried on the real device: /dev/kmsg cannot be read here")
def test_records_of_the_real_device_have_the_form_that_is_parsed() -> None:
    """The first record of the machine's log, with the text of an XID put in its place, is understood."""
    fd = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK)
    try:
        record = os.read(fd, 8192)
    finally:
        os.close(fd)
    head, _, _ = record.partition(b";")
    assert parse_xid(record) is None
    assert parse_xid(head + b";NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.\n") == ("0000:3b:00", 79)
