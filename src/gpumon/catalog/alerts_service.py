"""Alerts of model servers, and of gpumon itself: its readings, its history, what it sends."""

from __future__ import annotations

from gpumon.catalog.alert import ALERT_DELIVERY, MINUTE, RESTART_SECONDS, Alert, Look, Setting, of
from gpumon.catalog.health import AGE, DAEMON, EXPORT, SOURCE
from gpumon.catalog.llm import LLM_SERVER
from gpumon.catalog.model import EntityKind
from gpumon.catalog.process import POD_NAMES
from gpumon.catalog.proxy import LLM_PROXY
from gpumon.catalog.storage import ARCHIVE, STORAGE, STORAGE_TABLE


def _down(name: str, severity: str, kind: EntityKind, column: str, summary: str, numbers: str, advice: str) -> Alert:
    return Alert(
        name=name,
        severity=severity,
        kind=kind,
        measures=of(column),
        below=1,
        for_seconds=RESTART_SECONDS,
        clear_seconds=MINUTE,
        summary=summary,
        numbers=numbers,
        advice=advice,
    )


def _counted(
    name: str,
    kind: EntityKind,
    column: str,
    summary: str,
    advice: str,
    *,
    severity: str = "warning",
    together: bool = False,
) -> Alert:
    return Alert(
        name=name,
        severity=severity,
        kind=kind,
        measures=of(column),
        look=Look.INCREASE,
        window_seconds=RESTART_SECONDS,
        above=0,
        summary=summary,
        numbers="{value:.0f} in the last 5 minutes",
        advice=advice,
        together=together,
    )


SERVERS = (
    _down(
        "model_server_down",
        "warning",
        LLM_SERVER,
        "up",
        "The model server {server} does not answer",
        "{kind}",
        "Look at the server's log and whether its process is there; it may be loading a model.",
    ),
    _counted(
        "proxy_unreachable",
        LLM_PROXY,
        "unreachable_total",
        "Clients of the proxy were told that the model server {server} cannot be reached",
        "Look at the server; its clients got status 502.",
    ),
    _counted(
        "proxy_full",
        LLM_PROXY,
        "refused_total",
        "The proxy before {server} had to turn clients away",
        "Raise proxy.max_connections, or look for clients that do not close their connections.",
    ),
    _down(
        "kubelet_unreachable",
        "warning",
        POD_NAMES,
        "up",
        "The kubelet does not tell which pod has which GPU",
        "{reason}",
        "Look at the mount of kubernetes.pod_resources_socket; until then pods are named by their cgroups or not at all.",
    ),
)

OWN = (
    Alert(
        name="sampling_stale",
        severity="critical",
        kind=AGE,
        measures=of("snapshot_age_seconds"),
        above=Setting("service.poll_interval_secs", 3),  # what is older is not served any more
        clear_seconds=MINUTE,
        summary="gpumon has no fresh readings",
        numbers="the newest are {value:.0f} s old, more than {threshold:.0f} s",
        advice="Look at gpumon's log and at /healthz; GPUs may hang, or the machine has no CPU time to give.",
    ),
    Alert(
        name="sampling_late",
        severity="warning",
        kind=DAEMON,
        measures=of("late_ticks_total"),
        look=Look.INCREASE,
        window_seconds=RESTART_SECONDS,
        above=15,  # a tenth of all at the default interval
        hysteresis=10,
        summary="gpumon cannot keep up with its interval",
        numbers="{value:.0f} ticks left out in the last 5 minutes, above {threshold:.0f}",
        advice="Give gpumon more CPU time, or raise service.poll_interval_secs.",
    ),
    Alert(
        name="source_failing",
        severity="warning",
        kind=SOURCE,
        measures=of("success"),
        below=1,
        unless={"source": "^gpu$"},  # a GPU that is down has an alert of its own
        for_seconds=MINUTE,
        clear_seconds=MINUTE,
        summary="The source {source} cannot take its readings",
        numbers="for a minute",
        advice="gpumon's log says why.",
    ),
    Alert(
        name="storage_failing",
        severity="critical",
        kind=STORAGE,
        measures=of("up"),
        below=1,
        for_seconds=MINUTE,
        clear_seconds=MINUTE,
        summary="History cannot be written",
        numbers="it is kept in memory, and lost if that lasts",
        advice="Look at the volume of service.data_dir: full, read-only or gone; gpumon's log says which.",
    ),
    Alert(
        name="storage_disk_filling",
        severity="warning",
        kind=STORAGE,
        measures=of("volume_free_bytes", "volume_size_bytes"),
        below=10,  # a day or more at any pace at which gpumon writes
        hysteresis=1,
        for_seconds=RESTART_SECONDS,  # files of others come and go
        clear_seconds=MINUTE,
        summary="The volume of the history is nearly full",
        numbers="{value:.1f} % left, below {threshold:.0f} %",
        advice="Make room, or lower storage.retention_days or storage.max_disk_bytes.",
    ),
    _counted(
        "storage_dropping",
        STORAGE_TABLE,
        "dropped_rows_total",
        "History is being lost: rows could not be written for longer than memory holds",
        "Look at the volume of service.data_dir: full, read-only or gone; gpumon's log says which.",
        severity="critical",
        together=True,
    ),
    Alert(
        name="archive_failing",
        severity="warning",
        kind=ARCHIVE,
        measures=of("success"),
        below=1,  # it runs once an hour: one failure is worth saying
        clear_seconds=MINUTE,
        summary="Old history cannot be moved to the archive",
        numbers="the last run failed",
        advice="The event of the run says why; until it succeeds the database grows.",
    ),
    _down(
        "export_failing",
        "warning",
        EXPORT,
        "success",
        "Readings cannot be sent ({exporter})",
        "for 5 minutes",
        "Look at the collector and at telemetry.otlp_endpoint; gpumon's log says what it answers.",
    ),
    _down(
        "alert_delivery_failing",
        "warning",
        ALERT_DELIVERY,
        "success",
        "Alerts cannot be sent ({target} {address})",
        "for 5 minutes",
        "Look at what listens there; gpumon's log says what it answers.",
    ),
)
