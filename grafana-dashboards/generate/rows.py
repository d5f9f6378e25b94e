"""What a dashboard is made of, as data: dashboards of rows of panels of queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpumon.settings import Settings

# From a value on, a colour; the first is for all below.
Steps = tuple[tuple[float | None, str], ...]

_ALERTS = Settings().alerts
PLAIN: Steps = ((None, "green"),)
# gpumon warns at these by default as well.
HEAT: Steps = (
    (None, "green"),
    (_ALERTS.temp_threshold_celsius - 10, "yellow"),
    (_ALERTS.temp_threshold_celsius, "red"),
)
FULL: Steps = (
    (None, "green"),
    (_ALERTS.memory_threshold_percent / 100 - 0.1, "yellow"),
    (_ALERTS.memory_threshold_percent / 100, "red"),
)
USED: Steps = ((None, "blue"), (0.3, "green"))  # the red end would say that a busy GPU is bad
BAD: Steps = ((None, "green"), (1, "red"))
ODD: Steps = ((None, "green"), (1, "orange"))
GOOD: Steps = ((None, "red"), (1, "green"))

# What a panel needs beyond a healthy node with any GPU. Without it the panel is empty, and its description says why.
NEEDS: Mapping[str, str] = {
    "gpm": "GPUs of the Hopper generation or newer",
    "memory_sensor": "GPUs that have a sensor on their memory",
    "fan": "GPUs that have fans of their own",
    "nvlink": "GPUs with NVLink",
    "fabric": "GPUs on an NVSwitch fabric, Hopper or newer",
    "ecc": "GPUs with ECC memory",
    "remapping": "GPUs that replace rows of their memory (data-centre Ampere and newer)",
    "margin": "GPUs that tell the margin to their thresholds, which are newer ones",
    "undivided": "GPUs that are not divided into MIG devices: of those that are the driver does not tell it",
    "instant": "GPUs that tell the power of a moment (Ampere and newer)",
    "retirement": "GPUs older than Ampere, which retire pages of their memory",
    "confidential": "GPUs in confidential-computing mode",
    "mig": "GPUs that are divided into MIG devices",
    "work": "processes on the GPUs",
    "processes": "processes.per_process_metrics, which is off by default",
    "kubelet": "the kubelet's PodResources socket",
    "model_server": "a model server on the node",
    "server_metrics": "a model server that has metrics, such as vLLM",
    "ollama": "Ollama, or another server that says what it holds in memory",
    "proxy": "requests that go through gpumon's proxy",
    "model_energy": "a model server whose processes are seen on the GPUs",
    "otlp": "telemetry.otlp_endpoint",
    "delivery": "a place to send alerts to, in [alerts]",
    "storage": "storage.enabled",
    "archive": "a first run of the archive, which is within the first hour",
    "incomplete": "a GPU whose work cannot be told apart",
    "fault": "something that goes wrong",
    "alert": "an alert that is active",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One expression, with `<kind.reading>` for metrics, and what its series are called.

    `column` is its name in a table. `needs` is a key of NEEDS for what only some nodes have.
    """

    expr: str
    legend: str = ""
    column: str = ""
    needs: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """How one column of a table looks, by its shown name; `bar` draws its values as bars up to `maximum`."""

    name: str
    unit: str = ""
    steps: Steps = ()
    bar: bool = False
    maximum: float | None = None
    width: int | None = None
    decimals: int | None = None
    link: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel: a `form` of Grafana's, its queries and how it looks. Sizes are in Grafana's grid of 24 columns.

    `sort` is the column a table is sorted by, the greatest first, or the smallest with "-" before it.
    `more` is the dashboard, by its key, that says more about it. `labels` are a table's labels in order, with their titles.
    `dashed` are series, by a pattern of their names, that are limits and not readings; `unlisted` are not in the legend.
    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str
    more: str
    form: str = "timeseries"
    width: int = 8
    height: int = 8
    steps: Steps = PLAIN
    minimum: float | None = 0
    maximum: float | None = None
    decimals: int | None = None
    stacked: bool = False
    bars: bool = False
    dashed: str = ""
    unlisted: str = ""
    names: Mapping[float, tuple[str, str]] = field(default_factory=dict)
    labels: tuple[tuple[str, str], ...] = ()
    columns: tuple[Column, ...] = ()
    sort: str = ""
    needs: str = ""

    @property
    def words(self) -> str:
        """Give the description with what the panel needs."""
        return f"{self.description} Needs {NEEDS[self.needs]}." if self.needs else self.description


@dataclass(frozen=True, slots=True)
class Row:
    """A titled group of panels; a collapsed one is queried only when it is opened."""

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A choice at the top: the values of a label of some series. `many` allows several, and all."""

    name: str
    title: str
    label: str
    readings: tuple[str, ...]
    many: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """A mark on all graphs of a dashboard while an expression is 1 or more."""

    name: str
    expr: str
    title: str
    text: str
    color: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One dashboard; `key` names its file and, with "gpumon-" before it, its uid."""

    key: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]
    annotations: tuple[Annotation, ...]
    priced: bool = False

    @property
    def filters(self) -> dict[str, str]:
        """Give what its variables ask of labels; the cluster is one that others add."""
        return {variable.label: f"${variable.name}" for variable in self.variables}
