"""The Helm chart makes objects that Kubernetes takes, with no more rights than it says."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate.utils
import pytest
import yaml

from gpumon import __version__
from tests.chart.pod_security import violations
from tests.chart.rendered import CHART, ROOT, VALUE_SETS, Object, Values, chart, files, objects, only, pod

# The five newest, and the oldest that Chart.yaml allows.
KUBERNETES = ("1.27", "1.33", "1.34", "1.35", "1.36", "1.37")
OPERATOR = "monitoring.coreos.com/v1"


@pytest.fixture(autouse=True, scope="module")
def _read_schemas_once() -> Any:
    """Keep Kubernetes's schemas, which are megabytes that kubernetes-validate reads for each object."""
    patch = pytest.MonkeyPatch()
    patch.setattr(kubernetes_validate.utils, "schema_contents", cache(kubernetes_validate.utils.schema_contents))
    yield
    patch.undo()


def test_lint_finds_nothing() -> None:
    """`helm lint --strict` has no warning and no error; an icon it only recommends."""
    report = helm_python.lint(CHART, strict=True)
    assert [message for message in report["messages"] if message["severity"] > 1] == report["errors"] == []


def test_the_charts_application_is_this_gpumon() -> None:
    """Who sets no tag gets the image of the version the chart was made with."""
    assert chart().metadata["appVersion"] == __version__


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
def test_every_version_takes_every_object(values: Values) -> None:
    """Strictly: a field that is misspelt or not there yet is an error."""
    for one in objects(values):
        if one["apiVersion"] == OPERATOR:
            continue  # a real API server holds these to the operator's definitions, in tests/e2e
        for version in KUBERNETES:
            assert kubernetes_validate.utils.validate(one, version, strict=True) == version


def test_no_object_is_forgotten() -> None:
    """The value sets make every kind of object that the templates have, and none of a kind left out on purpose."""
    kinds = {one["kind"] for values in VALUE_SETS.values() for one in objects(values)}
    written = {
        line.split()[1]
        for template in chart().templates
        for line in template["data"].splitlines()
        if line.startswith("kind: ") and "{" not in line
    }
    assert written <= kinds
    assert {"PodMonitor", "ServiceMonitor"} <= kinds
    assert "PodDisruptionBudget" not in kinds


@pytest.mark.parametrize("values", [one for one in VALUE_SETS.values() if one.get("securityProfile") == "restricted"])
def test_restricted_passes_the_restricted_profile(values: Values) -> None:
    """With nothing more to set, and the pod of `helm test` as well."""
    made = objects(values)
    assert violations(pod(made)) == []
    assert violations(only("Pod", made)["spec"]) == []


# What the default asks for beyond the restricted profile, and the value that takes each away.
EXCEPTIONS: dict[str, Values] = {
    "hostPID": {"processView": "none"},
    "volume pod-resources: hostPath": {"podNames": "off"},
    "volume data: hostPath": {"data": {"volume": "emptyDir"}},
    "gpumon: may run as root": {"podSecurityContext": {"runAsNonRoot": True}},
    "gpumon: user 0": {"podSecurityContext": {"runAsUser": 65532}},
}


def test_the_default_differs_in_the_named_points_only() -> None:
    """What gpumon's work takes; each is a value that can be set otherwise."""
    assert sorted(violations(pod(objects({})))) == sorted(EXCEPTIONS)
    for exception, values in EXCEPTIONS.items():
        assert sorted(violations(pod(objects(values)))) == sorted(EXCEPTIONS.keys() - {exception})


@pytest.mark.parametrize(
    ("values", "more"),
    [
        # The container's own settings go, too: the API server refuses them in a privileged one.
        ({"kernelLog": True}, {"volume kmsg: hostPath", "gpumon: privileged"}),
        ({"migMonitor": True}, {"gpumon: SYS_ADMIN"}),
        ({"hostNetwork": True}, {"hostNetwork"}),
        ({"processView": "proc"}, {"volume proc: hostPath"}),
    ],
)
def test_a_choice_costs_what_it_says(values: Values, more: set[str]) -> None:
    """A value that needs a right brings that one."""
    implied = {"gpumon: allowPrivilegeEscalation", "gpumon: capabilities not dropped"}
    assert set(violations(pod(objects(values)))) - EXCEPTIONS.keys() - implied == more


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS)
def test_every_container_keeps_to_the_house_rules(values: Values) -> None:
    """Read-only root, bounded memory, no links of Services, no token but for who asks the API server."""
    made = objects(values)
    asks = any(one["kind"] == "ClusterRole" for one in made)
    assert asks == bool(values.get("config", {}).get("kubernetes", {}).get("pod_labels"))
    for spec in (pod(made), *(one["spec"] for one in made if one["kind"] == "Pod")):
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is (asks and spec is pod(made))
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"]["memory"]


def identity(made: list[Object]) -> set[str]:
    """Give everything by which the objects of a release could meet those of another."""
    names = {f"{one['kind']} {one['metadata'].get('namespace', '')} {one['metadata']['name']}" for one in made}
    folders = {
        volume["hostPath"]["path"]
        for volume in pod(made)["volumes"]
        if "hostPath" in volume and volume["hostPath"].get("type") == "DirectoryOrCreate"
    }
    return names | folders | {str(only("DaemonSet", made)["spec"]["selector"])}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("gpumon", "monitoring"), ("other", "monitoring")),
        (("gpumon", "monitoring"), ("gpumon", "other")),
        (("a-gpumon", "b"), ("gpumon", "b-a")),  # in names that are put together, too
    ],
)
def test_two_releases_do_not_meet(one: tuple[str, str], other: tuple[str, str]) -> None:
    """No name and no folder is common to two releases; in one namespace they select different pods."""
    everything: Values = {
        **VALUE_SETS["operators"],
        **VALUE_SETS["network policy"],
        **VALUE_SETS["pod labels"],
        "dashboards": {"enabled": True},
    }
    shared = identity(objects(everything, *one)) & identity(objects(everything, *other))
    if one[1] == other[1] or one[0] != other[0]:
        assert not shared
    else:
        assert all(name.startswith("{") for name in shared)  # selectors, which are within a namespace


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"securityProfile": "restricted", "processView": "hostPID", "kernelLog": True},
            "securityProfile restricted does not allow processView hostPID, kernelLog; leave that out, or set",
        ),
        (
            {"securityProfile": "restricted", "extraVolumes": [{"name": "etc", "hostPath": {"path": "/etc"}}]},
            "securityProfile restricted does not allow extraVolumes etc;",
        ),
        (
            {
                "securityProfile": "restricted",
                "podSecurityContext": {"runAsUser": 0, "runAsNonRoot": False},
                "securityContext": {
                    "allowPrivilegeEscalation": True,
                    "capabilities": {"add": ["NET_BIND_SERVICE", "SYS_PTRACE"]},
                    "seccompProfile": {"type": "Unconfined"},
                },
            },
            (
                "does not allow securityContext.allowPrivilegeEscalation, capability SYS_PTRACE, podSecurityContext.runAsUser 0, "
                "podSecurityContext.runAsNonRoot false, securityContext.seccompProfile Unconfined;"
            ),
        ),
        ({"data": {"volume": "claim"}}, "data.volume is claim, so data.claimName must name"),
        ({"api": {"expose": True}}, "api.expose is true, so api.tokenSecret.name must name a Secret"),
        (
            {"api": {"expose": True, "tokenSecret": {"name": "a"}}, "config": {"api": {"enabled": False}}},
            "api.expose is true, but config.api.enabled is false",
        ),
        (
            {"prometheus": {"monitor": "PodMonitor"}, "config": {"telemetry": {"enable_prometheus": False}}},
            "prometheus.monitor is PodMonitor, but config.telemetry.enable_prometheus is false",
        ),
        (
            {"prometheus": {"monitor": "ServiceMonitor"}, "service": {"enabled": False}},
            "prometheus.monitor is ServiceMonitor, so service.enabled must be true",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused(values: Values, sentence: str) -> None:
    """One sentence says which they are, and what to do."""
    with pytest.raises(helm_python.HelmRenderError, match=sentence):
        files(values)


def test_other_settings_replace_the_pods_and_nothing_else_does() -> None:
    """Settings are read at the start; labels with versions would replace every pod for nothing."""

    def template(values: Values) -> str:
        return str(only("DaemonSet", objects(values))["spec"]["template"])

    assert template({"config": {"service": {"log_level": "debug"}}}) != template({})
    assert template({"prometheus": {"rules": {"enabled": True}}, "service": {"annotations": {"a": "b"}}}) == template(
        {}
    )
    assert chart().version not in str(only("DaemonSet", objects({}))["spec"]["template"]["metadata"])


def test_the_network_policy_lets_in_who_is_named_and_the_test() -> None:
    """`helm test` goes on working under it."""
    made = objects(VALUE_SETS["network policy"])
    (rule,) = only("NetworkPolicy", made)["spec"]["ingress"]
    test, *named = rule["from"]
    assert test["podSelector"]["matchLabels"] == only("Pod", made)["metadata"]["labels"]
    assert named == VALUE_SETS["network policy"]["networkPolicy"]["from"]
    # The test's pod is no target: what selects gpumon's pods does not select it.
    selector = only("Service", made)["spec"]["selector"]
    assert not selector.items() <= only("Pod", made)["metadata"]["labels"].items()


def test_monitors_speak_as_the_port_does() -> None:
    """With a web-config of TLS the monitor, the probes and the test take HTTPS; a login is no probe's business."""
    made = objects(VALUE_SETS["TLS"])
    (endpoint,) = only("ServiceMonitor", made)["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert only("Pod", made)["spec"]["containers"][0]["args"][1].startswith("https://")
    (container,) = pod(made)["containers"]
    assert container["readinessProbe"]["tcpSocket"] == container["startupProbe"]["tcpSocket"] == {"port": "metrics"}
    assert container["livenessProbe"]["exec"]["command"][1] == "health"
    made = objects({"webConfig": {"secretName": "web"}})
    assert pod(made)["containers"][0]["livenessProbe"]["httpGet"]["scheme"] == "HTTPS"


def test_dashboards_and_rules_are_those_of_the_repository(tmp_path: Path) -> None:
    """The chart links to them, and its package holds them and nothing else of their folders."""
    dashboards = {path.name: path.read_text().strip() for path in (ROOT / "grafana-dashboards").glob("*.json")}
    made = objects(VALUE_SETS["operators"])
    maps = [one["data"] for one in made if one["kind"] == "ConfigMap" and "dashboard" in one["metadata"]["name"]]
    assert {name: text for data in maps for name, text in data.items()} == dashboards
    rules = {path.name: yaml.safe_load(path.read_text())["groups"] for path in sorted((ROOT / "rules").glob("*.yml"))}
    assert only("PrometheusRule", made)["spec"]["groups"] == [one for groups in rules.values() for one in groups]
    assert dashboards
    assert rules

    with tarfile.open(helm_python.package(CHART, destination=tmp_path)) as package:
        packed = {Path(name).name for name in package.getnames() if "/files/" in name}
    assert packed == dashboards.keys() | rules.keys()


def test_the_embedded_rules_are_what_prometheus_takes(tmp_path: Path) -> None:
    """By promtool, as they stand in the PrometheusRule."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump(only("PrometheusRule", objects(VALUE_SETS["operators"]))["spec"]))
    done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_notes_tell_what_a_choice_lacks() -> None:
    """Who installs the restricted profile reads there what it does not show."""

    def notes(values: Values) -> str:
        return next(text for path, text in files(values).items() if path.endswith("NOTES.txt"))

    assert "pods are not named" in notes({"securityProfile": "restricted"})
    assert "pods are not named" not in notes({})
    assert "/var/lib/gpumon/monitoring/gpumon" in notes({})
    assert "in no registry" in notes({})
    assert "in no registry" not in notes(VALUE_SETS["everything of one's own"])
