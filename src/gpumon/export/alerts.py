"""Alerts: looks at every snapshot for what is wrong, and tells the log, the history and whoever the settings name."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import unquote

from gpumon.catalog import ALERTING, Entity
from gpumon.catalog.alert import SEVERITIES
from gpumon.catalog.records import Event
from gpumon.export.alerts_outbox import Outbox, Target
from gpumon.export.alerts_rule import Rule
from gpumon.export.alerts_settings import rules
from gpumon.export.alerts_watch import Incident, Watch
from gpumon.export.otlp_resource import FROM_ENVIRONMENT
from gpumon.hub import Hub
from gpumon.log import Logger, Onsets
from gpumon.settings import Settings, SettingsError

# So much longer than the interval a snapshot may take before its age is looked at.
LATE_TICKS = 1.5
# What a driver may take to wake its GPUs before the first snapshot is missed.
START_SECS = 30.0
# gpumon has 3 s to end; what began in the last moment is told meanwhile, where somebody listens.
FLUSH_SECS = 1.0
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # HTTP's form of a name


class Alerts:
    """Looks for alerts and sends them on. `record` takes the events for the history."""

    def __init__(
        self,
        looked_for: Sequence[Rule],
        told: Sequence[Target],
        hub: Hub,
        logger: Logger,
        *,
        interval: float,
        log: bool = True,
        record: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self.watch = Watch(looked_for)
        self._hub = hub
        self._logger = logger
        self._interval = interval
        self._log = log
        self._record = record
        self._evaluation_seconds: float | None = None
        self._onsets = Onsets(logger)
        chance = random.Random()  # noqa: S311 - spreads load, guards nothing
        self._outboxes = [Outbox(target, self._active, onsets=self._onsets, chance=chance) for target in told]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; on the loop of the hub."""
        work = [self._look(), self._look_at_age(), *(outbox.run() for outbox in self._outboxes)]
        self._tasks = [asyncio.create_task(each) for each in work]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """End; what waits is tried once more, for a moment."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        waiting = [outbox.attempt() for outbox in self._outboxes if outbox.news]
        try:
            async with asyncio.timeout(FLUSH_SECS):
                await asyncio.gather(*waiting)
        except TimeoutError:
            pass
        await asyncio.gather(*(outbox.target.close() for outbox in self._outboxes), return_exceptions=True)

    def entities(self) -> Iterator[Entity]:
        """Give the alerts that are active and how they are sent, for the next snapshot."""
        active = self._active()
        firing = [float(sum(incident.alert.severity == severity for incident in active)) for severity in SEVERITIES]
        started = [float(self.watch.started[severity]) for severity in SEVERITIES]
        yield from self.watch.entities()
        yield Entity(ALERTING, (), (*firing, *started, float(self.watch.left_out), self._evaluation_seconds))
        yield from (outbox.entity() for outbox in self._outboxes)

    def tell(self, incidents: Sequence[Incident]) -> None:
        """Tell everyone what began and ended."""
        for incident in incidents:
            if self._log:
                say = self._logger.info if incident.ended is not None else self._logger.warning
                say(
                    "alert is over" if incident.ended is not None else "alert",
                    alert=incident.alert.name,
                    severity=incident.alert.severity,
                    message=incident.message,
                )
            self._record(event(incident))
        if incidents:
            for outbox in self._outboxes:
                outbox.put(incidents)

    def _active(self) -> list[Incident]:
        return list(self.watch.active())

    async def _look(self) -> None:
        async for snapshot in self._hub:
            began = time.perf_counter()
            try:
                self.tell(self.watch.take(snapshot))
            except Exception as defect:  # noqa: BLE001 - a defect in one look must not end those that come
                self._onsets.fail("look", "looking for alerts failed", error=f"{type(defect).__name__}: {defect}")
            self._evaluation_seconds = time.perf_counter() - began

    async def _look_at_age(self) -> None:
        """See to it that the end of snapshots is noticed, of which no snapshot tells."""
        first = time.monotonic() + START_SECS
        while True:
            await asyncio.sleep(self._interval)
            now, latest = time.monotonic(), self._hub.latest
            age = now - (first if latest is None else latest.monotonic)
            if age > LATE_TICKS * self._interval:
                self.tell(self.watch.take_age(age, time.time(), now))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._logger.error("alerts are no longer looked for or sent", exc_info=task.exception())


def make(
    settings: Settings, hub: Hub, *, environ: Mapping[str, str], logger: Logger, record: Callable[[Event], None]
) -> Alerts:
    """Give what looks for the alerts of the settings; `record` takes the events for the history.

    SettingsError says in one sentence which setting is wrong.
    """
    return Alerts(
        rules(settings),
        targets(settings, environ),
        hub,
        logger,
        interval=settings.service.poll_interval_secs,
        log=settings.alerts.log,
        record=record,
    )


def sender(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """Give the labels that say which machine an alert is from: in Kubernetes the node, since a pod's name is its own."""
    found = {
        name: next((environ[variable] for variable in FROM_ENVIRONMENT[attribute] if environ.get(variable)), "")
        for name, attribute in (("host", "k8s.node.name"), ("cluster", "k8s.cluster.name"))
    }
    host = settings.kubernetes.node_name or found["host"] or socket.gethostname()
    return {"host": host} | ({"cluster": found["cluster"]} if found["cluster"] else {})


def targets(settings: Settings, environ: Mapping[str, str]) -> list[Target]:
    """Give the places that the settings name. SettingsError says in one sentence what is wrong."""
    alerts = settings.alerts
    found: list[Target] = []
    origin = sender(settings, environ)
    headers = _headers(alerts.webhook_headers)
    if alerts.webhook_url or alerts.alertmanager_urls:
        from gpumon.export.alerts_http import Alertmanager, Webhook

        if alerts.webhook_url:
            found.append(Webhook(alerts.webhook_url, headers, alerts.webhook_bearer_token_file, origin))
        found.extend(
            Alertmanager(url, alerts.alertmanager_bearer_token_file, origin, alerts.resend_secs)
            for url in alerts.alertmanager_urls.split()
        )
    if alerts.enable_desktop_notifications:
        from gpumon.export.alerts_dbus import Desktop

        found.append(Desktop(environ))
    return found


def _headers(text: str) -> dict[str, str]:
    """Give the headers of a list like `key=value,key2=value2`; an error tells no values, which are secrets."""
    headers = {}
    for entry in text.split(","):
        key, equals, value = entry.partition("=")
        if not entry.strip():
            continue
        words = unquote(value.strip())
        if not equals or not HEADER.fullmatch(key.strip()) or not (words.isascii() and words.isprintable()):
            raise SettingsError(
                "alerts.webhook_headers has an entry that is no header; allowed are those like X-Key=secret."
            )
        headers[key.strip()] = words
    return headers


def event(incident: Incident) -> Event:
    """Give the event for the history."""
    gpu = incident.labels.get("gpu_id", "")
    others = {name: text for name, text in incident.labels.items() if not name.startswith("gpu_")}
    facts: dict[str, object] = {
        **others,
        "alert": incident.alert.name,
        "severity": incident.alert.severity,
        "value": incident.value,
        "threshold": incident.threshold,
        "for_seconds": incident.alert.for_seconds,
    }
    if incident.ended is None and incident.advice:
        facts["advice"] = incident.advice
    if incident.ended is not None:
        facts["seconds"] = round(incident.seconds, 3)
    return Event(
        timestamp=incident.started if incident.ended is None else incident.ended,
        kind="alert_start" if incident.ended is None else "alert_end",
        message=incident.message,
        gpu_id=int(gpu) if gpu.isdigit() else None,
        gpu_uuid=incident.labels.get("gpu_uuid"),
        subject=incident.alert.name,
        detail=json.dumps(facts),
    )
