"""From `<kind.reading …>` in an expression to PromQL: the metric's name from the catalogue, and a dashboard's filters.

`<gpu.power_watts>` is the metric of that reading of that kind.
`<gpu.clock_hertz clock="sm">` adds matchers, `<llm_traffic.request_duration_seconds:bucket>` is a part of a histogram.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from gpumon.catalog import KINDS, EntityKind, Reading

KIND = {kind.name: kind for kind in KINDS}
PARTS = ("bucket", "count", "sum")
REFERENCE = re.compile(r"<([a-z0-9_]+)\.([a-z0-9_]+)(?::([a-z]+))?((?: [^<>]*)?)>")
MATCHER = re.compile(r'([a-z_]+)(=|!=|=~|!~)"([^"]*)"')

# Labels that are not gpumon's: where a series was scraped, which Prometheus or a collector adds to each of them.
PLACE = ("cluster", "job", "instance")


class UnknownNameError(LookupError):
    """An expression names what the catalogue does not have, as one sentence."""


def metric(kind: str, reading: str, part: str | None = None) -> str:
    """Give the metric's name of a reading; UnknownNameError where there is no such reading."""
    found, declared = _find(kind, reading)
    if (declared in found.histograms) != (part in PARTS):
        raise UnknownNameError(f"{kind}.{reading} is a histogram, or is not, against what {part!r} says")
    return found.metric(declared) + (f"_{part}" if part else "")


def _find(kind: str, reading: str) -> tuple[EntityKind, Reading]:
    if kind not in KIND:
        raise UnknownNameError(f"the catalogue has no kind {kind!r}, only {', '.join(KIND)}")
    for declared in (*KIND[kind].readings, *KIND[kind].histograms):
        if declared.name == reading:
            return KIND[kind], declared
    raise UnknownNameError(
        f"{kind!r} has no reading {reading!r}, only {', '.join(r.name for r in KIND[kind].readings)}"
    )


def query(expression: str, filters: Mapping[str, str]) -> str:
    """Give PromQL for an expression; `filters` are matchers by label, each used where a kind has that label.

    UnknownNameError says what is not in the catalogue: a kind, a reading, a label or a label's value.
    """

    def resolve(found: re.Match[str]) -> str:
        kind, reading, part, more = found.groups()
        name = metric(kind, reading, part)
        own = list(_matchers(kind, reading, more))
        taken = {label for label, _ in own}
        common = [
            f'{label}=~"{value}"'
            for label, value in filters.items()
            if label not in taken and _has(kind, reading, label)
        ]
        inner = ",".join((*common, *(text for _, text in own)))
        return f"{name}{{{inner}}}" if inner else name

    return REFERENCE.sub(resolve, expression)


def _has(kind: str, reading: str, label: str) -> bool:
    found, declared = _find(kind, reading)
    return label in PLACE or label in declared.labels or any(label == own.name for own in found.labels)


def _matchers(kind: str, reading: str, text: str) -> Iterable[tuple[str, str]]:
    for label, operator, value in MATCHER.findall(text):
        if not _has(kind, reading, label):
            raise UnknownNameError(f"{kind}.{reading} has no label {label!r}")
        _, declared = _find(kind, reading)
        if label in declared.labels and operator in ("=", "!="):
            known = {key[declared.labels.index(label)] for key in declared.values}
            if value not in known:
                raise UnknownNameError(f"{kind}.{reading} has no {label} {value!r}, only {', '.join(sorted(known))}")
        yield label, f'{label}{operator}"{value}"'
    if MATCHER.sub("", text).strip(" ,"):
        raise UnknownNameError(f"{text!r} after {kind}.{reading} is no list of matchers")
