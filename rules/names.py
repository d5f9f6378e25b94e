"""From `<kind.reading …>` in an expression to PromQL: a metric's name comes from the catalogue and is never typed.

`<gpu.power_watts>` is the metric of that reading, `<gpu.clock_hertz clock="sm">` one with matchers,
`<llm_traffic.request_duration_seconds:bucket>` a part of a histogram.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpumon.catalog import KINDS, EntityKind, Reading

REFERENCE = re.compile(r"<([a-z0-9_]+)\.([a-z0-9_]+)(?::(bucket|count|sum))?(?: ([^<>]+))?>")
# Labels that are not gpumon's: where a series was scraped, which Prometheus or a collector adds, and a histogram's bounds.
PLACE = {"cluster", "job", "instance"}
OTHER_LABELS = PLACE | {"le"}
MATCHER = re.compile(r'([a-z_]+)(=~|!~|!=|=)"([^"]*)"')
_KINDS = {kind.name: kind for kind in KINDS}


class UnknownNameError(LookupError):
    """An expression names what the catalogue does not have, as one sentence."""


def reading(kind_name: str, reading_name: str) -> tuple[EntityKind, Reading]:
    """Give a kind and one of its readings by name; UnknownNameError where there is none."""
    kind = _KINDS.get(kind_name)
    if kind is None:
        raise UnknownNameError(f"the catalogue has no kind {kind_name!r}; it has {', '.join(_KINDS)}")
    readings = {found.name: found for found in (*kind.readings, *kind.histograms)}
    if reading_name not in readings:
        raise UnknownNameError(f"kind {kind_name!r} has no reading {reading_name!r}; it has {', '.join(readings)}")
    return kind, readings[reading_name]


def matchers(kind: EntityKind, found: Reading, text: str) -> list[tuple[str, str, str]]:
    """Give label, operator and value of each matcher; UnknownNameError for a label that the series does not have."""
    known = {label.name for label in kind.labels} | set(found.labels) | OTHER_LABELS
    triples = MATCHER.findall(text)
    for label, operator, value in triples:
        if label not in known:
            raise UnknownNameError(f"{kind.metric(found)} has no label {label!r}; it has {', '.join(sorted(known))}")
        if label in found.labels and operator == "=":
            values = {key[found.labels.index(label)] for key in found.values}
            if value not in values:
                raise UnknownNameError(f"{label}={value!r} is none of {', '.join(sorted(values))}")
    return triples


def metric(name: str) -> str:
    """Give the metric of a reading, named as in `gpu.power_watts`; UnknownNameError where there is no such reading."""
    kind, found = reading(*name.split("."))
    return kind.metric(found)


def promql(expression: str, filters: Mapping[str, str] | None = None) -> str:
    """Give PromQL for an expression with references; UnknownNameError where one leads nowhere.

    `filters` are patterns by label, each used where a series can have that label and the reference does not name it.
    """

    def resolve(match: re.Match[str]) -> str:
        kind, found = reading(match[1], match[2])
        if (found in kind.histograms) != (match[3] is not None):
            raise UnknownNameError(f"{match[0]} names a part of what is no histogram, or all of what is one")
        own = matchers(kind, found, match[4] or "")
        labels = PLACE | set(found.labels) | {label.name for label in kind.labels}
        taken = {label for label, _, _ in own}
        common = [(label, "=~", value) for label, value in (filters or {}).items() if label in labels - taken]
        inner = ",".join(f'{label}{operator}"{value}"' for label, operator, value in (*common, *own))
        return kind.metric(found) + (f"_{match[3]}" if match[3] else "") + (f"{{{inner}}}" if inner else "")

    return REFERENCE.sub(resolve, expression)
