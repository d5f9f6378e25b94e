"""XIDs as the kernel log tells them: /dev/kmsg, read as it grows (Documentation/ABI/testing/dev-kmsg)."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from gpumon.gpu.xid import XidLog

KMSG = Path("/dev/kmsg")

# One read gives one record, of at most 8 KiB (CONSOLE_EXT_LOG_MAX of older kernels, newer ones need less).
_RECORD_BYTES = 8192
# Reads before the loop gets its turn again; it calls back while there is more.
_READS_AT_ONCE = 64

# "priority,number,microseconds,flags;text". The text of the driver is, in this order of its history:
# NVRM: Xid (0000:03:00): 14, …   NVRM: Xid (PCI:0000:3b:00): 79, …   NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, …
_XID = re.compile(rb"\d+,\d+,\d+,[^;]*;NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)(?: [^)]*)?\): (\d{1,5}),")

_ADVICE = {
    errno.ENOENT: "does not exist here; in a container, pass the host's /dev/kmsg in",
    errno.EACCES: "may not be read; run gpumon as root or add it to the file's group",
    errno.EPERM: "may not be read; give gpumon CAP_SYSLOG, or set the sysctl kernel.dmesg_restrict to 0",
}


def parse_xid(record: bytes) -> tuple[str, int] | None:
    """Give PCI address and code of the XID a record of the kernel log reports; None when it reports none."""
    match = _XID.match(record)
    return None if match is None else (match[1].decode("ascii"), int(match[2]))


class KernelLog:
    """Feeds a XidLog from the kernel log, from `start` to `close`. Belongs to one event loop.

    Only what is logged after the start counts. Nothing but PCI address and code is kept: a record may name a process.
    What root writes into /dev/kmsg counts as well, so that alerts can be tried out.
    """

    def __init__(self, xids: XidLog, path: Path = KMSG, *, clock: Callable[[], float] = time.time) -> None:
        self.problem: str | None = None  # why it is not read, in one sentence
        self.overruns = 0  # times the kernel overwrote records that were not read yet
        self._xids = xids
        self._path = path
        self._clock = clock
        self._fd: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rest = b""

    def start(self) -> bool:
        """Begin to read; False when that cannot be, `problem` says why. Call on the loop."""
        self._loop = asyncio.get_running_loop()
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._skip_history()
        except OSError as error:
            self._fail(error)
            return False
        try:
            self._loop.add_reader(self._fd, self._read)
        except PermissionError:  # epoll's word for what cannot be waited on; clusters of kind put /dev/null there
            self.problem = f"{self._path} is not the kernel log; in a container, pass the host's /dev/kmsg in"
            self.close()
            return False
        return True

    def close(self) -> None:
        """Stop reading. Call on the loop."""
        if self._fd is not None and self._loop is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
        self._fd = None

    def _skip_history(self) -> None:
        assert self._fd is not None
        try:
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            if error.errno != errno.ESPIPE:  # a pipe has no history
                raise

    def _fail(self, error: OSError) -> None:
        advice = _ADVICE.get(error.errno or 0, f"cannot be read: {error.strerror}")
        self.problem = f"{self._path} {advice}"
        self.close()

    def _read(self) -> None:
        assert self._fd is not None
        for _ in range(_READS_AT_ONCE):
            try:
                data = os.read(self._fd, _RECORD_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EPIPE:
                    self.overruns += 1  # the next read gives the oldest record there still is
                    continue
                self._fail(error)
                return
            if not data:
                self.problem = f"{self._path} has ended"
                self.close()
                return
            self._take(data)

    def _take(self, data: bytes) -> None:
        *lines, rest = (self._rest + data).split(b"\n")
        # A line without end is no record.
        self._rest = rest if len(rest) <= _RECORD_BYTES else b""
        for line in lines:
            xid = parse_xid(line)  # continuation lines ("; KEY=value") begin with a space and are none
            if xid is not None:
                self._xids.seen(*xid, self._clock(), "kmsg")
