"""Whether every query of a dashboard has data in a Prometheus."""

from __future__ import annotations

from collections.abc import Mapping

from generate.__main__ import DASHBOARDS
from tests.grafana import boards
from tests.grafana.prometheus import Prometheus

# Seconds: enough for a rate over the shortest interval, a sample a minute, and two changes of what Ollama holds.
SCRAPES = 65
# Of which graphs are looked at.
WINDOW = 15

MODELS = {"model_server", "server_metrics", "ollama", "proxy", "model_energy"}
# What no simulated node has: pods, users of its processes, their energy by model, an archive within a minute, faults.
NOWHERE = {
    *(
        "kubelet",
        "model_energy",
        "archive",
        "otlp",
        "delivery",
        "fault",
        "alert",
        "retirement",
        "confidential",
        "incomplete",
    ),
}
# What may be there or not: a simulated GPU may be hot enough for an alert, and a slow machine be one itself.
MAYBE = {"alert"}
# What a node lacks, so that panels which need it are empty there; and nothing else may be.
LACKS: Mapping[str, set[str]] = {
    "h100x8": {*NOWHERE, "mig", "fan"},
    "h100x8-mig": {*NOWHERE, *MODELS, "fan", "undivided"} - {"incomplete"},
    "rtx4090x1": {
        *(*NOWHERE, *MODELS, "mig", "gpm", "memory_sensor", "nvlink", "fabric", "ecc", "remapping"),
    },
    "l40sx4": {*NOWHERE, *MODELS, "mig", "gpm", "memory_sensor", "nvlink", "fabric", "fan"},
    "a100x8": {*NOWHERE, *MODELS, "mig", "gpm", "margin", "fabric", "fan"},
    "everything": set(),
}


# The node that sends by OTLP.
PUSHED = "gpu-7"


def values(key: str, node: str) -> dict[str, str]:
    """Give what variables become, as Grafana would for this Prometheus."""
    chosen = {variable["name"]: ".*" for variable in boards.board(key)["templating"]["list"]}
    ranges = {"__range": f"{SCRAPES}s", "__rate_interval": "8s"}
    return chosen | ranges | {"node": node, "price": "0.25"}


def needs(key: str) -> dict[tuple[int, int], set[str]]:
    """Give what each query of a dashboard needs, by its panel's id and its number."""
    (row,) = (row for row in DASHBOARDS if row.key == key)
    return {
        (id, number): {panel.needs, query.needs} - {""}
        for id, panel in enumerate((panel for group in row.rows for panel in group.panels), 1)  # noqa: A001
        for number, query in enumerate(panel.queries)
    }


def assert_filled(prometheus: Prometheus, key: str, node: str, lacks: set[str]) -> None:
    """Hold a dashboard's queries, for one node, to having data but where the node lacks what they need."""
    needed, wrong = needs(key), []
    for target in boards.targets(key):
        expr = boards.interpolate(target.expr, values(key, node))
        found = prometheus.instant(expr) if target.instant else prometheus.over(expr, WINDOW)
        lacking = needed[target.id, target.number] & lacks
        if bool(found) == bool(lacking) and not lacking & MAYBE:
            wrong.append(f"{target} has {len(found)} series, lacking {lacking or 'nothing'}: {expr}")
    assert not wrong, "\n".join(wrong)
