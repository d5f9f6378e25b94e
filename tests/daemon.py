"""Running gpumon as a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

# Only a service that does not do it at all takes so long.
PATIENCE = 30.0


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def environment(home: Path, port: int) -> dict[str, str]:
    """Give the environment of a gpumon that listens on loopback and leaves this machine's own files alone."""
    return {
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "GPUMON_TELEMETRY_METRICS_ADDRESS": "127.0.0.1",
        "GPUMON_TELEMETRY_METRICS_PORT": str(port),
        "GPUMON_API_ENABLED": "false",  # its port is the same for all; tests of the API give one
        "GPUMON_GPU_READ_KERNEL_LOG": "false",
    }


def until(
    process: subprocess.Popen[bytes],
    holds: Callable[[], object],
    why: Callable[[], str] = str,
    patience: float = PATIENCE,
) -> None:
    """Wait until something holds; the wait between looks is one for the end of the process, which fails the test."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < patience, why()
        try:
            pytest.fail(f"ended with exit code {process.wait(0.05)}")
        except subprocess.TimeoutExpired:
            pass
