"""Alerts of GPUs that fail: lost, hung, XIDs, memory."""

from __future__ import annotations

from gpumon.catalog.xids import APPLICATION_XIDS, CONTAINED_XIDS
from rules.model import Alert, Example, Group

GPU = {"gpu_id": "0"}
# Join series of one GPU that have different labels otherwise.
SAME_GPU = "(job, instance, gpu_uuid)"


def _codes(codes: frozenset[int]) -> str:
    return "|".join(str(code) for code in sorted(codes))


def _xid(name: str, severity: str, matcher: str, summary: str, description: str, code: str, other: str) -> Alert:
    seen = '<gpu_xid.xid_error_timestamp_seconds xid="{}">'
    return Alert(
        name=name,
        severity=severity,
        expr=f"time() - <gpu_xid.xid_error_timestamp_seconds {matcher}> < 600",
        summary=summary,
        description=description,
        shown="humanizeDuration",
        why="Ten minutes: long enough to be seen and routed, short enough that a new XID of the same code is news again. "
        "The time of the last one is compared and not the counter, because increase() misses the first of a code.",
        example=Example(
            series={seen.format(code): (None, 600, 600), seen.format(other): 600},
            labels=GPU | {"xid": code},
            value="9m 0s",
            steps=(10, 10, 20),
        ),
    )


def _flag(name: str, severity: str, reading: str, summary: str, description: str, why: str) -> Alert:
    return Alert(
        name=name,
        severity=severity,
        expr=f"<gpu.{reading}> > 0",
        summary=summary,
        description=description,
        why=why,
        example=Example(
            series={f"<gpu.{reading}>": (0, 1, 0), f'<gpu.{reading} gpu_id="1">': 0},
            labels=GPU,
            value="1",
        ),
    )


UNTIL_RESET = "The driver says so until the GPU is reset: nothing flickers, so nothing is waited for."

DEVICE = Group(
    "gpumon-device",
    (
        Alert(
            name="gpu_lost",
            severity="critical",
            expr=f'<gpu_health.up> == 0 unless on {SAME_GPU} <gpu_down.down_info reason=~"HUNG|RELEASED">',
            lasts="1m",
            summary="GPU {gpu_id} of {instance} does not answer",
            description="The driver has given no readings of GPU {gpu_id} ({gpu_uuid}) for a minute; "
            "gpumon_gpu_down_info has the reason. What ran on it has probably failed.",
            why="A minute: a GPU that is opened anew is back within 30 s. A hung one has an alert of its own, "
            "and a driver that was released for maintenance is no fault.",
            example=Example(
                series={
                    "<gpu_health.up>": (1, 0, 1),
                    '<gpu_health.up gpu_id="1">': (1, 0, 1),
                    '<gpu_down.down_info gpu_id="1",reason="RELEASED">': (None, 1, None),
                    '<gpu_health.up gpu_id="2">': 1,
                },
                labels=GPU,
            ),
        ),
        Alert(
            name="gpu_hung",
            severity="critical",
            expr="<gpu_health.hung> == 1",
            lasts="1m",
            summary="A driver call for GPU {gpu_id} of {instance} does not return",
            description="GPU {gpu_id} ({gpu_uuid}) hangs in the driver. Processes that use it may hang as well, "
            "and cannot be killed.",
            why="A minute: opening a GPU without persistence mode takes some seconds, resetting one up to half a minute.",
            example=Example(series={"<gpu_health.hung>": (0, 1, 0), '<gpu_health.hung gpu_id="1">': 0}, labels=GPU),
        ),
        Alert(
            name="gpu_released",
            severity="warning",
            expr='<gpu_down.down_info reason="RELEASED"> == 1',
            lasts="4h",
            summary="GPU {gpu_id} of {instance} was given up for maintenance and not taken up again",
            description="gpumon was told four hours ago to let go of the driver; GPU {gpu_id} ({gpu_uuid}) is not watched.",
            why="Maintenance of a driver takes minutes, of a node some hours; what lasts longer was forgotten.",
            example=Example(
                series={
                    '<gpu_down.down_info reason="RELEASED">': (None, 1, None),
                    '<gpu_down.down_info gpu_id="1",reason="GPU_IS_LOST">': 1,
                },
                labels=GPU | {"reason": "RELEASED"},
                steps=(10, 30, 10),
                step_minutes=10,
            ),
        ),
        Alert(
            name="gpu_missing",
            severity="warning",
            expr="<daemon.gpu_count> < max_over_time(<daemon.gpu_count>[6h])",
            lasts="10m",
            summary="{instance} has fewer GPUs than before",
            description="The driver lists {value} GPUs; it listed more within the last six hours. "
            "A GPU that fell off the bus can vanish like this.",
            why="Ten minutes let a driver be reloaded. After six hours what was taken out on purpose is no longer missed.",
            example=Example(
                series={"<daemon.gpu_count>": (8, 7, 8)},
                value="7",
            ),
        ),
        _xid(
            "gpu_xid",
            "critical",
            f'xid!~"{_codes(APPLICATION_XIDS | CONTAINED_XIDS)}"',
            "GPU {gpu_id} of {instance} reports XID {xid}",
            "GPU {gpu_id} ({gpu_uuid}) had XID {xid} {value} ago. Codes of this class are faults of the device, "
            "its memory or its links: drain it, and look up the code.",
            "79",
            "31",
        ),
        _xid(
            "gpu_xid_contained",
            "warning",
            f'xid=~"{_codes(CONTAINED_XIDS)}"',
            "GPU {gpu_id} of {instance} reports XID {xid}, which was contained",
            "GPU {gpu_id} ({gpu_uuid}) had XID {xid} {value} ago. Codes of this class leave the GPU usable: "
            "reset it when its work allows.",
            "94",
            "79",
        ),
        _xid(
            "gpu_xid_application",
            "info",
            f'xid=~"{_codes(APPLICATION_XIDS)}"',
            "An application on GPU {gpu_id} of {instance} failed with XID {xid}",
            "GPU {gpu_id} ({gpu_uuid}) had XID {xid} {value} ago. Codes of this class are mostly faults of the application.",
            "31",
            "79",
        ),
        Alert(
            name="gpu_ecc_uncorrected",
            severity="critical",
            expr='<gpu.ecc_errors_total severity="uncorrected",scope="volatile"> > 0',
            summary="GPU {gpu_id} of {instance} has memory errors that could not be corrected",
            description="{value} uncorrected memory errors on GPU {gpu_id} ({gpu_uuid}) since the driver was loaded. "
            "Results may be wrong. Drain the GPU and reset it, which also repairs the place.",
            why="One is one too many. It fires until the reset that is needed anyway sets the counter back.",
            example=Example(
                series={
                    '<gpu.ecc_errors_total severity="uncorrected",scope="volatile">': (0, 2, 0),
                    '<gpu.ecc_errors_total severity="corrected",scope="volatile">': 7,
                    '<gpu.ecc_errors_total severity="uncorrected",scope="aggregate">': 2,
                },
                labels=GPU | {"severity": "critical", "scope": "volatile"},
                value="2",
            ),
        ),
        Alert(
            name="gpu_ecc_corrected",
            severity="warning",
            expr='increase(<gpu.ecc_errors_total severity="corrected",scope="volatile">[1h]) > 100',
            summary="GPU {gpu_id} of {instance} corrects many memory errors",
            description="{value} memory errors were corrected on GPU {gpu_id} ({gpu_uuid}) in the last hour. "
            "Memory that needs it so often is likely to fail.",
            why="A few a day are normal and harmless. More than one a minute come from a place that is failing.",
            example=Example(
                series={
                    '<gpu.ecc_errors_total severity="corrected",scope="volatile">': ("+0", "+10", "+0"),
                    '<gpu.ecc_errors_total gpu_id="1",severity="corrected",scope="volatile">': ("+1", "+1", "+1"),
                },
                labels=GPU | {"severity": "warning", "scope": "volatile"},
                value="210",
                steps=(61, 21, 90),
            ),
        ),
        _flag(
            "gpu_row_remap_pending",
            "warning",
            "row_remap_pending",
            "GPU {gpu_id} of {instance} waits for a reset to replace rows of its memory",
            "Bad rows of the memory of GPU {gpu_id} ({gpu_uuid}) stay in use until it is reset.",
            UNTIL_RESET,
        ),
        _flag(
            "gpu_row_remap_failure",
            "critical",
            "row_remap_failure",
            "GPU {gpu_id} of {instance} could not replace a row of its memory",
            "GPU {gpu_id} ({gpu_uuid}) has no spare rows left where one is needed: have it replaced.",
            UNTIL_RESET,
        ),
        Alert(
            name="gpu_row_remap_spares",
            severity="warning",
            expr='<gpu.row_remap_banks availability="none"> > 0',
            summary="GPU {gpu_id} of {instance} has memory banks without spare rows",
            description="{value} memory banks of GPU {gpu_id} ({gpu_uuid}) have used up their spare rows. "
            "The next error there cannot be repaired.",
            why="It never goes away, so nothing is waited for; one bank is enough for the next failure.",
            example=Example(
                series={
                    '<gpu.row_remap_banks availability="none">': (0, 1, 0),
                    '<gpu.row_remap_banks availability="low">': 3,
                },
                labels=GPU | {"availability": "none"},
                value="1",
            ),
        ),
        _flag(
            "gpu_retired_pages_pending",
            "warning",
            "retired_pages_pending",
            "GPU {gpu_id} of {instance} waits for a reset to retire pages of its memory",
            "Bad pages of the memory of GPU {gpu_id} ({gpu_uuid}) stay in use until it is reset.",
            UNTIL_RESET,
        ),
        _flag(
            "gpu_recovery_action",
            "critical",
            "recovery_action",
            "The driver advises to recover GPU {gpu_id} of {instance}",
            "Action {value} for GPU {gpu_id} ({gpu_uuid}): 1 reset the GPU, 2 reboot the node, 3 drain peers, "
            "4 drain and reset, 5 recover the IMEX domain, 6 reset the bus, 7 reboot the system.",
            UNTIL_RESET,
        ),
    ),
)
