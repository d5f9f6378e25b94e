"""Every alert fires when it should, not before, and ends; every recording rule records what it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import promql_parser
import pytest
import yaml
from rules.generate import ALERTS, FOLDER
from rules.names import UnknownNameError, promql
from rules.recording import RECORDINGS
from structlog.testing import capture_logs
from tests.node import Node
from tests.rules import promtool

from gpumon.catalog import KINDS, Snapshot
from gpumon.catalog.alerts import ALERTS as OWN
from gpumon.export.prometheus import Form, Renderer
from gpumon.settings import options
from rules import generate

ROOT = FOLDER.parent
SEVERITIES = ("critical", "warning", "info")
RECORDED = [recording for group in RECORDINGS.values() for recording in group]
# Names in expressions that are not gpumon's: `up` is what Prometheus says of a target.
FOREIGN = {"up"}


@cache
def shipped(name: str) -> list[dict]:
    """Give the groups of a file as it is shipped."""
    return yaml.safe_load((FOLDER / name).read_text())["groups"]


def alone(name: str, key: str, wanted: str) -> dict:
    """Give a rule file with one alert, or with the group of a recording rule, as it is shipped."""
    for group in shipped(name):
        for rule in group["rules"]:
            if rule.get(key) == wanted:
                rules = [rule] if key == "alert" else group["rules"]
                return {"groups": [{"name": group["name"], "rules": rules}]}
    raise KeyError(wanted)


def test_the_files_are_what_the_rows_say() -> None:
    """And Prometheus takes them."""
    assert generate.stale() == []
    promtool_path = shutil.which("promtool")
    if promtool_path is None:
        pytest.skip("NOT CHECKED: promtool is not installed (Debian package prometheus)")
    files = [str(FOLDER / name) for name in generate.FILES]
    checked = subprocess.run([promtool_path, "check", "rules", *files], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(ALERTS)} rules found" in checked.stdout
    assert f"{len(RECORDED)} rules found" in checked.stdout


def test_every_alert_fires_not_too_early_and_recovers(tmp_path: Path) -> None:
    """By promtool, each from the examples in its row: quiet, firing with these words, quiet; near misses never fire."""
    documents = {}
    for alert in ALERTS:
        rule_file = f"{alert.name}.rule.yml"
        (tmp_path / rule_file).write_text(json.dumps(alone("gpumon-alerts.yml", "alert", alert.alert)))
        for number, example in enumerate((alert.example, *alert.more)):
            documents[f"{alert.name}-{number}"] = promtool.alert_test(alert, example, rule_file)
    failed = promtool.run(tmp_path, documents)
    assert not failed, failed


def test_every_recording_rule_records_what_its_row_says(tmp_path: Path) -> None:
    """By promtool, over 70 minutes."""
    documents = {}
    for recording in RECORDED:
        name = re.sub(r"\W", "_", recording.record)
        (tmp_path / f"{name}.rule.yml").write_text(
            json.dumps(alone("gpumon-recording.yml", "record", recording.record))
        )
        documents[name] = promtool.recording_test(recording, f"{name}.rule.yml")
    failed = promtool.run(tmp_path, documents)
    assert not failed, failed


def test_every_rule_is_named_and_told_as_it_should_be() -> None:
    """A severity, all annotations with the numbers and the place, a reason; names once each."""
    names = [alert.alert for alert in ALERTS]
    assert len(set(names)) == len(names)
    for alert in ALERTS:
        assert alert.severity in SEVERITIES, alert.name
        assert alert.why, alert.name
        assert "{instance}" in alert.summary, alert.name
        assert len(alert.summary) < 100, alert.name
        assert re.fullmatch(r"(\d+[smhd])?", alert.lasts), alert.name
        assert ("{value}" in alert.description) <= bool(alert.example.value), alert.name
        assert alert.description.rstrip().endswith((".", "{reason}")), alert.name
    for rule in (rule for group in shipped("gpumon-alerts.yml") for rule in group["rules"]):
        assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    for recording in RECORDED:
        assert re.fullmatch(r"(gpu|instance|job|namespace|category|model):gpumon_\w+:\w+", recording.record)
        assert recording.gives


def selected(expression: str) -> set[str]:
    """Give the names of the metrics in an expression, by a parser of Prometheus's own grammar."""
    found = set()

    def visit(node: object) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.add(node.name)
        for part in ("lhs", "rhs", "expr", "vector_selector", "param"):
            if (below := getattr(node, part, None)) is not None:
                visit(below)
        for argument in getattr(node, "args", ()):
            visit(argument)

    visit(promql_parser.parse(expression))
    return found


def catalogued() -> set[str]:
    """Give the name of every series that gpumon can give, and of those that the rules record."""
    names = {kind.metric(reading) for kind in KINDS for reading in kind.readings}
    parts = {
        f"{kind.metric(h)}_{part}" for kind in KINDS for h in kind.histograms for part in ("bucket", "sum", "count")
    }
    return names | parts | {recording.record for recording in RECORDED}


def test_every_metric_in_every_expression_is_in_the_catalogue() -> None:
    """As the files are shipped."""
    known = catalogued() | FOREIGN
    for name in generate.FILES:
        for rule in (rule for group in shipped(name) for rule in group["rules"]):
            names = selected(rule["expr"])
            assert names, rule
            assert names <= known, names - known


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("<gpu.no_such>", "no reading 'no_such'"),
        ("<no.power_watts>", "no kind 'no'"),
        ('<gpu.power_watts model="x">', "no label 'model'"),
        ('<gpu.clock_hertz clock="sn">', "clock='sn' is none of"),
        ("<llm_traffic.request_duration_seconds>", "histogram"),
        ("<gpu.power_watts:sum>", "no histogram"),
    ],
)
def test_a_name_that_is_not_in_the_catalogue_stops_the_generator(expression: str, says: str) -> None:
    """With a sentence that says what there is."""
    with pytest.raises(UnknownNameError, match=says):
        promql(expression)


def sections() -> dict[str, str]:
    """Give the runbooks' sections by name."""
    text = (ROOT / "docs" / "runbooks.md").read_text()
    return {part.split("\n", 1)[0]: part for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]}


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    """Each section says what it means, how to confirm it and what to do; links within lead somewhere."""
    runbooks = sections()
    assert set(runbooks) == {alert.name for alert in (*ALERTS, *OWN)}
    for name, text in runbooks.items():
        for part in ("**Means**", "**Confirm**", "**Do**"):
            assert text.count(part) == 1, (name, part)
        for anchor in re.findall(r"\]\(#([^)]+)\)", text):
            assert anchor in runbooks, (name, anchor)
        for file in re.findall(r"\]\(([a-z-]+\.md)\)", text):
            assert (ROOT / "docs" / file).is_file(), (name, file)
    for alert in ALERTS:
        assert generate.told(alert)["runbook_url"] == f"docs/runbooks.md#{alert.name}"


def test_the_runbooks_name_only_what_there_is() -> None:
    """Metrics of the catalogue, recorded series, settings."""
    text = (ROOT / "docs" / "runbooks.md").read_text()
    known = catalogued()
    series = set(re.findall(r"[a-z]+:gpumon_\w+:\w+", text))
    plain = set(re.findall(r"(?<![:\w])(?:gpumon|process)_[a-z_]+", text)) - set(sections())
    assert series | plain <= known, (series | plain) - known
    settings = {option.name for option in options()}
    for name in re.findall(
        r"`((?:service|gpu|processes|kubernetes|llm|proxy|storage|telemetry|alerts)\.[a-z_]+)`", text
    ):
        assert name in settings, name


def firing(folder: Path, profile: str, trouble: Callable[[Node], None] = lambda node: None) -> set[str]:
    """Give the alerts that fire of a simulated node, seen every two minutes for 80; `trouble` begins after 40."""
    looks = 40
    used = set().union(*(selected(promql(alert.expr)) for alert in ALERTS))
    inputs: dict[str, list[str]] = {}
    # As long as the simulated driver's buffer of samples reaches back.
    with Node(profile, interval=12.0) as node, capture_logs():
        for look in range(looks):
            if look == looks // 2:
                trouble(node)
            for name, value in page(node.tick(10), used):
                inputs.setdefault(name, []).extend(["_"] * (look - len(inputs[name])) + [value])
    (folder / "rules.yml").write_text((FOLDER / "gpumon-alerts.yml").read_text())
    test = {
        "interval": "2m",
        "input_series": [{"series": name, "values": " ".join(some)} for name, some in inputs.items()],
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": alert.alert, "exp_alerts": []}
            for alert in ALERTS
            for minute in (38, 78)
        ],
    }
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "2m", "tests": [test]}
    return set(re.findall(r"alertname: (\w+)", promtool.run(folder, {profile: document})))


@pytest.mark.parametrize("profile", ["h100x1", "rtx4090x1", "h100x1-mig"])
def test_a_healthy_node_fires_nothing(profile: str, tmp_path: Path) -> None:
    """Through all alerts at once."""
    assert firing(tmp_path, profile) == set()


def test_a_lost_gpu_fires_that_and_nothing_else(tmp_path: Path) -> None:
    """So that who is called sees one cause."""
    assert firing(tmp_path, "h100x2", lambda node: node.library.lose(1)) == {"GpumonGpuLost"}


def page(snapshot: Snapshot, names: set[str]) -> Iterator[tuple[str, str]]:
    """Give the series of some names on a snapshot's page as Prometheus has them, with their values."""
    for line in b"".join(Renderer().render(snapshot.entities, Form.TEXT)).decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            bare, _, inner = name.partition("{")
            if bare in names:
                yield f'{bare}{{job="gpumon",instance="node:9090",{inner or "}"}', value
