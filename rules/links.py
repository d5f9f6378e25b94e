"""Alerts of NVLink, the fabric and PCIe."""

from __future__ import annotations

from rules.device import GPU, SAME_GPU
from rules.model import Alert, Example, Group


def _growth(name: str, kinds: str, window: str, above: int, summary: str, description: str, why: str) -> Alert:
    """Make an alert of NVLink errors that grow; the example grows by 12 a minute, and by one an hour elsewhere."""
    first, _, _ = kinds.partition("|")
    series = f'<gpu.nvlink_errors_total kind="{first}">'
    return Alert(
        name=name,
        severity="warning",
        expr=f'increase(<gpu.nvlink_errors_total kind=~"{kinds}">[{window}]) > {above}',
        summary=summary,
        description=description,
        why=why,
        example=Example(
            series={series: ("+0", "+12", "+0"), series.replace("kind", 'gpu_id="1",kind'): 3},
            labels=GPU | {"kind": first},
            value={"1h": "240", "5m": "60"}[window],
            steps=(10, 20, 90),
        ),
    )


def _fabric(name: str, severity: str, check: str, summary: str, description: str) -> Alert:
    return Alert(
        name=name,
        severity=severity,
        expr=f'<gpu.fabric_health check="{check}"> == 0',
        lasts="5m",
        summary=summary,
        description=description,
        why="Five minutes: routes are set up anew after a restart of the fabric manager, which takes less.",
        example=Example(
            series={
                f'<gpu.fabric_health check="{check}">': (1, 0, 1),
                '<gpu.fabric_health check="access_timeout_recovery">': 0,
            },
            labels=GPU | {"check": check},
        ),
    )


LINKS = Group(
    "gpumon-links",
    (
        Alert(
            name="gpu_nvlink_down",
            severity="critical",
            expr="<nvlink.nvlink_up> == 0 and max_over_time(<nvlink.nvlink_up>[1d]) == 1",
            lasts="2m",
            summary="NVLink {link} of GPU {gpu_id} of {instance} is down",
            description="Link {link} of GPU {gpu_id} ({gpu_uuid}) was up within the last day and is down now. "
            "Jobs that span GPUs fail, or are slow.",
            why="A link that is not wired was never up. Two minutes: link states are read every 30 s, and links are "
            "trained anew after a reset.",
            example=Example(
                series={'<nvlink.nvlink_up link="0">': (1, 0, 1), '<nvlink.nvlink_up link="1">': 0},
                labels=GPU | {"link": "0"},
            ),
        ),
        _growth(
            "gpu_nvlink_recovery",
            "recovery",
            "1h",
            0,
            "NVLinks of GPU {gpu_id} of {instance} had to be trained again",
            "NVLinks of GPU {gpu_id} ({gpu_uuid}) were trained again {value} times in the last hour; "
            "traffic stands still meanwhile.",
            "A link that is well never needs it.",
        ),
        _growth(
            "gpu_nvlink_errors",
            "replay|crc_flit|crc_data",
            "5m",
            10,
            "NVLinks of GPU {gpu_id} of {instance} send packets again and again",
            "{value} errors of kind {kind} on the NVLinks of GPU {gpu_id} ({gpu_uuid}) in five minutes.",
            "Single ones happen and cost nothing; more than two a minute come from a link that is getting worse.",
        ),
        _fabric(
            "gpu_fabric_degraded",
            "warning",
            "degraded_bandwidth",
            "The NVLink fabric gives GPU {gpu_id} of {instance} less bandwidth",
            "The fabric reports degraded bandwidth for GPU {gpu_id} ({gpu_uuid}).",
        ),
        _fabric(
            "gpu_fabric_route",
            "critical",
            "route_unhealthy",
            "A route of GPU {gpu_id} of {instance} through the NVLink fabric is unhealthy",
            "The fabric reports an unhealthy route for GPU {gpu_id} ({gpu_uuid}); jobs that span GPUs may fail.",
        ),
        Alert(
            name="gpu_fabric_unregistered",
            severity="critical",
            expr="<gpu.fabric_state> < 3",
            lasts="10m",
            summary="GPU {gpu_id} of {instance} is not registered with the NVLink fabric",
            description="GPU {gpu_id} ({gpu_uuid}) is in state {value} (1 not started, 2 in progress); "
            "CUDA does not start on it until the fabric manager has registered it.",
            why="Registration takes a minute or two after a boot; ten minutes mean that the fabric manager does not run.",
            example=Example(
                series={"<gpu.fabric_state>": (3, 1, 3), '<gpu.fabric_state gpu_id="1">': 3}, labels=GPU, value="1"
            ),
        ),
        Alert(
            name="gpu_pcie_errors",
            severity="warning",
            expr='increase(<gpu.pcie_errors_total kind=~"fatal|non_fatal">[1h]) > 0',
            summary="GPU {gpu_id} of {instance} has PCIe errors that were not corrected",
            description="{value} {kind} PCIe errors of GPU {gpu_id} ({gpu_uuid}) in the last hour.",
            why="There should be none. Those that were corrected are not counted here.",
            example=Example(
                series={
                    '<gpu.pcie_errors_total kind="non_fatal">': ("+0", "+12", "+0"),
                    '<gpu.pcie_errors_total kind="correctable">': ("+5", "+5", "+5"),
                },
                labels=GPU | {"kind": "non_fatal"},
                value="240",
                steps=(10, 20, 90),
            ),
        ),
        Alert(
            name="gpu_pcie_width",
            severity="warning",
            expr='<gpu.pcie_link_width kind="current"> < ignoring (kind) <gpu.pcie_link_width kind="max">',
            lasts="15m",
            summary="GPU {gpu_id} of {instance} uses fewer PCIe lanes than it could",
            description="GPU {gpu_id} ({gpu_uuid}) runs on {value} lanes; copies to and from it take longer.",
            why="Links are trained anew after a reset. 15 minutes: width does not change with load, so this is slot, "
            "riser or cable, and nothing that hurries.",
            example=Example(
                series={
                    '<gpu.pcie_link_width kind="current">': (16, 8, 16),
                    '<gpu.pcie_link_width kind="max">': 16,
                    '<gpu.pcie_link_width gpu_id="1",kind="current">': 8,
                    '<gpu.pcie_link_width gpu_id="1",kind="max">': 8,
                },
                labels=GPU,
                value="8",
            ),
        ),
        Alert(
            name="gpu_pcie_generation",
            severity="warning",
            expr='<gpu.pcie_link_generation kind="current"> < ignoring (kind) <gpu.pcie_link_generation kind="max"> '
            f"and on {SAME_GPU} min_over_time(<gpu.utilization_percent>[15m]) > 50",
            lasts="15m",
            summary="GPU {gpu_id} of {instance} works on a slower PCIe generation than it could",
            description="GPU {gpu_id} ({gpu_uuid}) is busy and runs at PCIe generation {value}.",
            why="An idle GPU lowers the generation to save power, so only one that has been busy for 15 minutes counts.",
            example=Example(
                series={
                    '<gpu.pcie_link_generation kind="current">': (5, 3, 5),
                    '<gpu.pcie_link_generation kind="max">': 5,
                    "<gpu.utilization_percent>": 90,
                    '<gpu.pcie_link_generation gpu_id="1",kind="current">': 1,
                    '<gpu.pcie_link_generation gpu_id="1",kind="max">': 5,
                    '<gpu.utilization_percent gpu_id="1">': 0,
                },
                labels=GPU,
                value="3",
            ),
        ),
    ),
)
