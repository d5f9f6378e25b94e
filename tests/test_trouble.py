"""What /healthz calls trouble."""

from __future__ import annotations

import time

import structlog

from gpumon.daemon import Daemon
from gpumon.gpu.source import GpuSource
from gpumon.gpu.xid import XidLog
from gpumon.health import trouble
from gpumon.settings import Settings

LOGGER = structlog.get_logger()


def daemon() -> Daemon:
    """Give a daemon without GPUs that has no snapshot yet."""
    made = Daemon(Settings(), LOGGER, None, "none")
    made.gpu = GpuSource(made.settings.gpu, None, LOGGER, interval=2.0, xids=XidLog())
    return made


def test_a_clock_that_is_set_at_the_start_is_no_trouble() -> None:
    """A node may boot in 1970, and be set right before the driver has woken its GPUs."""
    begun = daemon()
    begun.started = 0.0
    assert trouble(begun) is None


def test_no_first_snapshot_for_long_is_trouble() -> None:
    """Whatever the clock on the wall says."""
    begun = daemon()
    begun.started_monotonic = time.monotonic() - 31
    assert trouble(begun) == "no snapshot for 31 s"
