"""The figures as a table: which there are, what each must not exceed, and how the exporters compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: `limit` is what gpumon with 8 GPUs must reach, `aim` what it should."""

    key: str
    label: str
    digits: int = 2
    limit: float | None = None
    aim: float | None = None


FIGURES = (
    Figure("cpu_ms_per_tick", "CPU per tick, not scraped, ms", 2, limit=5, aim=3),
    Figure("cpu_percent", "CPU, not scraped, % of one core", 3, limit=0.25),
    Figure("cpu_percent_scraped", "CPU, scraped every 15 s, % of one core (computed)", 3),
    Figure("calls_per_tick", "driver calls per tick", 0),
    Figure("resident_mb", "resident memory, scraped, MB", 1, limit=48, aim=44),
    Figure("anonymous_mb", "anonymous memory, scraped, MB", 1, limit=33),
    Figure("resident_idle_mb", "resident memory, never scraped, MB", 1),
    Figure("threads", "threads", 0),
    Figure("files", "open files", 0),
    Figure("series", "series per scrape", 0),
    Figure("plain_bytes", "bytes per scrape, plain text", 0),
    Figure("gzip_bytes", "bytes per scrape, as Prometheus asks", 0),
    Figure("one_median_ms", "scrape, one client, median ms", 2, limit=1),
    Figure("one_p99_ms", "scrape, one client, p99 ms", 2, limit=3),
    Figure("one_per_second", "scrapes a second, one client", 0),
    Figure("plain_median_ms", "scrape of plain text, median ms", 2),
    Figure("plain_p99_ms", "scrape of plain text, p99 ms", 2),
    Figure("paced_median_ms", "scrape, ten clients 10/s each, median ms", 2, limit=1),
    Figure("paced_p99_ms", "scrape, ten clients 10/s each, p99 ms", 2, limit=3),
    Figure("together_median_ms", "scrape, ten at the same moment 4/s, median ms", 2, limit=1),
    Figure("together_p99_ms", "scrape, ten at the same moment 4/s, p99 ms", 2, limit=3),
    Figure("ten_median_ms", "scrape, ten clients without pause, median ms", 2, limit=1),
    Figure("ten_p99_ms", "scrape, ten clients without pause, p99 ms", 2, limit=3),
    Figure("each_median_ms", "scrape of a new reading, median ms", 2),
    Figure("each_max_ms", "scrape of a new reading, slowest ms", 2),
    Figure("each_cpu_ms", "CPU per scrape of a new reading, ms", 2),
    Figure("cpu_ms_per_scrape", "CPU per scrape, one client without pause, ms", 3),
    Figure("scrape_calls", "driver calls caused by scrapes", 0, limit=0),
    Figure("start_s", "start to first answer, median s", 2),
    Figure("start_max_s", "start to first answer, slowest s", 2, limit=1.5),
    Figure("start_gpus_s", "start to first GPU readings, median s", 2),
    Figure("hang_max_ms", "slowest scrape while a GPU hangs, ms", 1, limit=50),
    Figure("hang_others_age_s", "oldest value of another GPU meanwhile, s", 1, limit=4),  # two ticks
    Figure("hang_shown_s", "hung GPU's old value still shown after, s", 1, limit=4),
    Figure("hang_return_s", "hung GPU read again after, s", 1),
    Figure("soak_ticks", "soak: ticks", 0),
    Figure("soak_resident_mb", "soak: growth of resident memory, MB", 2, limit=1),
    Figure("soak_anonymous_mb", "soak: growth of anonymous memory, MB", 2),
    Figure("soak_threads", "soak: growth of threads", 0, limit=0),
    Figure("soak_files", "soak: growth of open files", 0, limit=0),
)


def table(columns: Sequence[tuple[str, Mapping[str, float]]], judged: int, peer: int | None) -> tuple[str, list[str]]:
    """Give the table, and the labels of the limits missed by column `judged`; ratios are of column `peer` to it."""
    header = ["", *(title for title, _ in columns), "limit", "", "peer ratio"]
    rows = [header]
    missed = []
    for figure in FIGURES:
        values = [figures.get(figure.key) for _, figures in columns]
        if all(value is None for value in values):
            continue
        own = values[judged]
        verdict = ""
        if figure.limit is not None and own is not None:
            ok = own <= figure.limit
            verdict = "ok" if ok else "MISSED"
            if ok and figure.aim is not None:
                verdict = "ok, aim reached" if own <= figure.aim else "ok, above the aim"
            if not ok:
                missed.append(figure.label)
        rows.append(
            [
                figure.label,
                *("–" if value is None else f"{value:,.{figure.digits}f}" for value in values),
                ""
                if figure.limit is None
                else f"{figure.limit:g}" + ("" if figure.aim is None else f" (aim {figure.aim:g})"),
                verdict,
                _ratio(values[peer] if peer is not None else None, own),
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = []
    for label, *cells in rows:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join((label.ljust(widths[0]), *padded)).rstrip())
    return "\n".join(lines), missed


def _ratio(peer: float | None, own: float | None) -> str:
    return f"{peer / own:.1f}×" if peer is not None and own else ""
