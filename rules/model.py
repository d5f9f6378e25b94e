"""What a rule is: a row that carries everything about itself, an example of when it fires included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# A value of a series in one phase of an example: constant, growing by so much a step ("+3"), or absent.
Phase = float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Series in three phases: all is well, then it is not, then it is again. Series that are never at fault stay constant.

    A series is a reference as in an expression; labels of a GPU are filled in from `gpu_id`, which is 0 if not said.
    `steps` is how many samples each phase has, `step_minutes` the time between two.
    `labels` are those of the alert besides `job` and `instance`; `value` is what the description says.
    """

    series: Mapping[str, tuple[Phase, Phase, Phase] | float]
    labels: Mapping[str, str] = field(default_factory=dict)
    value: str = ""
    steps: tuple[int, int, int] = (10, 20, 20)
    step_minutes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert. `why` says where its threshold and its duration come from; `name` is also its section of the runbooks.

    `more` are examples of further ways to it.

    In `summary` and `description` `{x}` is the label x; `{value}` in a description is the value as `shown` prints it.
    """

    name: str
    severity: str
    expr: str
    lasts: str = ""
    summary: str
    description: str
    shown: str = "humanize"
    why: str
    example: Example
    more: tuple[Example, ...] = ()

    @property
    def alert(self) -> str:
        """Give the name that Prometheus and Alertmanager know it by."""
        return "Gpumon" + "".join(word.capitalize() for word in self.name.removeprefix("gpumon_").split("_"))


@dataclass(frozen=True, slots=True)
class Group:
    """A group of alerts; it is evaluated as one."""

    name: str
    alerts: tuple[Alert, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One recording rule, named level:metric:operations. `what` says what it is.

    `series` are as in an Example, over 70 steps of a minute; `gives` is what is recorded then, by labels without `job`.
    """

    record: str
    expr: str
    what: str
    series: Mapping[str, Phase]
    gives: tuple[tuple[Mapping[str, str], float], ...]
