"""The chart on a real API server: what it admits, installed and upgraded by Helm, pods made by the real controller.

Needs etcd and, built once by `python -m tests.tools.kube`, Kubernetes; run by `make e2e`, skipped where they are not.
"""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from tests.chart.cluster import Cluster, RefusedError, missing, until
from tests.chart.pod_security import violations
from tests.chart.rendered import CHART, ROOT, VALUE_SETS, Values, objects, only, pod
from tests.tools import kube

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(missing()), reason=f"no Kubernetes API server here; missing: {', '.join(missing())}"),
]

OPERATOR = "monitoring.coreos.com/v1"
ENFORCE = "pod-security.kubernetes.io/enforce"
NODES = {
    "gpu-1": {"nvidia.com/gpu.present": "true"},
    "gpu-2": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
    "cpu-1": {"nvidia.com/gpu.present": "false"},
    "cpu-2": {},
}
GPU_NODES = ["gpu-1", "gpu-2"]


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """Give the chart in its first form, as this repository's history has it; there was no release before this one."""
    added = _git("log", "--diff-filter=A", "--format=%H", "--", "helm/gpumon/Chart.yaml").split()[-1:]
    if not added:
        pytest.skip("NOT CHECKED: the upgrade, because this checkout has no history")
    _git("archive", f"--output={tmp_path / 'chart.tar'}", added[0], "helm/gpumon")
    with tarfile.open(tmp_path / "chart.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    chart = tmp_path / "helm" / "gpumon"
    description = (chart / "Chart.yaml").read_text()
    (chart / "Chart.yaml").write_text(re.sub(r"(?m)^(version: |appVersion: ).*", r'\g<1>"0.0.1"', description))
    return chart


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give a cluster with four nodes, the operator's definitions, and a runtime class for NVIDIA's."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        for name, labels in NODES.items():
            taints = (
                [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}] if name in GPU_NODES else []
            )
            running.create(
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {"name": name, "labels": labels},
                    "spec": {"taints": taints},
                }
            )
        for definition in yaml.load_all((kube.folder() / kube.CRDS).read_text(), yaml.CSafeLoader):
            if definition and definition["spec"]["names"]["kind"] in ("PodMonitor", "ServiceMonitor", "PrometheusRule"):
                running.create(definition)
        running.create(
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": "nvidia"},
                "handler": "nvidia",
            }
        )
        until(lambda: served(running), "the operator's kinds", running.logs)
        yield running


def served(cluster: Cluster) -> bool:
    """Say whether the custom resources can be used."""
    try:
        resources = cluster.ask("GET", "/apis/monitoring.coreos.com/v1")["resources"]
    except RefusedError:
        return False
    return len([one for one in resources if "/" not in one["name"]]) == 3


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> str:
    """Give a namespace of the test's own, which enforces a pod-security profile where the test names one."""
    name = request.node.name.replace("_", "-").replace("[", "-").lower().rstrip("]")[-60:].strip("-")
    profile = getattr(request, "param", "privileged")
    labels = {ENFORCE: profile}
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    path = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    until(lambda: there(cluster, path), "the namespace's account", cluster.logs)
    return name


def there(cluster: Cluster, path: str) -> bool:
    """Say whether there is an object at a path."""
    try:
        cluster.ask("GET", path)
    except RefusedError:
        return False
    return True


@pytest.fixture
def helm(cluster: Cluster, namespace: str) -> Iterator[helm_python.Config]:
    """Give Helm, for the test's namespace."""
    with helm_python.Config(kubeconfig_path=cluster.kubeconfig, namespace=namespace) as config:
        yield config


def pods(cluster: Cluster, namespace: str, release: str) -> list[Any]:
    """Give a release's pods, without those that are being deleted."""
    found = cluster.items("v1", "Pod", namespace, f"app.kubernetes.io/instance={release}")
    return [one for one in found if "deletionTimestamp" not in one["metadata"]]


def node_of(one: Any) -> str:
    """Give the node that a pod of a DaemonSet is meant for."""
    terms = one["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    name: str = terms["nodeSelectorTerms"][0]["matchFields"][0]["values"][0]
    return name


def nodes(cluster: Cluster, namespace: str, release: str) -> list[str]:
    """Give the nodes that a release's pods are meant for."""
    return sorted(node_of(one) for one in pods(cluster, namespace, release))


def test_the_server_takes_every_object(cluster: Cluster, namespace: str) -> None:
    """Strictly, the operator's kinds too, for every set of values."""
    for name, values in VALUE_SETS.items():
        for one in objects({**values, "dashboards": {**values.get("dashboards", {}), "namespace": ""}}, "r", namespace):
            assert refused(cluster, one, namespace) == "", f"{name}: {one['kind']}"


@pytest.mark.parametrize("namespace", ["restricted"], indirect=True)
def test_the_rows_of_the_restricted_profile_are_the_servers(cluster: Cluster, namespace: str) -> None:
    """A namespace that enforces it admits just those pods in which tests/chart/pod_security.py finds nothing."""
    for name, values in VALUE_SETS.items():
        made = objects(values, "r", namespace)
        account = only("ServiceAccount", made)
        if not there(cluster, f"/api/v1/namespaces/{namespace}/serviceaccounts/{account['metadata']['name']}"):
            cluster.create(account, namespace)
        spec = pod(made)
        refusal = refused(
            cluster, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "r"}, "spec": spec}, namespace
        )
        assert ("violates PodSecurity" in refusal) == bool(violations(spec)), f"{name}: {refusal}"
        assert not refusal or violations(spec), f"{name}: {refusal}"


def refused(cluster: Cluster, one: Any, namespace: str) -> str:
    """Give why an object would be refused, "" where it would not."""
    try:
        cluster.create(one, namespace, dry_run=True)
    except RefusedError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("namespace", ["restricted"], indirect=True)
def test_restricted_is_installed_where_only_that_is_admitted(
    cluster: Cluster, namespace: str, helm: helm_python.Config
) -> None:
    """The controller makes its pods there, on the nodes with GPUs and on no other; of the default it can make none."""
    helm.install(CHART, "gpumon", {"securityProfile": "restricted"})
    until(lambda: nodes(cluster, namespace, "gpumon") == GPU_NODES, "pods", cluster.logs)
    helm.install(CHART, "default")
    until(
        lambda: any(
            "violates PodSecurity" in event["message"] and "hostPID=true" in event["message"]
            for event in cluster.items("v1", "Event", namespace)
        ),
        "the refusal",
        cluster.logs,
    )
    assert pods(cluster, namespace, "default") == []


def test_a_node_is_left_while_the_gpu_operator_works_on_it(
    cluster: Cluster, namespace: str, helm: helm_python.Config
) -> None:
    """Its driver can be unloaded then; afterwards gpumon is back."""
    helm.install(CHART, "gpumon")
    until(lambda: nodes(cluster, namespace, "gpumon") == GPU_NODES, "pods", cluster.logs)
    for one in pods(cluster, namespace, "gpumon"):
        cluster.bind(one, node_of(one))
    mark_node(cluster, "gpu-1", "paused-for-driver-upgrade")
    until(lambda: nodes(cluster, namespace, "gpumon") == ["gpu-2"], "the end of a pod", cluster.logs)
    cluster.end_pods(namespace)
    mark_node(cluster, "gpu-1", "true")
    until(lambda: nodes(cluster, namespace, "gpumon") == GPU_NODES, "its return", cluster.logs)


def mark_node(cluster: Cluster, name: str, value: str) -> None:
    """Give a node the label by which the GPU operator tells others to let go of its GPUs."""
    node = cluster.ask("GET", f"/api/v1/nodes/{name}")
    node["metadata"]["labels"]["nvidia.com/gpu.deploy.client"] = value
    cluster.ask("PUT", f"/api/v1/nodes/{name}", node)


def test_dashboards_rules_and_monitor_arrive(cluster: Cluster, namespace: str, helm: helm_python.Config) -> None:
    """A release with all of them fits into the Secret where Helm keeps it (1 MiB), and they are what the folders hold."""
    values = VALUE_SETS["operators"]
    helm.install(CHART, "gpumon", {**values, "dashboards": {**values["dashboards"], "namespace": ""}})
    found = cluster.items("v1", "ConfigMap", namespace, "grafana_dashboard=1")
    given = {name: text for one in found for name, text in one["data"].items()}
    assert given == {path.name: path.read_text().strip() for path in (ROOT / "grafana-dashboards").glob("*.json")}
    groups = only("PrometheusRule", cluster.items(OPERATOR, "PrometheusRule", namespace))["spec"]["groups"]
    files = sorted((ROOT / "rules").glob("*.yml"))
    assert groups == [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    assert len(cluster.items(OPERATOR, "PodMonitor", namespace)) == 1


def test_an_upgrade_keeps_what_selects_and_replaces_the_pods(
    cluster: Cluster, namespace: str, helm: helm_python.Config, earlier: Path
) -> None:
    """From the chart's first form to this one, with values, and back."""
    values: Values = {"config": {"service": {"log_level": "debug"}}}
    helm.install(earlier, "gpumon", values)
    until(lambda: nodes(cluster, namespace, "gpumon") == GPU_NODES, "pods", cluster.logs)
    before = only("DaemonSet", cluster.items("apps/v1", "DaemonSet", namespace))
    old = {one["metadata"]["uid"] for one in pods(cluster, namespace, "gpumon")}

    helm.upgrade(CHART, "gpumon", values)
    after = only("DaemonSet", cluster.items("apps/v1", "DaemonSet", namespace))
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"]["labels"]["app.kubernetes.io/version"] != "0.0.1"

    def replaced() -> bool:
        now = pods(cluster, namespace, "gpumon")
        return len(now) == 2 and not old & {one["metadata"]["uid"] for one in now}

    until(replaced, "new pods", cluster.logs)
    helm.rollback("gpumon")
    again = only("DaemonSet", cluster.items("apps/v1", "DaemonSet", namespace))
    assert again["spec"]["template"] == before["spec"]["template"]


def test_two_releases_live_in_one_namespace(cluster: Cluster, namespace: str, helm: helm_python.Config) -> None:
    """Each has its own pods; one that is uninstalled takes nothing of the other's with it, and leaves nothing."""
    labels: Values = {"config": {"kubernetes": {"pod_labels": "app"}}}
    helm.install(CHART, "one", labels)
    helm.install(CHART, "two", labels)
    for release in ("one", "two"):
        until(lambda release=release: nodes(cluster, namespace, release) == GPU_NODES, "pods", cluster.logs)
    kept = {one["metadata"]["uid"] for one in pods(cluster, namespace, "two")}
    helm.uninstall("one")
    until(lambda: leftovers(cluster, namespace, "one") == [], "the end of what was installed", cluster.logs)
    assert {one["metadata"]["uid"] for one in pods(cluster, namespace, "two")} == kept
    assert "Service two-gpumon" in leftovers(cluster, namespace, "two")


def leftovers(cluster: Cluster, namespace: str, release: str) -> list[str]:
    """Give what there is of a release."""
    kinds = {
        "v1": ("ServiceAccount", "ConfigMap", "Service", "Pod"),
        "apps/v1": ("DaemonSet",),
        "rbac.authorization.k8s.io/v1": ("ClusterRole", "ClusterRoleBinding"),
    }
    selector = f"app.kubernetes.io/instance={release}"
    return [
        f"{kind} {one['metadata']['name']}"
        for version, some in kinds.items()
        for kind in some
        for one in cluster.items(version, kind, namespace, selector)
    ]


@pytest.mark.parametrize("asked", [True, False])
def test_the_account_may_list_pods_only_where_labels_are_wanted(
    cluster: Cluster, namespace: str, helm: helm_python.Config, *, asked: bool
) -> None:
    """And never anything else, by the API server's own judgement."""
    helm.install(CHART, "gpumon", {"config": {"kubernetes": {"pod_labels": "app"}}} if asked else {})

    def may(verb: str, resource: str, where: str = "") -> bool:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{namespace}:gpumon",
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "resourceAttributes": {"verb": verb, "resource": resource, "namespace": where},
            },
        }
        allowed: bool = cluster.create(review)["status"]["allowed"]
        return allowed

    until(
        lambda: may("list", "pods") == asked, "the right", cluster.logs
    )  # the server looks at new roles a little later
    assert not any(may(verb, "pods") for verb in ("get", "watch", "create", "delete"))
    assert not any(
        may(verb, what, namespace) for verb in ("get", "list") for what in ("secrets", "configmaps", "nodes")
    )
