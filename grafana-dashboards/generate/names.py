"""From `<kind.reading …>` in an expression to PromQL, as in `rules`, with a dashboard's filters added."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rules.names import REFERENCE, UnknownNameError, matchers, reading

from gpumon.catalog import EntityKind, Reading

# Labels that are not gpumon's: where a series was scraped, which Prometheus or a collector adds to each of them.
PLACE = ("cluster", "job", "instance")


def metric(name: str) -> str:
    """Give the metric of a reading, named as in `gpu.power_watts`; UnknownNameError where there is no such reading."""
    kind, found = reading(*name.split("."))
    return kind.metric(found)


def query(expression: str, filters: Mapping[str, str]) -> str:
    """Give PromQL for an expression; `filters` are patterns by label, each used where a kind has that label.

    UnknownNameError says what is not in the catalogue: a kind, a reading, a label or a label's value.
    """

    def resolve(match: re.Match[str]) -> str:
        kind, found = reading(match[1], match[2])
        if (found in kind.histograms) != (match[3] is not None):
            raise UnknownNameError(f"{match[0]} names a part of what is no histogram, or all of what is one")
        own = matchers(kind, found, match[4] or "")
        taken = {label for label, _, _ in own}
        common = [
            (label, "=~", value) for label, value in filters.items() if label not in taken and _has(kind, found, label)
        ]
        inner = ",".join(f'{label}{operator}"{value}"' for label, operator, value in (*common, *own))
        return kind.metric(found) + (f"_{match[3]}" if match[3] else "") + (f"{{{inner}}}" if inner else "")

    return REFERENCE.sub(resolve, expression)


def _has(kind: EntityKind, found: Reading, label: str) -> bool:
    return label in PLACE or label in found.labels or any(label == own.name for own in kind.labels)
