"""Unit tests for promtool, made from the examples that the rules carry."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rules.generate import told
from rules.model import Alert, Example, Phase, Recording
from rules.names import MATCHER, REFERENCE, promql, reading

PLACE = {"job": "gpumon", "instance": "node:9090"}
# Longer than any duration of a rule, so that what it looks back on is there.
RECORDING_STEPS = 70

Document = dict[str, Any]


def gpu(labels: Mapping[str, str]) -> dict[str, str]:
    """Give labels with those of a GPU filled in from its number."""
    index = labels.get("gpu_id")
    if index is None or "gpu_uuid" in labels:
        return dict(labels)
    return {"gpu_name": "H100", "gpu_uuid": f"GPU-{index}", **labels}


def series(reference: str) -> str:
    """Give a series as promtool reads it: with the labels that Prometheus adds, and a GPU's where it is one."""
    name, _, inner = promql(reference).partition("{")
    own = {label: value for label, _, value in MATCHER.findall(inner)}
    match = REFERENCE.fullmatch(reference)
    known = {label.name for label in reading(match[1], match[2])[0].labels} if match else set()
    if "gpu_uuid" in known:
        own = gpu({"gpu_id": "0"} | own)
    if "gpu_name" not in known:
        own.pop("gpu_name", None)
    return _sample(name, {label: value for label, value in (PLACE | own).items() if value})


def values(phases: Iterable[Phase], steps: Iterable[int]) -> str:
    """Give promtool's notation of a series: each phase so many samples, counters going on where they were."""
    words, last = [], 0.0
    for phase, count in zip(phases, steps, strict=True):
        if phase is None:
            words.append(f"stale _x{count - 1}")
        elif isinstance(phase, str):
            growth = float(phase)
            words.append(f"{last + growth:.10g}{growth:+.10g}x{count - 1}")
            last += growth * count
        else:
            words.append(f"{phase:.10g}x{count - 1}")
            last = float(phase)
    return " ".join(words)


def alert_test(alert: Alert, example: Example, rule_file: str) -> Document:
    """Give the unit test of an example of one alert: quiet, not before its time, firing, and quiet again."""
    quiet, bad, good = example.steps
    inputs = [
        {
            "series": series(name),
            "values": values(phases if isinstance(phases, tuple) else (phases,) * 3, example.steps),
        }
        for name, phases in example.series.items()
    ]
    labels = PLACE | gpu(example.labels) | {"severity": alert.severity}
    words = {name: _filled(text, labels, example.value) for name, text in told(alert).items()}
    times = {
        quiet - 1: [],
        quiet + bad - 1: [{"exp_labels": labels, "exp_annotations": words}],
        quiet + bad + good - 1: [],
    }
    if alert.lasts:
        times[quiet] = []
    checks = [
        {"eval_time": f"{step * example.step_minutes}m", "alertname": alert.alert, "exp_alerts": firing}
        for step, firing in sorted(times.items())
    ]
    minutes = f"{example.step_minutes}m"
    return _document(rule_file, minutes, {"interval": minutes, "input_series": inputs, "alert_rule_test": checks})


def recording_test(recording: Recording, rule_file: str) -> Document:
    """Give the unit test of one recording rule."""
    inputs = [
        {"series": series(name), "values": values((phase,), (RECORDING_STEPS,))}
        for name, phase in recording.series.items()
    ]
    fleet = {} if recording.record.startswith(("category:", "namespace:gpumon_workload")) else {"job": PLACE["job"]}
    expected = [
        {"labels": _sample(recording.record, fleet | dict(labels)), "value": value} for labels, value in recording.gives
    ]
    check = {"expr": recording.record, "eval_time": f"{RECORDING_STEPS - 1}m", "exp_samples": expected}
    return _document(rule_file, "1m", {"interval": "1m", "input_series": inputs, "promql_expr_test": [check]})


def _document(rule_file: str, interval: str, test: Document) -> Document:
    return {"rule_files": [rule_file], "evaluation_interval": interval, "tests": [test]}


def _sample(name: str, labels: Mapping[str, str]) -> str:
    return f"{name}{{{','.join(f'{label}={json.dumps(value)}' for label, value in labels.items())}}}"


def _filled(text: str, labels: Mapping[str, str], value: str) -> str:
    """Fill a template in as Prometheus does; the value is given as it should be printed."""
    text = re.sub(r"\{\{ \$labels\.([a-z_]+) \}\}", lambda match: labels.get(match[1], ""), text)
    return re.sub(r"\{\{ \$value[^}]*\}\}", value, text)


def run(folder: Path, documents: Mapping[str, Document]) -> str:
    """Run unit tests, each a file of its own; give what promtool says when one fails, else nothing."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("NOT CHECKED: promtool is not installed (Debian package prometheus)")
    for name, document in documents.items():
        (folder / f"{name}.test.yml").write_text(json.dumps(document))  # JSON is YAML
    files = [f"{name}.test.yml" for name in documents]
    done = subprocess.run([promtool, "test", "rules", *files], cwd=folder, capture_output=True, text=True, check=False)
    parts = (done.stdout + done.stderr).split("Unit Testing:")
    failed = "".join(part for part in parts if "SUCCESS" not in part).strip()
    assert failed or done.returncode == 0
    return failed
