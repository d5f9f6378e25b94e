"""The schema of the Helm chart's values: the chart's own from its annotated values.yaml, gpumon's from the settings.

Draft 7 of JSON Schema, which every Helm 3 and 4 understands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from gpumon.settings import Option, Settings, options

Schema = dict[str, Any]

# Values of which only some texts are allowed; "" is where the security profile decides.
CHOICES = {
    "image.pullPolicy": ("IfNotPresent", "Always", "Never"),
    "securityProfile": ("default", "restricted"),
    "processView": ("", "hostPID", "proc", "none"),
    "podNames": ("", "kubelet", "off"),
    "data.volume": ("", "hostPath", "emptyDir", "claim"),
    "prometheus.monitor": ("none", "PodMonitor", "ServiceMonitor"),
}
# Parts of Kubernetes's objects that have a default here: Kubernetes says what is allowed in them.
OPEN = {"dashboards.labels", "updateStrategy", "resources", "startupProbe", "livenessProbe", "readinessProbe"}
# Lists of texts; all others are of objects.
TEXTS = {"extraArgs"}

TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object", list: "array"}
# What of a form of `settings.FORMS` a pattern can say; the rest gpumon itself says at its start.
PATTERNS = {"url": "^https?://", "listen": ":[0-9]+$"}

_KEY = re.compile(r"( *)([A-Za-z]+):")


def schema(text: str) -> Schema:
    """Give the schema for values of which `text` is the annotated YAML, comments as descriptions."""
    import yaml

    values = yaml.safe_load(text)
    comments = dict(_comments(text))
    properties = {key: _value(key, value, comments) for key, value in values.items()}
    properties["config"] |= {"properties": dict(_sections()), "additionalProperties": False}
    # Helm gives this one to every chart that is part of another.
    properties["global"] = {"type": "object"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """Give each key, as in "image.tag", with the comment right above it."""
    path: list[str] = []
    lines: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            lines.append(line.strip().removeprefix("#").removeprefix(" "))
            continue
        if key := _KEY.match(line):
            path = [*path[: len(key[1]) // 2], key[2]]
            yield ".".join(path), " ".join(" ".join(lines).split())
        lines = []


def _value(path: str, value: object, comments: dict[str, str]) -> Schema:
    found: Schema = {"type": TYPES[type(value)], "description": comments.get(path, "")}
    if path in CHOICES:
        found["enum"] = list(CHOICES[path])
    if isinstance(value, list):
        found["items"] = {"type": "string" if path in TEXTS else "object"}
    if isinstance(value, dict) and value and path not in OPEN:
        found["properties"] = {key: _value(f"{path}.{key}", one, comments) for key, one in value.items()}
        found["additionalProperties"] = False
    return found


def _sections() -> Iterator[tuple[str, Schema]]:
    for section, group in groupby(options(), lambda option: option.section):
        properties = {option.key: _option(option) for option in group}
        about = str(type(getattr(Settings(), section)).__doc__)
        yield (
            section,
            {"type": "object", "description": about, "properties": properties, "additionalProperties": False},
        )


def _option(option: Option) -> Schema:
    """Give what `gpumon.value.accept` lets through, as far as a schema can say it."""
    found: Schema = {"type": TYPES[type(option.default)], "description": option.help, "default": option.default}
    if option.minimum is not None:
        found |= {"minimum": option.minimum, "maximum": option.maximum}
    if option.choices:
        found["enum"] = list(option.choices)
    elif isinstance(option.default, str) and option.default:
        found["minLength"] = 1
    elif option.form in PATTERNS:
        found["pattern"] = f"^$|{PATTERNS[option.form]}"
    if option.form == "tables":
        found["type"] = ["string", "array"]
    return found
