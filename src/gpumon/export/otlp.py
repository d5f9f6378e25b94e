"""OTLP: sends the newest snapshot, and spans when asked to, to an OpenTelemetry collector, on a thread of its own.

Neither grpc nor opentelemetry is imported before there is a collector to send to.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Mapping
from time import monotonic

from gpumon.catalog import Entity, Snapshot
from gpumon.export import otlp_resource
from gpumon.export.exposition import STALE_TICKS
from gpumon.export.otlp_flow import Collect, Flow
from gpumon.export.otlp_target import delta, resolve
from gpumon.log import Logger, Onsets
from gpumon.settings import Settings
from gpumon.trace import Off, Recorder

# gpumon has 3 s to end; the last flush gets most of it, the rest is for everything else.
FLUSH_SECS, STOP_SECS = 2.0, 2.5

# The label each signal's own metrics carry.
EXPORTERS = {"metrics": "otlp", "traces": "otlp_traces"}


class Otlp:
    """The export thread and its flows."""

    def __init__(self, flows: tuple[Flow, ...], recorder: Recorder | Off) -> None:
        self._flows = flows
        self._recorder = recorder
        self._stopping = threading.Event()
        self._flushing = False
        self._lock = threading.Lock()
        # A daemon: whatever a collector or a name server does, gpumon can end.
        self._thread = threading.Thread(target=self._run, name="gpumon-otlp", daemon=True)
        self._thread.start()

    def entities(self) -> tuple[Entity, ...]:
        """Give how the exports fare, for the next snapshot."""
        return tuple(flow.entity for flow in self._flows)

    def stop(self, at_most: float = STOP_SECS) -> bool:
        """End what is under way, try to send what is newest once more, and say whether the thread ended in time."""
        self._stopping.set()
        deadline = monotonic() + at_most
        while True:
            self._thread.join(0.1)  # what is under way to a collector that is well has ended by then
            if not self._thread.is_alive() or monotonic() > deadline:
                return not self._thread.is_alive()
            with self._lock:
                if not self._flushing:
                    self._close()

    def _run(self) -> None:
        while not self._stopping.wait(max(0.0, min(flow.due for flow in self._flows) - monotonic())):
            for flow in self._flows:
                if flow.due <= monotonic() and not self._stopping.is_set():
                    with self._recorder.span("export", {"exporter": flow.exporter}):
                        flow.export()
        with self._lock:
            self._flushing = True
        deadline = monotonic() + FLUSH_SECS
        for flow in self._flows:
            flow.export(deadline - monotonic())
        self._close()

    def _close(self) -> None:
        for flow in self._flows:
            flow.close()


def start(
    settings: Settings,
    latest: Callable[[], Snapshot | None],
    *,
    environ: Mapping[str, str],
    version: str,
    started: float,
    logger: Logger,
    recorder: Recorder | Off,
) -> Otlp | None:
    """Start exporting, or give None and say so when it is switched off or no collector is named.

    `latest` gives the newest snapshot and is called on the export thread; `started` is the Unix time gpumon started.
    SettingsError says in one sentence which setting or variable is wrong.
    """
    telemetry = settings.telemetry
    if not telemetry.enable_opentelemetry or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        logger.info("otlp is switched off")
        return None
    ways = {"metrics": resolve("metrics", telemetry.otlp_endpoint, environ)}
    if isinstance(recorder, Recorder):
        ways["traces"] = resolve("traces", telemetry.otlp_endpoint, environ)
    targets = {signal: target for signal, target in ways.items() if target is not None}
    if not targets:
        logger.info("otlp exports nothing", reason="no telemetry.otlp_endpoint and no OTEL_EXPORTER_OTLP_ENDPOINT")
        return None
    attributes = otlp_resource.attributes(
        environ, version=version, hostname=socket.gethostname(), port=telemetry.metrics_port
    )
    differences = delta(environ)

    # Here and not above, so that gpumon without a collector does without them.
    from gpumon.export import otlp_metrics, otlp_signal, otlp_spans

    sender = otlp_signal.sender(attributes, version)
    own = telemetry.otlp_names == "prometheus"
    encoder = otlp_metrics.Encoder(sender, started, delta=differences, own=own)
    stale_secs = STALE_TICKS * settings.service.poll_interval_secs
    collect: dict[str, Collect] = {"metrics": otlp_metrics.newest(latest, encoder, stale_secs)}
    if isinstance(recorder, Recorder):
        collect["traces"] = otlp_spans.finished(recorder, sender)
    onsets, chance = Onsets(logger), random.Random()  # noqa: S311 - spreads load, guards nothing
    flows = []
    for signal, target in targets.items():
        logger.info("otlp exports", signal=signal, to=target.address, protocol=target.protocol, tls=target.secure)
        flow = Flow(
            EXPORTERS[signal],
            otlp_signal.transport(target, signal),
            collect[signal],
            interval=telemetry.otlp_interval_secs,
            timeout=target.timeout,
            onsets=onsets,
            chance=chance,
        )
        flows.append(flow)
    return Otlp(tuple(flows), recorder)
