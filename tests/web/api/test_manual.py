"""docs/api.md is whole: what it lists is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import gpumon
from gpumon.catalog.events import CHANGES, ENDED_AFTER_FAULT, EPISODES
from gpumon.web.api.endpoints import ENDPOINTS
from gpumon.web.api.manual import FURTHER, manual
from gpumon.web.api.query import parameters

# Where an event's kind is written in the code: as an argument of Event, or of a function that makes one.
TOLD = re.compile(r'(?:kind=|_event\()"(\w+)"(?: if [^"]+ else "(\w+)")?')


def test_every_kind_of_event_is_listed() -> None:
    """Those of the catalogue's rules, and those that the store and the alerts tell by themselves."""
    rules = {change.event for change in CHANGES}
    rules |= {f"{episode.event}_{end}" for episode in EPISODES for end in ("start", "end")}
    source = Path(gpumon.__file__).parent
    told = {ENDED_AFTER_FAULT}
    for file in (*source.glob("store/*.py"), *source.glob("export/alerts*.py")):
        told |= {kind for found in TOLD.findall(file.read_text()) for kind in found if kind}
    assert set(FURTHER) == told
    assert not rules & told
    text = manual()
    assert all(f"`{kind}`" in text for kind in rules | told)


def test_every_path_and_parameter_is_there() -> None:
    """With what is allowed."""
    text = manual()
    for endpoint in ENDPOINTS:
        section = text[text.index(f"### {endpoint.path}\n") :].split("\n### ", 2)[0]
        for parameter in parameters(endpoint.query):
            assert f"| `{parameter.name}` | {parameter.help} | {parameter.form.allowed} |" in section
