"""dcgm-exporter's own dashboard (12239 on grafana.com) over gpumon, with telemetry.dcgm_compat = "legacy".

What it asks is listed here: titles and expressions of grafana/dcgm-exporter-dashboard.json of NVIDIA's repository.
"""

from __future__ import annotations

import pytest

from tests.grafana import boards, filled
from tests.grafana.prometheus import Prometheus

pytestmark = pytest.mark.e2e

CHOSEN = '{instance=~"$instance", gpu=~"$gpu"}'
PANELS = {
    "GPU Temperature": f"DCGM_FI_DEV_GPU_TEMP{CHOSEN}",
    "GPU Avg. Temp": f"avg(DCGM_FI_DEV_GPU_TEMP{CHOSEN})",
    "GPU Power Usage": f"DCGM_FI_DEV_POWER_USAGE{CHOSEN}",
    "GPU Power Total": f"sum(DCGM_FI_DEV_POWER_USAGE{CHOSEN})",
    "GPU SM Clocks": f"DCGM_FI_DEV_SM_CLOCK{CHOSEN} * 1000000",
    "GPU Utilization": f"DCGM_FI_DEV_GPU_UTIL{CHOSEN}",
    "GPU Framebuffer Mem Used": f"DCGM_FI_DEV_FB_USED{CHOSEN}",
    "Tensor Core Utilization": f"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{CHOSEN}",
}
VARIABLES = ("instance", "gpu")


@pytest.mark.parametrize("node", sorted(filled.LACKS.keys() - {"everything"}))
def test_dashboard_12239_has_data_in_every_panel(node: str, prometheus: Prometheus) -> None:
    """All eight, with a line for each GPU; tensor cores on Hopper and newer, use of what is not divided."""
    lines = {}
    for title, expr in PANELS.items():
        values = {"instance": node, "gpu": ".*"}
        lines[title] = len(prometheus.over(boards.interpolate(expr, values), filled.WINDOW))
    if "gpm" in filled.LACKS[node]:
        assert lines.pop("Tensor Core Utilization") == 0
    if "undivided" in filled.LACKS[node]:
        assert lines.pop("GPU Utilization") == 0  # NVML has none of a divided GPU, nor has dcgm-exporter
    assert all(lines.values()), lines
    gpus = int(node.removesuffix("-mig").rpartition("x")[2])
    assert lines["GPU Temperature"] == lines["GPU Power Usage"] == lines["GPU SM Clocks"] == gpus


def test_its_variables_offer_nodes_and_gpus(prometheus: Prometheus) -> None:
    """`instance` and `gpu`, which it takes from the temperature."""
    for label in VARIABLES:
        assert prometheus.label_values("DCGM_FI_DEV_GPU_TEMP", label)
