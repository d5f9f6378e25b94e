"""gpumon's alerts in a real Alertmanager: taken, shown, ended; and its webhook's message is of the form of ours."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.daemon import PATIENCE, environment, free_port, until
from tests.export.test_alerts_http import serving
from tests.export.test_alerts_outbox import incident

from gpumon.export.alerts_http import Alertmanager, Webhook
from gpumon.export.alerts_watch import Incident

pytestmark = pytest.mark.e2e

CONFIG = """
route: {{receiver: hook, group_wait: 0s, group_interval: 1s, group_by: ["..."]}}
receivers: [{{name: hook, webhook_configs: [{{url: "http://127.0.0.1:{port}/", send_resolved: true}}]}}]
"""
# Debian's package calls it by the first name, Prometheus's own archive by the second.
PROGRAMS = ("prometheus-alertmanager", "alertmanager")


class Running:
    """An Alertmanager, and the port its webhook calls."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, hook: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.hook = hook

    def alerts(self) -> list[Any] | None:
        """Give the alerts it shows; None while it does not answer."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v2/alerts", timeout=10) as answer:
                return list(json.load(answer))
        except OSError:
            return None

    def until(self, count: int) -> list[Any]:
        """Wait until it shows so many alerts, and give them."""
        until(self.process, lambda: len(self.alerts() or ()) == count and self.alerts() is not None)
        return self.alerts() or []


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Running]:
    """Run one."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("alerts are NOT tested with a real Alertmanager (Debian package prometheus-alertmanager)")
    port, hook = free_port(), free_port()
    (tmp_path / "am.yml").write_text(CONFIG.format(port=hook))
    command = [
        program,
        f"--config.file={tmp_path}/am.yml",
        f"--storage.path={tmp_path}/am",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=tmp_path) as process:
        try:
            running = Running(process, port, hook)
            until(process, lambda: running.alerts() is not None)
            yield running
        finally:
            process.kill()


def now(*, ended: bool = False) -> Incident:
    """Give an alert that began a minute ago."""
    began = time.time() - 60
    made = incident(0, ended=time.time() if ended else None)
    return Incident(
        alert=made.alert, labels=made.labels, words=made.words, value=91, threshold=85, started=began, ended=made.ended
    )


def test_an_alert_is_shown_while_it_is_active_and_not_after_its_end(alertmanager: Running) -> None:
    """With its labels and words; its end comes with the end of the alert, not when it is forgotten."""

    async def send(*, ended: bool) -> None:
        target = Alertmanager(alertmanager.url, "", {"host": "node-1"}, 60.0)
        await target.send([now(ended=ended)], [] if ended else [now()])
        await target.close()

    asyncio.run(send(ended=False))
    (alert,) = alertmanager.until(1)
    assert alert["labels"]["alertname"] == "gpu_temperature"
    assert alert["labels"]["host"] == "node-1"
    assert alert["annotations"]["description"] == "GPU 0 is hot: 91 °C, above 85 °C"
    assert alert["status"]["state"] == "active"
    asyncio.run(send(ended=True))
    alertmanager.until(0)


def test_our_webhook_s_message_has_the_form_of_alertmanager_s(alertmanager: Running) -> None:
    """A receiver that was written for the one can read the other: the same keys with values of the same types."""

    def form(value: object) -> object:
        if isinstance(value, dict):
            return {key: form(member) for key, member in value.items() if key not in ("labels", "annotations")}
        return [form(value[0])] if isinstance(value, list) else type(value).__name__

    async def work() -> tuple[Any, Any]:
        async with serving(port=alertmanager.hook) as theirs, serving() as ours:
            target = Alertmanager(alertmanager.url, "", {"host": "node-1"}, 60.0)
            await target.send([], [now()])
            await target.close()
            async with asyncio.timeout(PATIENCE):
                await theirs.asked.wait()
            webhook = Webhook(f"http://127.0.0.1:{ours.port}/", {}, "", {"host": "node-1"})
            await webhook.send([now()], [])
            await webhook.close()
        return theirs.bodies[0], ours.bodies[0]

    theirs, ours = asyncio.run(work())
    for message in (theirs, ours):  # what stands in them is each one's own
        for key in ("groupLabels", "commonLabels", "commonAnnotations"):
            assert isinstance(message.pop(key), dict)
    for alert in theirs["alerts"]:
        alert.pop("fingerprint")  # Alertmanager's own name for an alert
    assert form(ours) == form(theirs)


def test_a_whole_gpumon_tells_alertmanager(alertmanager: Running, tmp_path: Path) -> None:
    """From a reading to the alert that is shown, within seconds."""
    port = free_port()
    variables = environment(tmp_path, port) | {
        "GPUMON_ALERTS_ALERTMANAGER_URLS": alertmanager.url,
        "GPUMON_ALERTS_RULES": json.dumps(
            [{"name": "few_gpus", "metric": "gpumon_gpu_count", "below": 8, "message": "GPUs are missing"}]
        ),
        "GPUMON_STORAGE_ENABLED": "false",
        "PATH": os.environ["PATH"],
    }
    command = [sys.executable, "-m", "gpumon", "run", "--simulate", "rtx4090x1"]
    with subprocess.Popen(command, env=variables, stderr=subprocess.DEVNULL) as process:
        try:
            (alert,) = alertmanager.until(1)
            assert alert["labels"]["alertname"] == "few_gpus"
            assert alert["annotations"]["description"] == "GPUs are missing: 1, below 8"
        finally:
            process.terminate()
            assert process.wait(PATIENCE) == 0
