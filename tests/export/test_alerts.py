"""From a snapshot to everyone who is told: the log, the history, the next snapshot, and places that may hang."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace

import structlog
from structlog.testing import capture_logs
from tests.export.alerts_made import entity
from tests.export.test_alerts_http import Server, serving

from gpumon.catalog import ALERT, ALERT_DELIVERY, ALERTING, GPU, Entity, Snapshot
from gpumon.catalog.alert import Setting
from gpumon.catalog.alerts import ALERTS
from gpumon.catalog.records import Event
from gpumon.export.alerts import FLUSH_SECS, Alerts, sender
from gpumon.export.alerts_http import Webhook
from gpumon.export.alerts_rule import Rule
from gpumon.export.alerts_settings import rules
from gpumon.hub import Hub
from gpumon.settings import Alerts as AlertSettings
from gpumon.settings import Kubernetes, Settings

OWN = json.dumps([{"name": "hot", "metric": "gpumon_gpu_temperature_celsius", "above": 80, "clear": 70}])


class Scene:
    """A hub with alerts that tell a webhook."""

    def __init__(self, server: Server, looked_for: Sequence[Rule] | None = None, interval: float = 60.0) -> None:
        settings = replace(Settings(), alerts=AlertSettings(rules=OWN))
        self.hub = Hub()
        self.events: list[Event] = []
        self.alerts = Alerts(
            rules(settings) if looked_for is None else looked_for,
            [Webhook(f"http://127.0.0.1:{server.port}/", {}, "", {})],
            self.hub,
            structlog.get_logger(),
            interval=interval,
            record=self.events.append,
        )
        self.alerts.start()
        self._number = 0

    def publish(self, temperature: float) -> None:
        """Publish a snapshot of one GPU."""
        self._number += 1
        gpu = (entity(GPU, temperature=temperature),)
        self.hub.publish(Snapshot(1000.0 + self._number, time.monotonic(), self._number, gpu))

    def own(self) -> dict[str, Entity]:
        """Give what the next snapshot would say of alerts, by kind."""
        return {each.kind.name: each for each in self.alerts.entities()}


async def holds(condition: Callable[[], object]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def run(work: Callable[[], Coroutine[object, object, None]]) -> list[str]:
    """Run a test on a loop; give what was logged."""
    with capture_logs() as lines:
        asyncio.run(work())
    return [f"{line['log_level']}: {line['event']}: {line.get('message', '')}" for line in lines]


def test_an_alert_is_logged_kept_shown_and_sent() -> None:
    """Its beginning and its end, each once, with its numbers."""

    async def work() -> None:
        async with serving() as server:
            scene = Scene(server)
            for temperature in (60.0, 81.0, 75.0):
                scene.publish(temperature)
                await asyncio.sleep(0)
            await holds(lambda: server.bodies)
            shown = scene.own()
            assert shown[ALERT.name].labels[0] == "hot"
            assert shown[ALERT.name]["value"] == 81.0
            assert shown[ALERTING.name]["firing_warning"] == shown[ALERTING.name]["started_warning_total"] == 1
            scene.publish(70.0)
            await holds(lambda: len(server.bodies) == 2)
            await holds(lambda: scene.own()[ALERT_DELIVERY.name]["sent_total"] == 2)
            assert ALERT.name not in scene.own()
            await scene.alerts.stop()
            begun, ended = scene.events
            assert (begun.kind, begun.subject, begun.gpu_id, begun.gpu_uuid) == ("alert_start", "hot", 0, "GPU-1")
            assert begun.timestamp == 1002.0
            assert json.loads(begun.detail or "") == {
                "alert": "hot",
                "severity": "warning",
                "value": 81.0,
                "threshold": 80.0,
                "for_seconds": 0.0,
            }
            assert (ended.kind, ended.timestamp) == ("alert_end", 1004.0)
            assert json.loads(ended.detail or "")["seconds"] == 2.0

    said = "gpumon_gpu_temperature_celsius (gpu_id 0)"
    assert run(work) == [
        f"warning: alert: {said}: 81, above 80",
        f"info: alert is over: {said}: over after 2 s",
    ]


def test_a_place_that_hangs_holds_up_nobody_and_ends_in_time() -> None:
    """Alerts go on being found while a message is under way, and gpumon ends."""

    async def work() -> None:
        async with serving(None) as server:
            scene = Scene(server)
            scene.publish(90.0)
            await holds(lambda: server.bodies)
            for i in range(4):
                scene.publish(90.0 if i % 2 else 60.0)
                await holds(lambda i=i: len(scene.events) == i + 2)
            assert scene.own()[ALERT_DELIVERY.name]["waiting"] == 5
            began = time.monotonic()
            await scene.alerts.stop()
            assert FLUSH_SECS <= time.monotonic() - began < FLUSH_SECS + 1

    run(work)


def test_what_began_in_the_last_moment_is_sent_before_the_end() -> None:
    """Stopping right after it loses nothing that somebody takes."""

    async def work() -> None:
        async with serving() as server:
            scene = Scene(server)
            scene.publish(90.0)
            await holds(lambda: scene.events)
            await scene.alerts.stop()
            assert len(server.bodies) >= 1

    run(work)


def test_the_end_of_snapshots_is_noticed() -> None:
    """By itself, when none has come for three ticks."""
    (stale,) = [alert for alert in ALERTS if alert.name == "sampling_stale"]
    assert isinstance(stale.above, Setting)

    async def work() -> None:
        async with serving() as server:
            scene = Scene(server, [Rule(stale, 0.06)], interval=0.02)
            scene.publish(60.0)
            await holds(lambda: scene.events)
            assert scene.events[0].message.startswith("gpumon has no fresh readings")
            await scene.alerts.stop()

    run(work)


def test_the_node_s_name_is_sent_along() -> None:
    """As Kubernetes has it, where it says so; a pod's own name says nothing."""
    assert sender(Settings(), {"NODE_NAME": "worker-3", "CLUSTER_NAME": "prod"}) == {
        "host": "worker-3",
        "cluster": "prod",
    }
    assert sender(Settings(), {}) == {"host": socket.gethostname()}
    named = replace(Settings(), kubernetes=Kubernetes(node_name="worker-4"))
    assert sender(named, {"NODE_NAME": "worker-3"})["host"] == "worker-4"


def test_a_defect_in_one_look_does_not_end_those_that_come() -> None:
    """It is said once; the next snapshots are looked at."""

    async def work() -> None:
        async with serving() as server:
            scene = Scene(server)
            scene.hub.publish(Snapshot(1.0, 1.0, 1, (Entity(GPU, ("0",), ()),)))  # no entity is like that
            await asyncio.sleep(0)
            scene.publish(90.0)
            await holds(lambda: scene.events)
            await scene.alerts.stop()

    assert "warning: looking for alerts failed: " in run(work)
