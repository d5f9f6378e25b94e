"""The dashboards' files as Grafana reads them: panels, their queries, and what variables become."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "grafana-dashboards"
KEYS = ("fleet", "gpu", "workloads", "models", "gpumon")


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel of a dashboard."""

    board: str
    id: int
    panel: str
    number: int
    expr: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.board}: {self.panel!r}, query {self.number + 1}"


def board(key: str) -> Any:
    """Give a dashboard's JSON."""
    return json.loads((FOLDER / f"{key}.json").read_text(encoding="utf-8"))


def panels(key: str) -> list[Any]:
    """Give a dashboard's panels that show something, also those in rows that are collapsed, by their ids."""
    everything = board(key)["panels"]
    inside = [panel for row in everything if row["type"] == "row" for panel in row.get("panels") or ()]
    return sorted([panel for panel in everything if panel["type"] != "row"] + inside, key=lambda panel: panel["id"])


def targets(key: str) -> Iterator[Target]:
    """Give a dashboard's queries, in the order in which they stand."""
    for panel in panels(key):
        for number, target in enumerate(panel["targets"]):
            yield Target(key, panel["id"], panel["title"], number, target["expr"], target.get("instant", False))


def interpolate(expr: str, values: Mapping[str, str]) -> str:
    """Put values in the place of variables, as Grafana does; KeyError names a variable that has none."""
    return re.sub(r"\$(?:\{(\w+)[^}]*\}|(\w+))", lambda found: values[found[1] or found[2]], expr)
