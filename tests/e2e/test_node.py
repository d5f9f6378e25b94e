"""The chart's pods run: the image, started by a real kubelet as the chart says, does there what the chart promises.

Needs what tests/e2e/test_kubernetes.py needs, and containerd, and what builds the image; run by `make e2e` as root.
"""

from __future__ import annotations

import re
import shutil
import ssl
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest
import trustme
from tests.chart import cluster as control_plane
from tests.chart import node as machine
from tests.chart.cluster import Cluster, until
from tests.chart.node import Node
from tests.chart.rendered import CHART, Values, objects, only
from tests.tools import image

MISSING = control_plane.missing() + machine.missing()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(MISSING), reason=f"no Kubernetes node here; missing: {', '.join(MISSING)}"),
]

NAME = "gpu-1"
# As /proc/self/status writes it.
NO_CAPABILITY = "0000000000000000"
# 16 characters are the fewest.
TOKEN = "0123456789abcdef"
CHECK = ("/usr/bin/gpumon", "check", "--config=/etc/gpumon/config.toml")


@pytest.fixture(scope="module")
def node() -> Iterator[tuple[Cluster, Node]]:
    """Give a cluster with one node."""
    # Not pytest's own folder: the path of a socket has 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="node-"))
    (folder / "cluster").mkdir()
    with (
        Cluster(folder / "cluster") as cluster,
        Node(cluster, folder, NAME, {"nvidia.com/gpu.present": "true"}) as running,
    ):
        yield cluster, running
    shutil.rmtree(folder, ignore_errors=True)


class Release:
    """A release in a namespace of its own, with its pod on the node; uninstalled at the end."""

    def __init__(self, node: tuple[Cluster, Node], namespace: str, profile: str, folder: Path) -> None:
        self.cluster, self.node = node
        self.namespace = namespace
        self.folder = folder
        labels = {"pod-security.kubernetes.io/enforce": profile}
        metadata = {"name": namespace, "labels": labels}
        self.cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self._helm = helm_python.Config(kubeconfig_path=self.cluster.kubeconfig, namespace=namespace)

    def install(self, values: Values) -> Any:
        """Install with values beside those that this machine needs; give the pod once it is ready."""
        repository, _, tag = image.IMAGE.rpartition(":")
        socket = str(self.node.kubelet_folder / "pod-resources" / "kubelet.sock")
        here: Values = {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "extraArgs": ["--simulate=h100x8"],
            "config": {"kubernetes": {"pod_resources_socket": socket}},
        }
        if values.get("securityProfile") != "restricted":
            here["data"] = {"hostPath": str(self.folder / "data")}
        self._helm.install(CHART, "gpumon", here | values)
        return self.ready()

    def pods(self) -> list[Any]:
        """Give the pods that are not to end."""
        found = self.cluster.items("v1", "Pod", self.namespace, "app.kubernetes.io/name=gpumon")
        return [one for one in found if "deletionTimestamp" not in one["metadata"]]

    def ready(self) -> Any:
        """Give the node's pod once it is ready."""
        until(self.pods, "a pod", self.cluster.logs)
        if "nodeName" not in self.pods()[0]["spec"]:
            self.cluster.bind(self.pods()[0], NAME)

        def is_ready() -> bool:
            conditions = self.pods()[0]["status"].get("conditions", ())
            return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

        until(is_ready, "a pod that is ready", self.trouble)
        return self.pods()[0]

    def trouble(self) -> str:
        """Give what the kubelet says of the pods."""
        events = [one["message"] for one in self.cluster.items("v1", "Event", self.namespace)]
        return "\n".join([*events, self.node.logs()])

    def uninstall(self) -> None:
        """Take everything away, and wait until the node has."""
        self._helm.uninstall("gpumon")
        self._helm.close()
        until(lambda: not self.cluster.items("v1", "Pod", self.namespace), "the pods' end", self.trouble)


@pytest.fixture
def release(node: tuple[Cluster, Node], request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Release]:
    """Give a place for a release, in a namespace that enforces the profile that the test names."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name)[:60].strip("-")
    made = Release(node, name, getattr(request, "param", "privileged"), tmp_path)
    yield made
    made.uninstall()


def page(pod: Any) -> str:
    """Give what a pod's port serves as /metrics."""
    url = f"http://{pod['status']['podIP']}:9090/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def status(release: Release, pod: Any) -> dict[str, str]:
    """Give what the kernel says of a process in the pod's container."""
    code, text = release.node.run(pod, "/usr/bin/python3", "-c", "print(open('/proc/self/status').read())")
    assert code == 0, text
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def check(release: Release, pod: Any) -> dict[str, str]:
    """Give the lines of `gpumon check` in the pod by what they are about, each beginning with how it came out."""
    _, text = release.node.run(pod, *CHECK)
    lines = (re.fullmatch(r"(\w+) +(\S+(?: \S+)*) {2,}(.*)", line) for line in text.splitlines())
    return {line[2]: f"{line[1]} {line[3]}" for line in lines if line}


def test_the_default_does_its_work_without_a_capability(release: Release) -> None:
    """User 0 that may do nothing special sees the node's processes, asks the kubelet, and keeps history on the node."""
    pod = release.install({})
    facts = status(release, pod)
    assert (facts["Uid"].split()[0], facts["CapEff"], facts["CapBnd"]) == ("0", NO_CAPABILITY, NO_CAPABILITY)
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")
    code, said = release.node.run(pod, "/usr/bin/python3", "-c", "open('/x', 'w')")
    assert code != 0
    assert "Read-only file system" in said
    lines = check(release, pod)
    assert lines["pid view"].startswith("ok the host's")
    assert lines["kubelet"].startswith("ok answers at")
    assert lines["data directory"].startswith("ok /data")
    assert 'gpumon_kubelet_up{reason=""} 1.0' in page(pod)
    assert (release.folder / "data" / "gpumon.db").exists()
    assert release.node.run(pod, "/usr/bin/gpumon", "health") == (0, "ok\n")


def test_history_outlives_the_pod(release: Release) -> None:
    """The next pod goes on with the database of the last, which had time to end."""
    pod = release.install({})
    created = (release.folder / "data" / "gpumon.db").stat().st_ino
    path = f"/api/v1/namespaces/{release.namespace}/pods/{pod['metadata']['name']}"
    release.cluster.ask("DELETE", path)
    until(lambda: all(one["metadata"]["uid"] != pod["metadata"]["uid"] for one in release.pods()), "its end")
    release.ready()
    assert (release.folder / "data" / "gpumon.db").stat().st_ino == created
    assert not list((release.folder / "data").glob("*.corrupt-*"))


@pytest.mark.parametrize("release", ["restricted"], indirect=True)
def test_restricted_reads_the_gpus_and_says_what_is_missing(release: Release) -> None:
    """A user of no importance, nothing of the host; by metrics and by `gpumon check`."""
    pod = release.install({"securityProfile": "restricted"})
    facts = status(release, pod)
    assert (facts["Uid"].split()[0], facts["CapEff"], facts["CapBnd"]) == ("65532", NO_CAPABILITY, NO_CAPABILITY)
    text = page(pod)
    assert "gpumon_gpu_count 8.0" in text
    assert re.search(r'gpumon_kubelet_up\{reason="the kubelet has no socket at [^"]*"\} 0\.0', text)
    lines = check(release, pod)
    assert lines["data directory"].startswith("ok /data")
    for about in ("pid view", "kubelet", "XID errors"):
        assert lines[about].startswith("warn "), lines[about]


@pytest.mark.parametrize(
    ("values", "about", "found"),
    [
        ({"processView": "proc"}, "pid view", "ok the host's, by /host/proc"),
        ({"kernelLog": True}, "XID errors", "ok from NVML and /dev/kmsg"),
        (
            {"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["SYS_PTRACE"]}}},
            "process facts",
            "ok all rules can be tried",
        ),
        ({"podNames": "off", "data": {"volume": "emptyDir"}}, "kubelet", "warn no socket at"),
    ],
    ids=["proc", "kmsg", "ptrace", "without-kubelet"],
)
def test_a_choice_brings_what_it_says(release: Release, values: Values, about: str, found: str) -> None:
    """Each right is worth having, and what is left out is said."""
    pod = release.install(values)
    assert check(release, pod)[about].startswith(found)


def test_probes_and_health_live_with_tls_and_a_login(release: Release) -> None:
    """The web-config comes from a Secret; the pod is ready, and its own health check passes."""
    authority = trustme.CA()
    certificate = authority.issue_cert("gpumon")
    # htpasswd -nbBC 4 prometheus secret
    users = "basic_auth_users:\n  prometheus: $2b$04$sBSUoyIHHvAlMa4xD9dlI.gIvgz3cjD2oUmUUbcTp9N5sPIWAoGMa\n"
    files = {
        "web-config.yml": f"tls_server_config: {{cert_file: tls.crt, key_file: tls.key}}\n{users}",
        "tls.crt": b"".join(one.bytes() for one in certificate.cert_chain_pems).decode(),
        "tls.key": certificate.private_key_pem.bytes().decode(),
    }
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "web"}, "stringData": files}
    release.cluster.create(secret, release.namespace)
    pod = release.install({"webConfig": {"secretName": "web", "login": True}})
    code, said = release.node.run(pod, "/usr/bin/gpumon", "health", "--config=/etc/gpumon/config.toml")
    assert code == 0, said
    trust = ssl._create_unverified_context()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"https://{pod['status']['podIP']}:9090/metrics", timeout=10, context=trust)


def test_the_exposed_api_wants_its_token(release: Release) -> None:
    """It answers at the pod's address to who has the token of the Secret, and to nobody else."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "api"}, "stringData": {"token": TOKEN}}
    release.cluster.create(secret, release.namespace)
    pod = release.install({"api": {"expose": True, "tokenSecret": {"name": "api"}}})
    url = f"http://{pod['status']['podIP']}:8010/api/info"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(url, timeout=10)
    request = urllib.request.Request(
        url, headers={"Authorization": f"Bearer {TOKEN}", "Host": f"gpumon.{release.namespace}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def test_the_test_of_helm_runs_with_the_image(release: Release) -> None:
    """Its pod is admitted with no right at all, finds its Python, and succeeds; names are another's business here."""
    pod = release.install({})
    one = only("Pod", objects({"image": {"repository": "localhost/gpumon", "tag": "test", "pullPolicy": "Never"}}))
    one["metadata"]["namespace"] = release.namespace
    one["spec"]["containers"][0]["args"][1] = f"http://{pod['status']['podIP']}:9090/metrics"
    made = release.cluster.create(one, release.namespace)
    release.cluster.bind(made, NAME)
    path = f"/api/v1/namespaces/{release.namespace}/pods/{one['metadata']['name']}"
    until(lambda: release.cluster.ask("GET", path)["status"].get("phase") in ("Succeeded", "Failed"), "its end")
    assert release.cluster.ask("GET", path)["status"]["phase"] == "Succeeded", release.trouble()
    release.cluster.ask("DELETE", path)
