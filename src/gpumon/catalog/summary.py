"""What a week of a GPU comes down to: one row per column of `weekly_summaries` that follows from readings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gpumon.catalog.events import EPISODES
from gpumon.catalog.gpu import GPU
from gpumon.catalog.model import EntityKind


class Over(Enum):
    """How a week's readings become one number."""

    GREATEST = "greatest"
    GROWTH = "growth"  # of a counter; where it starts anew, what it counted since
    TIME = "time"  # seconds in which one of the columns is not 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WeekColumn:
    """A column of the summary, in units of `scale`; of several `columns` the first that has readings, or any (TIME)."""

    name: str
    over: Over
    columns: tuple[str, ...]
    scale: float = 1.0
    kind: EntityKind = GPU


HOURS = 1 / 3600

WEEK = (
    WeekColumn(
        name="busy_hours",
        over=Over.GROWTH,
        columns=("busy_samples_seconds_total", "busy_polled_seconds_total"),
        scale=HOURS,
    ),
    WeekColumn(
        name="energy_joules",
        over=Over.GROWTH,
        columns=("energy_driver_joules_total", "energy_integrated_joules_total"),
    ),
    WeekColumn(name="peak_memory_bytes", over=Over.GREATEST, columns=("memory_used",)),
    WeekColumn(name="peak_temperature_celsius", over=Over.GREATEST, columns=("temperature",)),
    WeekColumn(
        name="throttled_hours", over=Over.TIME, columns=tuple(episode.column for episode in EPISODES), scale=HOURS
    ),
)

# The kinds of work hours are counted for; each has a column `hours_…`.
CATEGORIES = ("gaming", "llm_inference", "ml_training", "general_compute", "unknown")
