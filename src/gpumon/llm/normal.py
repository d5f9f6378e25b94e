"""A server's page of metrics in the normal form: what a kind's row makes of it, one entity of LLM_TRAFFIC per model."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from gpumon.catalog import LLM_TRAFFIC, Entity, Histogram
from gpumon.llm.kinds import Kind, Metric, Where
from gpumon.llm.openmetrics import Labels, Page
from gpumon.llm.request import RequestSource

HISTOGRAMS = {reading.name: i for i, reading in enumerate(LLM_TRAFFIC.histograms)}
TTFT_SECONDS, TTFT_MS = HISTOGRAMS["time_to_first_token_seconds"], HISTOGRAMS["time_to_first_token_ms"]

# What a sample is: the model, the row and which of its names; and the bound of a bucket, or one of these words.
Key = tuple[str, int, int]
Part = float | str
VALUE, OVER, SUM = "value", "over", "sum"

Found = dict[Key, dict[Part, float]]


class NormalForm:
    """Reads the pages of one server."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._rows = _rows_of_name(kind.metrics)
        # The sum alone of a histogram may be wanted; a family is found by how it begins.
        every = (name for row in kind.metrics for choice in row.names for name in choice.split("+"))
        names = tuple(dict.fromkeys(name.removesuffix("_sum") for name in every))
        self._page = Page(names, self._meaning)

    def read(self, page: bytes, server: str, only_model: str = "") -> tuple[Entity, ...]:
        """Give what the page says of each model; `only_model` is whose page it is where it names none."""
        found: Found = {}
        for meanings, value in self._page.read(page):
            for key, part in meanings:
                some = found.setdefault(key, {})
                before = some.get(part)
                if before is None:
                    some[part] = value
                elif self._kind.metrics[key[1]].highest:
                    some[part] = max(before, value)
                else:
                    some[part] = before + value
        models = dict.fromkeys(key[0] for key in found)
        return tuple(self._entity(server, model or only_model, model, found) for model in models)

    def _meaning(self, name: str, labels: Labels) -> tuple[tuple[Key, Part], ...] | None:
        """Say what samples of a series are: of which model, and of which rows which part."""
        kind = self._kind
        if any(labels.get(rank, "0") not in ("0", "") for rank in kind.ranks):
            return None
        model = labels.get(kind.model_label, "") if kind.model_label else ""
        meanings = []
        for i, choice, suffix in self._rows.get(name, ()):
            row = kind.metrics[i]
            part: Part | None = None
            if suffix == "_bucket":
                part = _bound(labels.get("le", "")) if _selected(row.where, labels) else None
            elif suffix == "_sum":
                part = SUM if _selected(row.where, labels) else None
            elif _selected(row.where, labels):
                part = VALUE
            elif row.over and _selected(row.over, labels):
                part = OVER
            if part is not None:
                meanings.append(((model, i, choice), part))
        return tuple(meanings) or None

    def _entity(self, server: str, label: str, model: str, found: Found) -> Entity:
        values: list[float | None] = [None] * len(LLM_TRAFFIC.columns)
        histograms: list[Histogram | None] = [None] * len(HISTOGRAMS)
        for i, row in enumerate(self._kind.metrics):
            some = next(
                (found[model, i, choice] for choice in range(len(row.names)) if (model, i, choice) in found), {}
            )
            if row.reading in HISTOGRAMS:
                histograms[HISTOGRAMS[row.reading]] = histogram(some, row.scale)
            else:
                values[LLM_TRAFFIC.index[row.reading]] = _value(row, some)
        seconds = histograms[TTFT_SECONDS]
        if seconds is not None:
            histograms[TTFT_MS] = scaled(seconds, 1000.0)
        labels = (server, self._kind.name, label, RequestSource.SERVER.value)
        return Entity(LLM_TRAFFIC, labels, tuple(values), tuple(histograms))


def _rows_of_name(rows: Iterable[Metric]) -> dict[str, list[tuple[int, int, str]]]:
    """Give, for each name of a sample, the rows it may belong to: (row, which of its names, suffix)."""
    several: dict[str, list[tuple[int, int, str]]] = {}
    for i, row in enumerate(rows):
        for choice, added in enumerate(row.names):
            for name in added.split("+"):
                for suffix in ("_bucket", "_sum") if row.reading in HISTOGRAMS else ("",):
                    several.setdefault(name + suffix, []).append((i, choice, suffix))
    return several


def _selected(where: Where, labels: Labels) -> bool:
    return all(labels.get(name, "") in values for name, values in where)


def _bound(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _value(row: Metric, some: dict[Part, float]) -> float | None:
    value = some.get(VALUE)
    if value is None or not row.over:
        return None if value is None else value * row.scale
    over = some.get(OVER)
    return value / over if over else None


def histogram(some: dict[Part, float], scale: float = 1.0) -> Histogram | None:
    """Make one of a page's buckets, which count all below their bound; None if it is none or contradicts itself."""
    reached = sorted((bound, count) for bound, count in some.items() if isinstance(bound, float))
    if not reached or reached[-1][0] != inf or SUM not in some:
        return None
    counts = [count - before for (_, before), (_, count) in zip([(0.0, 0.0), *reached], reached, strict=False)]
    if any(count < 0 for count in counts):
        return None
    return Histogram(tuple(bound * scale for bound, _ in reached[:-1]), tuple(counts), some[SUM] * scale)


def scaled(seconds: Histogram, factor: float) -> Histogram:
    """Give the same observations in another unit."""
    return Histogram(tuple(bound * factor for bound in seconds.bounds), seconds.counts, seconds.sum * factor)
