"""A child process that may hang: its output is bounded, and it can be left behind without holding anything up."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from typing import cast

# A node of 16 GPUs makes about 30 kB.
MOST_BYTES = 1 << 20


class Child(asyncio.SubprocessProtocol):
    """One run of a command. `over` is done once the process is gone and both of its pipes are closed.

    A protocol of its own: asyncio.subprocess gives no way to let go of the pipes of a process that will not die.
    """

    def __init__(self) -> None:
        self.ended = False  # the process is gone
        self.too_much = False  # it wrote more than MOST_BYTES and was killed
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.SubprocessTransport | None = None
        self._output = {1: bytearray(), 2: bytearray()}

    async def start(self, command: str, arguments: tuple[str, ...], environment: Mapping[str, str]) -> None:
        """Start the command in a session of its own. Raises OSError."""
        await asyncio.get_running_loop().subprocess_exec(
            lambda: self,
            command,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            env=dict(environment),
            start_new_session=True,
        )

    @property
    def code(self) -> int | None:
        """Give the exit code, the negative signal number, or None while the process runs."""
        return None if self._transport is None else self._transport.get_returncode()

    def text(self, descriptor: int) -> str:
        """Give what was written to standard output (1) or standard error (2)."""
        return self._output[descriptor].decode("utf-8", "replace")

    def kill(self) -> None:
        """Close the pipes and kill the process and what it started; does not wait for that."""
        if self._transport is None:
            return
        self._transport.close()
        try:
            os.killpg(self._transport.get_pid(), signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # all gone already, or under another user by now

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep what was written."""
        if len(self._output[fd]) + len(data) > MOST_BYTES:
            self.too_much = True
            self.kill()
        else:
            self._output[fd] += data

    def process_exited(self) -> None:
        """Note that the process is gone; what it started may still hold the pipes open."""
        self.ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that all is over."""
        if self._transport is not None:
            self._transport.close()
        if not self.over.done():
            self.over.set_result(None)
