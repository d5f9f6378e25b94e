"""Whether the daemon does its work."""

from __future__ import annotations

import time
from pathlib import Path

from gpumon.daemon import Daemon

# Without a new snapshot for so many ticks, and at least so many seconds, the sampler is taken for dead.
DEAD_TICKS, DEAD_SECONDS = 10, 30.0


def trouble(daemon: Daemon) -> str | None:
    """Give why the service should be restarted, None while it should not."""
    settings = daemon.settings
    hung = daemon.gpu.hung_seconds()
    if hung > settings.gpu.hung_limit_secs:
        return f"a GPU driver call has not returned for {hung:.0f} s"
    snapshot = daemon.hub.latest
    since = time.monotonic() - (daemon.started_monotonic if snapshot is None else snapshot.monotonic)
    if since > max(DEAD_TICKS * settings.service.poll_interval_secs, DEAD_SECONDS):
        return f"no snapshot for {since:.0f} s"
    return None


def data_dir_trouble(data_dir: Path) -> str | None:
    """Give why gpumon could not keep files in `data_dir`, None when it could; creates the folder."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        probe = data_dir / ".gpumon-writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return f"{error.strerror or error}"
    return None
