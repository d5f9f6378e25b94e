"""The API of a whole gpumon: what a script, a page and somebody who comes too late get from it."""

from __future__ import annotations

import json
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests import stub
from tests.daemon import environment, free_port, until
from tests.test_service import GPUS, library, serving

__all__ = ["library"]  # the fixture


class Api:
    """The API of a running gpumon."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str) -> Any:
        """Give what a path answers; nothing while nobody listens, or while there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.HTTPError, OSError):
            return {}

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Give the events of a kind so far."""
        found: list[dict[str, Any]] = self.get(f"/api/events?kind={kind}").get("events", [])
        return found


@pytest.fixture
def api() -> Api:
    """Give an API on a free port."""
    return Api(free_port())


@pytest.fixture
def running(library: Path, tmp_path: Path, api: Api) -> Iterator[Any]:
    """Give gpumon over a driver in C."""
    with serving(library, tmp_path, interval=1, GPUMON_API_PORT=str(api.port), GPUMON_API_ENABLED="true") as service:
        yield service


def test_a_lost_gpu_is_told_by_the_api_with_what_it_did_before(running: Any, api: Api) -> None:
    """Through the driver, the tick, the store and the API: an event that explains itself, and the present that has no readings."""
    until(running.process, lambda: len(api.get("/api/info").get("gpus", ())) == GPUS)
    stub.order(running.control, "xid 1 79", "lost 1")
    until(running.process, lambda: api.events("device_lost") and api.events("xid"))
    lost = api.events("device_lost")[0]  # a busy machine may have made a GPU hang before
    assert lost["message"].startswith("GPU 1 does not answer: GPU_IS_LOST; ")
    assert lost["gpu_id"] == 1
    assert lost["detail"]["readings_before"]["power"] > 0
    assert lost["advice"]
    xid = api.events("xid")[0]
    assert xid["message"].startswith("XID 79 on GPU 1: GPU has fallen off the bus")
    assert "restart the node" in xid["advice"]
    down = [gpu for gpu in api.get("/api/info")["gpus"] if not gpu["up"]]
    assert [(gpu["gpu_id"], gpu["reason"]) for gpu in down] == [(1, "GPU_IS_LOST")]
    assert [gpu["gpu_id"] for gpu in api.get("/api/realtime")["entities"]["gpu"]] == ["0", "2"]
    stub.order(running.control)
    until(running.process, lambda: api.events("device_back"))
    assert " answers again after " in api.events("device_back")[0]["message"]


def test_gpumon_ends_at_once_while_the_stream_is_read(running: Any, api: Api) -> None:
    """Readers are not waited for."""
    until(running.process, lambda: api.get("/api/realtime"))
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as reader:
        reader.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        while b"event: snapshot" not in received:
            received += reader.recv(65536)
        started = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 0
        assert time.monotonic() - started < 3


def test_a_port_that_is_taken_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    """It names the setting."""
    import subprocess
    import sys

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        variables = environment(tmp_path, free_port()) | {"GPUMON_API_ENABLED": "true", "GPUMON_API_PORT": str(port)}
        done = subprocess.run(
            [sys.executable, "-m", "gpumon", "run", "--simulate", "rtx4090x1"],
            env=variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert f"gpumon: Port {port} on 127.0.0.1 is in use by another program; set api.port to a free one." in done.stderr
    assert "Traceback" not in done.stderr
