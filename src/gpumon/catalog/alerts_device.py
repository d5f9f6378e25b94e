"""Alerts of GPUs that fail: lost, hung, XIDs, memory; and of their links."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gpumon.catalog.alert import FAULT_SECONDS, MINUTE, RESTART_SECONDS, Alert, Guard, Look, Measure, of
from gpumon.catalog.gpu import GPU, GPU_XID, NVLINK
from gpumon.catalog.health import GPU_DOWN, GPU_HEALTH
from gpumon.catalog.xids import APPLICATION_XIDS, CONTAINED_XIDS, explain


def _codes(codes: Iterable[int]) -> dict[str, str]:
    return {"xid": f"^({'|'.join(map(str, sorted(codes)))})$"}


def _xid(
    name: str,
    severity: str,
    summary: str,
    *,
    where: Mapping[str, str] | None = None,
    unless: Mapping[str, str] | None = None,
) -> Alert:
    return Alert(
        name=name,
        severity=severity,
        kind=GPU_XID,
        measures=of("xid_errors_total"),
        look=Look.INCREASE,
        window_seconds=RESTART_SECONDS if severity == "info" else FAULT_SECONDS,
        above=0,
        where=where or {},
        unless=unless or {},
        summary=summary,
        numbers="{value:.0f} in the last 5 minutes" if severity == "info" else "{value:.0f} in the last hour",
        advice="What the code's meaning advises.",
        explain=explain,
    )


DEVICE = (
    Alert(
        name="gpu_lost",
        severity="critical",
        kind=GPU_HEALTH,
        measures=of("up"),
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
        measures=of("hung"),
        above=0,
        for_seconds=30,  # opening a GPU without persistence mode takes some seconds
        clear_seconds=30,
        summary="A driver call for GPU {gpu_id} does not return",
        numbers="processes that use it may hang as well",
        advice="Look at the XIDs and the kernel log; if it does not return, the node has to be restarted.",
    ),
    _xid(
        "gpu_xid",
        "critical",
        "GPU {gpu_id} reports XID {xid}: {meaning}",
        unless=_codes(APPLICATION_XIDS | CONTAINED_XIDS),
    ),
    _xid(
        "gpu_xid_contained",
        "warning",
        "GPU {gpu_id} reports XID {xid}, which leaves it usable: {meaning}",
        where=_codes(CONTAINED_XIDS),
    ),
    _xid(
        "gpu_xid_application",
        "info",
        "An application on GPU {gpu_id} failed with XID {xid}: {meaning}",
        where=_codes(APPLICATION_XIDS),
    ),
    Alert(
        name="gpu_ecc_uncorrected",
        severity="critical",
        kind=GPU,
        measures=of("ecc_errors_uncorrected_volatile_total"),
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
        measures=of("row_remap_pending"),
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
        measures=of("row_remap_failure"),
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
        measures=of("row_remap_banks_none"),
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
        measures=of("retired_pages_pending"),
        above=0,
        clear_seconds=MINUTE,
        summary="GPU {gpu_id} waits for a reset to take pages of its memory out of use",
        numbers="until then the pages are in use",
        advice="Drain the GPU and reset it when its work allows.",
    ),
    Alert(
        name="gpu_recovery_action",
        severity="critical",
        kind=GPU,
        measures=of("recovery_action"),
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
        measures=of("nvlink_up"),
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
        measures=of("nvlink_errors_recovery_total"),
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
        measures=of("nvlink_errors_replay_total"),
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
        measures=of("fabric_health_degraded_bandwidth"),
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
        measures=of("fabric_health_route_unhealthy"),
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
        measures=of("pcie_link_width_current", "pcie_link_width_max"),
        below=100,
        for_seconds=RESTART_SECONDS,  # links are trained anew after a reset
        clear_seconds=MINUTE,
        summary="GPU {gpu_id} uses fewer PCIe lanes than it could",
        numbers="{value:.0f} % of them",
        advice="Have slot, riser and cable of the GPU checked; copies to and from it take longer.",
    ),
)
