"""The chart's values are the settings, and what is misspelt in them does not get far."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest

from gpumon.load import load
from gpumon.settings import Option, Settings, Value, options
from gpumon.value import accept
from tests.chart.rendered import CHART, VALUE_SETS, Object, Values, chart, files, objects, only, pod

TEMPLATES = {template["name"]: template["data"] for template in chart().templates}


def settings_of(made: list[Object], folder: Path) -> Settings:
    """Read the settings as gpumon does in the pod: its file, and its environment."""
    path = folder / "config.toml"
    path.write_text(only("ConfigMap", [one for one in made if one["kind"] == "ConfigMap"][:1])["data"]["config.toml"])
    container = pod(made)["containers"][0]
    assert container["args"][:2] == ["run", "--config=/etc/gpumon/config.toml"]
    environ = {one["name"]: one.get("value", "node-1") for one in container["env"]}
    return load(str(path), {name: value.replace("$(K8S_NODE_NAME)", "node-1") for name, value in environ.items()})


# Texts for options, of which each form takes one; the first has all that TOML and JSON write in another way.
TEXTS = ('/"x" \\ü&<', "http://x:1", "::1", "127.0.0.1:1234")


def another(option: Option) -> Value:
    """Give an allowed value that is not the default."""
    if isinstance(option.default, bool):
        return not option.default
    if isinstance(option.default, str):
        given = (one for one in (*option.choices, *TEXTS) if one != option.default)
        return next(one for one in given if accept(option, one) is not None)
    assert option.minimum is not None
    assert option.maximum is not None
    return option.minimum if option.minimum != option.default else option.maximum


def test_every_setting_arrives_as_it_was_given(tmp_path: Path) -> None:
    """Each option of the tree can be a value of the chart, and gpumon reads from the pod's file what it was."""
    wanted = {option.name: another(option) for option in options() if option.form != "tables"}
    config: Values = {}
    for name, value in wanted.items():
        section, key = name.split(".")
        config.setdefault(section, {})[key] = value
    settings = settings_of(objects({"config": config}), tmp_path)
    assert {name: settings[name] for name in wanted} == wanted


def test_rules_may_be_written_as_a_list(tmp_path: Path) -> None:
    """As in TOML; they arrive as the JSON that gpumon takes as well."""
    rules = [{"name": "renderer", "category": "general_compute", "command": "render-.*"}]
    settings = settings_of(objects({"config": {"processes": {"rules": rules}}}), tmp_path)
    assert json.loads(settings.processes.rules) == rules


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
def test_gpumon_takes_what_the_pod_is_given(values: Values, tmp_path: Path) -> None:
    """Every variable of the pod that begins with GPUMON_ is a setting, and the data folder is the mounted one."""
    made = objects(values)
    settings = settings_of(made, tmp_path)
    mounts = {mount["name"]: mount["mountPath"] for mount in pod(made)["containers"][0]["volumeMounts"]}
    assert mounts["data"] == settings.service.data_dir
    assert settings.kubernetes.node_name == settings.storage.node_name == "node-1"
    if "pod-resources" in mounts:
        assert Path(settings.kubernetes.pod_resources_socket).parent == Path(mounts["pod-resources"])
    if "proc" in mounts:
        assert settings.processes.proc_root == mounts["proc"]
    ports = {port["name"]: port["containerPort"] for port in pod(made)["containers"][0].get("ports", ())}
    assert ports.get("metrics") == (settings.telemetry.metrics_port if settings.telemetry.enable_prometheus else None)
    assert ports.get("api") == (None if settings.api.address == "127.0.0.1" else settings.api.port)
    assert bool(settings.api.token_file) == ("api" in ports)


def test_history_keeps_below_what_the_pod_may_take(tmp_path: Path) -> None:
    """An emptyDir that is full costs the pod; what the settings say goes first, and a node's folder has no such end."""

    def most(values: Values) -> int:
        return settings_of(objects(values), tmp_path).storage.max_disk_bytes

    assert most({"data": {"volume": "emptyDir", "sizeLimit": "4Gi"}}) == 3 << 30
    assert most({"data": {"volume": "emptyDir", "sizeLimit": "500Mi"}}) == 0
    assert (
        most({"securityProfile": "restricted", "config": {"storage": {"max_disk_bytes": 5_000_000_000}}})
        == 5_000_000_000
    )
    assert most({"securityProfile": "restricted", "config": {"storage": {"max_disk_bytes": 0}}}) == 0
    assert most({}) == 0


# What has another default in a pod, the image's folder, and what is only asked for.
NOT_REPEATED = {("service", "data_dir"), ("storage", "cluster_name"), ("storage", "max_disk_bytes")}


def test_the_templates_know_the_settings_defaults() -> None:
    """A default that a template repeats is the one in the settings tree; the data folder's is the image's."""
    repeated = re.findall(r'"gpumon\.setting" \(list "(\w+)" "(\w+)" ("[^"]*"|\S+) ', "\n".join(TEMPLATES.values()))
    assert len(repeated) > 5
    for section, key, default in repeated:
        if (section, key) in NOT_REPEATED:
            continue
        assert json.loads(default) == Settings()[f"{section}.{key}"]


def properties(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Give every value of a schema with its name, sections included."""
    for key, part in schema.get("properties", {}).items():
        yield f"{path}{key}", part
        yield from properties(part, f"{path}{key}.")


def test_every_value_is_explained() -> None:
    """In values.yaml by a comment, which is its description in the schema; settings by their help."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    found = dict(properties(schema))
    assert [name for name, part in found.items() if not part.get("description") and name != "global"] == []
    helps = {f"config.{option.name}": option.help for option in options()}
    assert {name: found[name]["description"] for name in helps} == helps


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"config": {"service": {"poll_interval": 5}}}, "'poll_interval' not allowed"),
        ({"config": {"servise": {}}}, "'servise' not allowed"),
        ({"config": {"service": {"poll_interval_secs": 0}}}, "got 0, want 0.25"),
        ({"config": {"service": {"log_level": "loud"}}}, "must be one of 'debug', 'info'"),
        ({"config": {"telemetry": {"metrics_port": "9090"}}}, "got string, want integer"),
        ({"config": {"ollama": {"api_url": "ollama:11434"}}}, "does not match pattern"),
        ({"securityProfile": "strict"}, "must be one of 'default', 'restricted'"),
        ({"data": {"volume": "nfs"}}, "must be one of"),
        ({"image": {"tagg": "1"}}, "'tagg' not allowed"),
        ({"prometheus": {"monitor": True}}, "want string"),
        ({"tolerations": {"key": "a"}}, "got object, want array"),
    ],
)
def test_wrong_values_are_refused(values: Values, sentence: str) -> None:
    """Before anything is installed, with the value's name."""
    with pytest.raises(helm_python.HelmValuesError, match=re.escape(sentence)):
        files(values)


def test_values_of_a_parent_chart_are_taken() -> None:
    """As part of another chart it is given `global`."""
    files({"global": {"registry": "x"}})
