"""The words alerts are declared in, and what is told of alerts as readings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from gpumon.catalog.gpu import GPU_LABELS
from gpumon.catalog.model import EntityKind, Label, Reading
from gpumon.catalog.xids import Xid

# From the one to get up for at night to the one that is good to know.
SEVERITIES = ("critical", "warning", "info")

MINUTE = 60.0
# Long enough that what happened is still seen by who looks after a meeting, and that repetitions are one alert.
FAULT_SECONDS = 3600.0
# What a server, a collector or a disk may take to restart without anyone being told.
RESTART_SECONDS = 300.0


class Look(Enum):
    """What of a measure is compared with the threshold."""

    NOW = "now"  # the value
    MEAN = "mean"  # its mean over the window; time in which it is not known counts as 0
    INCREASE = "increase"  # how much a counter grew within the window
    FALL = "fall"  # how far the value is below the highest since gpumon started


@dataclass(frozen=True, slots=True)
class Measure:
    """A number made of an entity's columns: the sum of `columns`, less the sum of `less`, as a percentage of `of`.

    It is not known where one of them is not.
    """

    columns: tuple[str, ...]
    less: tuple[str, ...] = ()
    of: str | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """A threshold that the settings have: the value of an option, times a factor."""

    name: str
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Guard:
    """A second condition: the same GPU has an entity of `kind` whose `column` is above `above`.

    `unless` are regular expressions by label; an entity that one of them matches does not count.
    """

    kind: EntityKind
    column: str
    above: float
    unless: Mapping[str, str] = field(default_factory=dict)


def of(column: str, whole: str | None = None) -> tuple[Measure, ...]:
    """Give the measure that is one column, or its percentage of another."""
    return (Measure((column,), of=whole),)


Threshold = float | Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A condition over the readings of one kind of entity, for how long, and what to say and do.

    Each entity of the kind is looked at for itself; with `together` all are one, and their values are summed.
    `measures` are tried in order: the first that is known is looked at, as `look` says, over `window_seconds`.
    The condition holds while the value is above `above` or below `below`; with `absent`, while a measure that was known
    is not known any more. `where` and `unless` are regular expressions by label that an entity must, or must not, match.
    The alert begins when the condition has held for `for_seconds`, and ends when the value has been on the other side
    of the threshold by `hysteresis` for `clear_seconds`.
    `summary` and `numbers` may name the entity's and the guard's labels; `numbers` also {value} and {threshold}.
    `explain` gives meaning and advice from the labels; {meaning} is then a word as well.
    `own` marks an alert of the settings.
    """

    name: str
    severity: str
    kind: EntityKind
    measures: tuple[Measure, ...]
    summary: str
    numbers: str
    advice: str
    look: Look = Look.NOW
    window_seconds: float = 0.0
    above: Threshold | None = None
    below: Threshold | None = None
    absent: bool = False
    hysteresis: float = 0.0
    for_seconds: float = 0.0
    clear_seconds: float = 0.0
    where: Mapping[str, str] = field(default_factory=dict)
    unless: Mapping[str, str] = field(default_factory=dict)
    guard: Guard | None = None
    together: bool = False
    explain: Callable[[Mapping[str, str]], Xid] | None = None
    own: bool = False

    @property
    def runbook(self) -> str:
        """Give where it is written what to do, in the repository; empty for an alert of the settings."""
        return "" if self.own else f"docs/runbooks.md#{self.name}"


ALERT = EntityKind(
    "alert",
    "An alert that is active. Present only while it is.",
    prefix="alert",
    labels=(
        Label("alert", "Name of the alert."),
        Label("severity", f"{', '.join(SEVERITIES[:-1])} or {SEVERITIES[-1]}."),
        *GPU_LABELS,
        Label("subject", "What else it is about, as in xid=79 or server=127.0.0.1:11434,kind=ollama."),
    ),
    readings=(
        Reading(name="active", help="1 while the alert is active; while it is not there is no series."),
        Reading(name="value", help="What was compared with the threshold last; absent where something is missing."),
        Reading(name="threshold", help="What the value is compared with."),
        Reading(name="start_timestamp_seconds", help="Unix time at which the alert began."),
    ),
)

ALERTING = EntityKind(
    "alerting",
    "Whether alerts are looked for, and how many there are. Present while alerts are on.",
    prefix="alerts",
    readings=(
        Reading(
            name="firing",
            help="Alerts that are active.",
            labels=("severity",),
            values={(severity,): () for severity in SEVERITIES},
        ),
        Reading(
            name="started_total",
            help="Alerts that began, since gpumon started.",
            labels=("severity",),
            values={(severity,): () for severity in SEVERITIES},
        ),
        Reading(
            name="left_out_total",
            help="Conditions that were not looked at further because too many others held, since gpumon started.",
        ),
        Reading(name="evaluation_seconds", help="Time the last look at all alerts took."),
    ),
)

ALERT_DELIVERY = EntityKind(
    "alert_delivery",
    "A place alerts are sent to.",
    prefix="alert_delivery",
    labels=(
        Label("target", '"webhook", "alertmanager" or "desktop".'),
        Label("address", "Host and port it is at; empty for the desktop."),
    ),
    readings=(
        Reading(
            name="success", help="1 when the last attempt to send was accepted, 0 when not; absent before the first."
        ),
        Reading(name="sent_total", help="Beginnings and ends of alerts that were accepted, since gpumon started."),
        Reading(name="failures_total", help="Attempts to send that failed, since gpumon started."),
        Reading(
            name="dropped_total",
            help="Beginnings and ends that were given up, since gpumon started: refused, too old or too many.",
        ),
        Reading(name="waiting", help="Beginnings and ends that wait to be sent."),
    ),
)

ALERT_KINDS = (ALERT, ALERTING, ALERT_DELIVERY)
