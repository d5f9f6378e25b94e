"""The figures as a table: which there are, what each must not exceed, and how the exporters compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GPUS = 8
# As many as make the 2,000 series that a scrape's limit is meant for.
MANY_GPUS = 12


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: `limit` is what gpumon with `gpus` GPUs must reach, `aim` what it should."""

    key: str
    label: str
    digits: int = 2
    limit: float | None = None
    aim: float | None = None
    gpus: int = GPUS


FIGURES = (
    Figure("cpu_ms_per_tick", "CPU per tick, not scraped, ms", 2, limit=5, aim=3),
    Figure("cpu_percent", "CPU, not scraped, % of one core", 3, limit=0.25),
    Figure("cpu_percent_scraped", "CPU, scraped every 15 s, % of one core (computed)", 3),
    Figure("calls_per_tick", "driver calls per tick", 0),
    Figure("resident_mb", "resident memory, after scrapes, MB", 1, limit=48, aim=44),
    Figure("anonymous_mb", "anonymous memory, after scrapes, MB", 1, limit=33),
    Figure("resident_idle_mb", "resident memory, never scraped, MB", 1),
    Figure("threads", "threads", 0),
    Figure("files", "open files", 0),
    Figure("series", "series per scrape", 0),
    Figure("plain_bytes", "bytes per scrape, plain text", 0),
    Figure("gzip_bytes", "bytes per scrape, as Prometheus asks", 0),
    Figure("one_median_ms", "scrape, one client, median ms", 2, limit=1, gpus=MANY_GPUS),
    Figure("one_p99_ms", "scrape, one client, p99 ms", 2, limit=3, gpus=MANY_GPUS),
    Figure("one_per_second", "scrapes a second, one client", 0),
    Figure("plain_median_ms", "scrape of plain text, median ms", 2),
    Figure("plain_p99_ms", "scrape of plain text, p99 ms", 2),
    Figure("paced_median_ms", "scrape, ten clients, 10/s each, median ms", 2, limit=1, gpus=MANY_GPUS),
    Figure("paced_p99_ms", "scrape, ten clients, 10/s each, p99 ms", 2, limit=3, gpus=MANY_GPUS),
    Figure("together_median_ms", "scrape, ten at the same moment, 4/s, median ms", 2, limit=1, gpus=MANY_GPUS),
    Figure("together_p99_ms", "scrape, ten at the same moment, 4/s, p99 ms", 2, limit=3, gpus=MANY_GPUS),
    Figure("ten_median_ms", "scrape, ten clients without pause, median ms", 2, limit=1, gpus=MANY_GPUS),
    Figure("ten_p99_ms", "scrape, ten clients without pause, p99 ms", 2, limit=3, gpus=MANY_GPUS),
    Figure("each_median_ms", "scrape of a new reading, median ms", 2),
    Figure("each_max_ms", "scrape of a new reading, slowest ms", 2),
    Figure("each_cpu_ms", "CPU per scrape of a new reading, ms", 2),
    Figure("cpu_ms_per_scrape", "CPU per scrape, one client without pause, ms", 3),
    Figure("scrape_calls", "driver calls caused by scrapes", 0, limit=0),
    Figure("start_s", "start to first answer, median s", 2),
    Figure("start_max_s", "start to first answer, slowest s", 2, limit=1.5),
    Figure("start_gpus_s", "start to first readings of GPUs, median s", 2),
    Figure("hang_max_ms", "slowest scrape while a GPU hangs, ms", 1, limit=50),
    # Fresh is: not older than two ticks.
    Figure("hang_others_age_s", "oldest value of another GPU meanwhile, s", 1, limit=4),
    Figure("hang_shown_s", "hung GPU's last value shown for, s", 1, limit=4),
    Figure("hang_return_s", "hung GPU read again after, s", 1),
    Figure("soak_ticks", "soak: ticks", 0),
    Figure("soak_resident_mb", "soak: growth of resident memory, MB", 2, limit=1),
    Figure("soak_anonymous_mb", "soak: growth of anonymous memory, MB", 2),
    # A tick that met a slow call leaves a thread behind, but never more than one per GPU.
    Figure("soak_threads", "soak: growth of threads", 0, limit=GPUS),
    Figure("soak_files", "soak: growth of open files", 0, limit=0),
)


@dataclass(frozen=True, slots=True)
class Column:
    """One exporter's figures."""

    name: str
    gpus: int
    pace: str
    figures: Mapping[str, float]


def table(columns: Sequence[Column]) -> tuple[str, list[str]]:
    """Give the table, and the rows in which gpumon misses its limit."""
    rows = [
        ["", *(column.name for column in columns), "gpumon's", ""],
        ["", *(f"{column.gpus} GPUs, {column.pace}" for column in columns), "limit", "verdict"],
    ]
    missed = []
    for figure in FIGURES:
        values = [column.figures.get(figure.key) for column in columns]
        if all(value is None for value in values):
            continue
        verdict = _verdict(figure, columns)
        if verdict.startswith("MISSED"):
            missed.append(figure.label)
        cells = ("–" if value is None else f"{value:,.{figure.digits}f}" for value in values)
        rows.append([figure.label, *cells, _limit(figure), verdict])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for label, *padded, verdict in rows:
        middle = (cell.rjust(width) for cell, width in zip(padded, widths[1:-1], strict=True))
        lines.append("  ".join((label.ljust(widths[0]), *middle, verdict)).rstrip())
    return "\n".join(lines), missed


def _limit(figure: Figure) -> str:
    if figure.limit is None:
        return ""
    aim = f", aim {figure.aim:g}" if figure.aim is not None else ""
    gpus = f" ({figure.gpus} GPUs)" if figure.gpus != GPUS else ""
    return f"{figure.limit:g}{aim}{gpus}"


def _verdict(figure: Figure, columns: Sequence[Column]) -> str:
    own = next((c.figures.get(figure.key) for c in columns if c.name == "gpumon" and c.gpus == figure.gpus), None)
    if figure.limit is None or own is None:
        return ""
    if own > figure.limit:
        return "MISSED"
    return "ok" if figure.aim is None or own <= figure.aim else "ok, aim missed"


COMPARED = {
    "cpu_ms_per_tick": "CPU per tick",
    "each_cpu_ms": "CPU per scrape of a new reading",
    "resident_mb": "memory",
}


def ratios(columns: Sequence[Column]) -> list[str]:
    """Give sentences that compare gpumon with each peer on as many GPUs."""
    own = next((column.figures for column in columns if column.name == "gpumon" and column.gpus == GPUS), None)
    sentences = []
    for column in columns:
        if own is None or column.name == "gpumon" or column.gpus != GPUS:
            continue
        shares = {
            what: own[key] / column.figures[key]
            for key, what in COMPARED.items()
            if key in own and column.figures.get(key)
        }
        parts = [f"{what} {share:.2f}" for what, share in shares.items()]
        per_series = (own["one_median_ms"] / own["series"]) / (
            column.figures["one_median_ms"] / column.figures["series"]
        )
        parts.append(f"median scrape time per series {per_series:.3f}")
        sentences.append(f"Of {column.name}'s ({column.pace}) gpumon takes: {', '.join(parts)}.")
    return sentences
