"""Every alert gpumon raises by itself. To add one, add a row here; `gpumon docs` writes it into docs/alerts.md."""

from __future__ import annotations

from gpumon.catalog.alert import ALERT_DELIVERY, Alert, Guard, Look, Measure, Setting
from gpumon.catalog.gpu import FAN, GPU, GPU_XID, NVLINK
from gpumon.catalog.health import AGE, DAEMON, EXPORT, GPU_DOWN, GPU_HEALTH, SOURCE
from gpumon.catalog.llm import LLM_SERVER
from gpumon.catalog.model import EntityKind
from gpumon.catalog.process import POD_NAMES
from gpumon.catalog.proxy import LLM_PROXY
from gpumon.catalog.storage import ARCHIVE, STORAGE, STORAGE_TABLE

MINUTE = 60.0
# Long enough that what happened is still seen by who looks after a meeting, and that repetitions are one alert.
FAULT_SECONDS = 3600.0
# What a server, a collector or a disk may take to restart without anyone being told.
RESTART_SECONDS = 300.0
# Codes by which the driver reports what an application did wrong (`gpumon.gpu.xid_codes`); all others are of the device.
APPLICATION_XIDS = "^(8|11|13|31|32|43|45|68|69)$"


def _one(column: str, of: str | None = None) -> tuple[Measure, ...]:
    return (Measure((column,), of=of),)


HEAT_AND_MEMORY = (
    Alert(
        name="gpu_temperature",
        severity="warning",
        kind=GPU,
        measures=_one("temperature"),
        above=Setting("alerts.temp_threshold_celsius"),
        hysteresis=5,  # a load that comes and goes moves the die by about this much within a minute
        for_seconds=MINUTE,
        clear_seconds=MINUTE,
        summary="GPU {gpu_id} is hot",
        numbers="{value:.0f} °C, above {threshold:.0f} °C",
        advice="Look at air flow, fans and the intake temperature; the GPU slows itself down if it gets hotter.",
    ),
    Alert(
        name="gpu_temperature_limit",
        severity="critical",
        kind=GPU,
        measures=(
            Measure(("temperature_margin_celsius",), less=("temperature_margin_threshold_slowdown_celsius",)),
            Measure(("temperature_threshold_slowdown_celsius",), less=("temperature",)),
        ),
        below=2,  # sensors tell whole degrees: one more, and it has begun
        hysteresis=3,
        for_seconds=30,
        clear_seconds=MINUTE,
        summary="GPU {gpu_id} is about to be slowed down by its heat",
        numbers="{value:.0f} °C left to its slowdown threshold, below {threshold:.0f} °C",
        advice="Take load off the GPU and look at its cooling now; at its shutdown threshold it turns itself off.",
    ),
    Alert(
        name="gpu_memory_temperature",
        severity="warning",
        kind=GPU,
        measures=(Measure(("temperature_threshold_memory_max_celsius",), less=("memory_temperature_celsius",)),),
        below=2,
        hysteresis=3,
        for_seconds=MINUTE,
        clear_seconds=MINUTE,
        summary="The memory of GPU {gpu_id} is hot",
        numbers="{value:.0f} °C left to its limit, below {threshold:.0f} °C",
        advice="Look at air flow and fans; memory that hot is slowed down and ages faster.",
    ),
    Alert(
        name="gpu_memory",
        severity="info",  # a model server takes 90 % and more on purpose
        kind=GPU,
        measures=_one("memory_used", of="memory_total"),
        above=Setting("alerts.memory_threshold_percent"),
        hysteresis=2,
        for_seconds=MINUTE,
        clear_seconds=MINUTE,
        summary="The memory of GPU {gpu_id} is nearly full",
        numbers="{value:.1f} % in use, above {threshold:.0f} %",
        advice="Look at which processes hold it (/api/processes); what is started next may run out of memory.",
    ),
    Alert(
        name="gpu_fan_stopped",
        severity="critical",
        kind=FAN,
        measures=_one("fan_speed_percent"),
        below=1,
        # Cards that are silent when idle start their fans at 50 to 60 °C.
        guard=Guard(GPU, "temperature", above=70),
        for_seconds=MINUTE,
        clear_seconds=MINUTE,
        summary="Fan {fan} of GPU {gpu_id} stands still although the GPU is hot",
        numbers="fan at {value:.0f} %",
        advice="Look whether a fan curve was set by hand, and whether the fan turns; take load off the GPU until then.",
    ),
)

# A GPU that is held down for less than a tenth of the time loses less than anyone notices.
THROTTLED = 0.1


def _throttle(
    reason: str, severity: str, why: str, advice: str, *, name: str = "", less: tuple[str, ...] = ()
) -> Alert:
    return Alert(
        name=f"gpu_throttle_{name or reason}",
        severity=severity,
        kind=GPU,
        measures=(Measure((f"throttle_active_{reason}",), less=tuple(f"throttle_active_{other}" for other in less)),),
        look=Look.MEAN,
        window_seconds=MINUTE,
        above=THROTTLED,
        hysteresis=THROTTLED / 2,
        clear_seconds=MINUTE,
        summary=f"GPU {{gpu_id}} is slowed down {why}",
        numbers="{value:.0%} of the last minute, above {threshold:.0%}",
        advice=advice,
    )


THROTTLING = (
    _throttle(
        "hw_thermal",
        "critical",
        "by its hardware because it is too hot",
        "Take load off the GPU and look at its cooling; clocks are halved or worse until it is cooler.",
    ),
    _throttle(
        "sw_thermal",
        "warning",
        "by the driver because it is too hot",
        "Look at air flow, fans and the intake temperature; the driver lowers clocks to keep the GPU at its limit.",
    ),
    _throttle(
        "hw_power_brake",
        "critical",
        "by a signal from the power supply",
        "Look at the node's power supplies and the rack's power: one has failed, or more is drawn than they give.",
        name="power_brake",
    ),
    _throttle(
        "hw_slowdown",
        "warning",
        "by its hardware, and neither heat nor the power brake is given as the reason",
        "Look at power cables and connectors: drawing too much at once is what is left.",
        less=("hw_thermal", "hw_power_brake"),
    ),
)

DEVICE = (
    Alert(
        name="gpu_lost",
        severity="critical",
        kind=GPU_HEALTH,
        measures=_one("up"),
        below=1,
        # A hang has an alert of its own, and a driver that was released for maintenance is no fault.
        guard=Guard(GPU_DOWN, "down_info", above=0, unless={"reason": "^(HUNG|RELEASED)$"}),
        for_seconds=10,  # a driver that is re-initialised is back by then
        clear_seconds=30,  # the longest pause between two attempts to open a GPU again
        summary="GPU {gpu_id} does not answer",
        numbers="{reason}",
        advice="Look at the XIDs of that time; drain the node and restart it if the GPU does not come back by itself.",
    ),
    Alert(
        name="gpu_hung",
        severity="critical",
        kind=GPU_HEALTH,
        measures=_one("hung"),
        above=0,
        for_seconds=30,  # opening a GPU without persistence mode takes some seconds
        clear_seconds=30,
        summary="A driver call for GPU {gpu_id} does not return",
        numbers="processes that use it may hang as well",
        advice="Look at the XIDs and the kernel log; if it does not return, the node has to be restarted.",
    ),
    Alert(
        name="gpu_xid",
        severity="critical",
        kind=GPU_XID,
        measures=_one("xid_errors_total"),
        look=Look.INCREASE,
        window_seconds=FAULT_SECONDS,
        above=0,
        unless={"xid": APPLICATION_XIDS},
        summary="GPU {gpu_id} reports XID {xid}",
        numbers="{value:.0f} in the last hour",
        advice="The event of the XID says what it means and what to do; processes on the GPU may have ended.",
    ),
    Alert(
        name="gpu_xid_application",
        severity="info",
        kind=GPU_XID,
        measures=_one("xid_errors_total"),
        look=Look.INCREASE,
        window_seconds=RESTART_SECONDS,
        above=0,
        where={"xid": APPLICATION_XIDS},
        summary="An application on GPU {gpu_id} failed with XID {xid}",
        numbers="{value:.0f} in the last 5 minutes",
        advice="Look for the fault in the application first; if many applications meet it on this GPU, test the GPU.",
    ),
    Alert(
        name="gpu_ecc_uncorrected",
        severity="critical",
        kind=GPU,
        measures=_one("ecc_errors_uncorrected_volatile_total"),
        look=Look.INCREASE,
        window_seconds=FAULT_SECONDS,
        above=0,
        summary="GPU {gpu_id} has memory errors that could not be corrected",
        numbers="{value:.0f} in the last hour",
        advice="What used the memory has ended or is wrong; drain and reset the GPU, and have it replaced if they come again.",
    ),
    Alert(
        name="gpu_row_remap_pending",
        severity="warning",
        kind=GPU,
        measures=_one("row_remap_pending"),
        above=0,
        clear_seconds=MINUTE,
        summary="GPU {gpu_id} waits for a reset to replace rows of its memory",
        numbers="until then the rows are in use",
        advice="Drain the GPU and reset it when its work allows.",
    ),
    Alert(
        name="gpu_row_remap_failure",
        severity="critical",
        kind=GPU,
        measures=_one("row_remap_failure"),
        above=0,
        clear_seconds=MINUTE,
        summary="GPU {gpu_id} could not replace a row of its memory",
        numbers="it has no spare rows left there",
        advice="Take the GPU out of use and have it replaced.",
    ),
    Alert(
        name="gpu_row_remap_spares",
        severity="warning",
        kind=GPU,
        measures=_one("row_remap_banks_none"),
        above=0,
        clear_seconds=MINUTE,
        summary="GPU {gpu_id} has memory banks without spare rows",
        numbers="{value:.0f} banks",
        advice="The next error there cannot be repaired; plan to have the GPU replaced.",
    ),
    Alert(
        name="gpu_retired_pages_pending",
        severity="warning",
        kind=GPU,
        measures=_one("retired_pages_pending"),
        above=0,
        clear_seconds=MINUTE,
        summary="GPU {gpu_id} waits for a reset to take pages of its memory out of use",
        numbers="until then the pages are in use",
        advice="Drain the GPU and reset it when its work allows.",
    ),
    Alert(
        name="gpu_recovery_action",
        severity="warning",
        kind=GPU,
        measures=_one("recovery_action"),
        above=0,
        clear_seconds=MINUTE,
        summary="The driver advises to recover GPU {gpu_id}",
        numbers="action {value:.0f} of gpumon_gpu_recovery_action",
        advice="Do what the action says: 1 reset the GPU, 2 reboot the node, 3 drain peers, 4 drain and reset, "
        "5 recover the IMEX domain, 6 reset the bus, 7 reboot the system.",
    ),
)

LINKS = (
    Alert(
        name="gpu_nvlink_down",
        severity="critical",
        kind=NVLINK,
        measures=_one("nvlink_up"),
        look=Look.FALL,  # a link that is not wired was never up
        above=0,
        for_seconds=MINUTE,
        clear_seconds=MINUTE,
        summary="NVLink {link} of GPU {gpu_id} is down",
        numbers="it was up since gpumon started",
        advice="Jobs that span GPUs fail or are slow; drain the node, reset the GPUs, and have the link checked.",
    ),
    Alert(
        name="gpu_nvlink_recovery",
        severity="warning",
        kind=GPU,
        measures=_one("nvlink_errors_recovery_total"),
        look=Look.INCREASE,
        window_seconds=FAULT_SECONDS,
        above=0,
        summary="NVLinks of GPU {gpu_id} had to be trained again",
        numbers="{value:.0f} times in the last hour",
        advice="Traffic stands still meanwhile; if it comes again, have the link, its connector and the other end checked.",
    ),
    Alert(
        name="gpu_nvlink_errors",
        severity="warning",
        kind=GPU,
        measures=_one("nvlink_errors_replay_total"),
        look=Look.INCREASE,
        window_seconds=RESTART_SECONDS,
        above=10,  # single ones happen and cost nothing; two a minute come from a link that is getting worse
        hysteresis=5,
        summary="NVLinks of GPU {gpu_id} send packets again and again",
        numbers="{value:.0f} in the last 5 minutes, above {threshold:.0f}",
        advice="Have the link, its connector and the GPU at its other end checked before it goes down.",
    ),
    Alert(
        name="gpu_fabric_degraded",
        severity="warning",
        kind=GPU,
        measures=_one("fabric_health_degraded_bandwidth"),
        below=1,
        for_seconds=MINUTE,
        clear_seconds=MINUTE,
        summary="The NVLink fabric gives GPU {gpu_id} less bandwidth than it should",
        numbers="reported by the fabric",
        advice="Look at the fabric manager's log for failed links or switches.",
    ),
    Alert(
        name="gpu_fabric_route",
        severity="critical",
        kind=GPU,
        measures=_one("fabric_health_route_unhealthy"),
        below=1,
        for_seconds=MINUTE,
        clear_seconds=MINUTE,
        summary="A route of GPU {gpu_id} through the NVLink fabric is unhealthy",
        numbers="reported by the fabric",
        advice="Look at the fabric manager's log; jobs that span GPUs may fail.",
    ),
    Alert(
        name="gpu_pcie_errors",
        severity="warning",
        kind=GPU,
        measures=(Measure(("pcie_errors_fatal_total", "pcie_errors_non_fatal_total")),),
        look=Look.INCREASE,
        window_seconds=FAULT_SECONDS,
        above=0,
        summary="GPU {gpu_id} has PCIe errors that were not corrected",
        numbers="{value:.0f} in the last hour",
        advice="Have slot, riser and cable of the GPU checked.",
    ),
    Alert(
        name="gpu_pcie_width",
        severity="warning",
        kind=GPU,
        measures=_one("pcie_link_width_current", of="pcie_link_width_max"),
        below=100,
        for_seconds=RESTART_SECONDS,  # links are trained anew after a reset
        clear_seconds=MINUTE,
        summary="GPU {gpu_id} uses fewer PCIe lanes than it could",
        numbers="{value:.0f} % of them",
        advice="Have slot, riser and cable of the GPU checked; copies to and from it take longer.",
    ),
)


def _down(name: str, severity: str, kind: EntityKind, column: str, summary: str, numbers: str, advice: str) -> Alert:
    return Alert(
        name=name,
        severity=severity,
        kind=kind,
        measures=_one(column),
        below=1,
        for_seconds=RESTART_SECONDS,
        clear_seconds=MINUTE,
        summary=summary,
        numbers=numbers,
        advice=advice,
    )


def _counted(name: str, kind: EntityKind, column: str, summary: str, advice: str, *, together: bool = False) -> Alert:
    return Alert(
        name=name,
        severity="warning",
        kind=kind,
        measures=_one(column),
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
        measures=_one("snapshot_age_seconds"),
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
        measures=_one("late_ticks_total"),
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
        measures=_one("success"),
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
        measures=_one("up"),
        below=1,
        for_seconds=MINUTE,
        clear_seconds=MINUTE,
        summary="History cannot be written",
        numbers="it is kept in memory, and lost if that lasts",
        advice="Look at the volume of service.data_dir: full, read-only or gone; gpumon's log says which.",
    ),
    Alert(
        name="storage_full",
        severity="warning",
        kind=STORAGE,
        measures=_one("volume_free_bytes", of="volume_size_bytes"),
        below=5,  # what file systems keep back for root
        hysteresis=1,
        for_seconds=MINUTE,
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
        together=True,
    ),
    Alert(
        name="archive_failing",
        severity="warning",
        kind=ARCHIVE,
        measures=_one("success"),
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

ALERTS: tuple[Alert, ...] = HEAT_AND_MEMORY + THROTTLING + DEVICE + LINKS + SERVERS + OWN
