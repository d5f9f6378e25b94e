"""The dashboards as files: fresh, what Grafana takes, and about metrics that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard, units
from rules.names import UnknownNameError, promql

from generate.__main__ import DASHBOARDS, main
from generate.rows import NEEDS
from gpumon.catalog import KINDS
from tests.grafana import boards

# What Grafana itself replaces.
BUILT_IN = {"__rate_interval": "1m", "__range": "1h", "__range_s": "3600", "__interval": "15s"}
METRICS = {
    kind.metric(reading) + suffix
    for kind in KINDS
    for reading in (*kind.readings, *kind.histograms)
    for suffix in (("_bucket", "_sum", "_count") if reading in kind.histograms else ("",))
}
# Units that Grafana knows beside those the SDK lists, and those with a suffix of one's own.
FREE_UNITS = re.compile(r"suffix:.+")


def variables(key: str) -> dict[str, str]:
    """Give a value for each of a dashboard's variables."""
    return BUILT_IN | {variable["name"]: "1" for variable in boards.board(key)["templating"]["list"]}


def expressions(key: str) -> Iterator[tuple[str, str]]:
    """Give every expression of a dashboard, of panels and of annotations, with where it stands."""
    for target in boards.targets(key):
        yield str(target), target.expr
    for annotation in boards.board(key)["annotations"]["list"]:
        assert annotation["expr"] == annotation["target"]["expr"]
        yield f"{key}: annotation {annotation['name']}", annotation["expr"]


def selectors(node: Any) -> Iterator[Any]:
    """Give the selectors of a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "vs", "param"):
        child = getattr(node, name, None)
        if child is not None and not isinstance(child, (str, int, float)):
            yield from selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from selectors(child)


def test_the_files_are_what_the_generator_writes() -> None:
    """A change of the catalogue or of the generator that is not in the JSON fails here."""
    assert main(["--check"]) == 0
    assert [row.key for row in DASHBOARDS] == list(boards.KEYS)
    # Grafana takes every JSON file below the folder for a dashboard.
    assert sorted(path.stem for path in boards.FOLDER.rglob("*.json")) == sorted(boards.KEYS)


@pytest.mark.parametrize("key", boards.KEYS)
def test_grafanas_schema_has_every_field(key: str) -> None:
    """Read into Grafana's own types and written again, nothing of a dashboard is lost or changed."""
    read = dashboard.Dashboard.from_json(boards.board(key))
    assert json.loads(json.dumps(read, cls=JSONEncoder)) == boards.board(key)


@pytest.mark.parametrize("key", boards.KEYS)
def test_every_expression_is_promql_over_metrics_of_the_catalogue(key: str) -> None:
    """Parsed by an independent parser; each selector names one metric, and it exists."""
    for where, expr in expressions(key):
        parsed = promql_parser.parse(boards.interpolate(expr, variables(key)))
        found = list(selectors(parsed))
        assert found, where
        assert len(found) == len(re.findall(r"\b(?:gpumon|process)_\w+\{", expr)), where
        assert {selector.name for selector in found} <= METRICS, where


@pytest.mark.parametrize("key", boards.KEYS)
def test_every_panel_says_what_it_shows(key: str) -> None:
    """Title, description, unit, thresholds, a link that leads on, and names for more series than one."""
    known = {str(value) for name, value in vars(units).items() if name.isupper() or name[0].isupper()}
    for panel in boards.panels(key):
        where = f"{key}: {panel['title']}"
        assert panel["description"].endswith("."), where
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in known or FREE_UNITS.fullmatch(defaults["unit"]), (where, defaults["unit"])
        assert defaults["thresholds"]["steps"][0]["value"] is None, where
        (link,) = panel["links"]
        assert re.match(r"/d/gpumon-(\w+)\?", link["url"])[1] in set(boards.KEYS) - {key}, where  # type: ignore[index]
        if panel["type"] == "timeseries":
            assert all(target["legendFormat"] != "__auto" for target in panel["targets"]), where
        if panel["type"] == "table":
            assert {step["id"] for step in panel["transformations"]} == {"merge", "filterFieldsByName", "organize"}
    titles = [panel["title"] for panel in boards.panels(key)]
    assert all(title[0].isupper() or title.startswith("gpumon") for title in titles)


@pytest.mark.parametrize("key", boards.KEYS)
def test_panels_stand_side_by_side(key: str) -> None:
    """None reaches over the edge or over another."""
    places = [panel["gridPos"] for panel in boards.board(key)["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart or above, (one, other)
    everything = [*boards.panels(key), *(row for row in boards.board(key)["panels"] if row["type"] == "row")]
    assert len({panel["id"] for panel in everything}) == len(everything)


def test_the_generator_refuses_what_the_catalogue_does_not_have() -> None:
    """A kind, reading, label or value that is misspelt stops it, and so does a histogram without its part."""
    for wrong in (
        "<gpus.power_watts>",
        "<gpu.power>",
        '<gpu.power_watts pod="x">',
        '<gpu.clock_hertz clock="shader">',
        "<llm_traffic.request_duration_seconds>",
        "<gpu.power_watts:bucket>",
    ):
        with pytest.raises(UnknownNameError):
            promql(wrong, {})


def test_filters_go_to_the_kinds_that_have_the_label() -> None:
    """A GPU's number filters what has GPUs; a matcher of the expression's own goes before a filter."""
    filters = {"instance": "$node", "gpu_id": "$gpu"}
    assert promql("<daemon.up>", filters) == 'gpumon_up{instance=~"$node"}'
    assert promql("rate(<gpu.power_watts>[1m]) < 5", filters) == (
        'rate(gpumon_gpu_power_watts{instance=~"$node",gpu_id=~"$gpu"}[1m]) < 5'
    )
    assert promql('<gpu.power_watts gpu_id="0">', filters) == 'gpumon_gpu_power_watts{instance=~"$node",gpu_id="0"}'


def test_what_a_panel_needs_is_said_in_words() -> None:
    """Every need is in the table, and no row of the table is left over."""
    panels = [panel for row in DASHBOARDS for group in row.rows for panel in group.panels]
    used = {panel.needs for panel in panels} | {query.needs for panel in panels for query in panel.queries}
    assert used - {""} == set(NEEDS)


def test_provisioning_names_what_is_there() -> None:
    """The data source's type is the dashboards', and the dashboards' folder is where the README says to mount it."""
    sources = yaml.safe_load((boards.FOLDER / "provisioning/datasources/gpumon.yaml").read_text())
    (source,) = sources["datasources"]
    assert source["type"] == "prometheus"
    providers = yaml.safe_load((boards.FOLDER / "provisioning/dashboards/gpumon.yaml").read_text())
    (provider,) = providers["providers"]
    assert provider["options"]["path"] in (boards.FOLDER / "README.md").read_text()
