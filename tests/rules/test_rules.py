"""Every alert fires when it should, not before, and ends; every recording rule records what it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from rules.generate import ALERTS, FOLDER
from rules.recording import RECORDINGS
from tests.rules import promtool

from rules import generate

ROOT = FOLDER.parent
SEVERITIES = ("critical", "warning", "info")
RECORDED = [recording for group in RECORDINGS.values() for recording in group]
# Names in expressions that are not gpumon's: `up` is what Prometheus says of a target.
FOREIGN = {"up"}


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
    """By promtool, each from the example in its row: quiet, firing with these words, quiet; near misses never fire."""
    documents = {}
    for alert in ALERTS:
        rule_file = f"{alert.name}.rule.yml"
        (tmp_path / rule_file).write_text(json.dumps(alone("gpumon-alerts.yml", "alert", alert.alert)))
        documents[alert.name] = promtool.alert_test(alert, rule_file)
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
