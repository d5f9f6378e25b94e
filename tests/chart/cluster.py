"""A Kubernetes control plane without a node's agent: etcd, the API server, and the controllers that make pods.

Nodes are objects only, so pods are made and admitted, and never run; a test gives them a node and ends them itself.
"""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.export.otlp_process import free_port
from tests.tools import kube

Object = dict[str, Any]

TOKEN = "only-on-loopback-and-only-for-this-test"
# What makes pods of DaemonSets, accounts that these need, and deletes what belonged to what is gone.
CONTROLLERS = "daemonset-controller,serviceaccount-controller,garbage-collector-controller,namespace-controller"
# The servers start in seconds; a machine shared by many may take ten times that.
PATIENCE_SECS = 90


def missing() -> list[str]:
    """Give what has to be built or installed first, in words."""
    found = [f"{name} (python -m tests.tools.kube builds it)" for name in kube.missing()]
    return found if shutil.which("etcd") else ["etcd (a package of the distribution: etcd-server)", *found]


class RefusedError(Exception):
    """The API server refused; the message is its own."""


class Cluster:
    """The servers, while used as a context."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._trust = ssl._create_unverified_context()  # a certificate that the server made for itself a moment ago
        self.kubeconfig = folder / "kubeconfig"

    def __enter__(self) -> Self:
        self._write_files()
        etcd, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._start(
            shutil.which("etcd") or "etcd",
            f"--data-dir={self._folder}/etcd",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )
        self._start(
            kube.folder() / "kube-apiserver",
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={self._folder}/certificates",
            f"--token-auth-file={self._folder}/tokens.csv",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            "--service-cluster-ip-range=10.96.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._folder}/accounts.pem",
            f"--service-account-signing-key-file={self._folder}/accounts.pem",
            # Without an agent no node would ever be ready.
            "--disable-admission-plugins=TaintNodesByCondition",
        )
        until(self._is_ready, "the API server", self.logs)
        self._start(
            kube.folder() / "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={CONTROLLERS}",
            f"--service-account-private-key-file={self._folder}/accounts.pem",
            "--leader-elect=false",
            "--secure-port=0",
        )
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.kill()  # nothing of it is kept
            process.wait()

    def ask(self, method: str, path: str, body: Object | None = None) -> Any:
        """Give what the API server answers. RefusedError where it refuses."""
        request = urllib.request.Request(
            f"https://127.0.0.1:{self._port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30, context=self._trust) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RefusedError(json.load(error)["message"]) from None

    def create(self, one: Object, namespace: str | None = None, *, dry_run: bool = False) -> Object:
        """Create an object, or only have it looked at as if; a field that the server does not know is refused."""
        path = self.path(one["apiVersion"], one["kind"], namespace)
        query = "?fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
        made: Object = self.ask("POST", path + query, one)
        return made

    def path(self, version: str, kind: str, namespace: str | None) -> str:
        """Give the path of a kind's objects."""
        root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        (resource,) = (
            one for one in self.ask("GET", root)["resources"] if one["kind"] == kind and "/" not in one["name"]
        )
        within = f"/namespaces/{namespace}" if resource["namespaced"] and namespace else ""
        return f"{root}{within}/{resource['name']}"

    def items(self, version: str, kind: str, namespace: str, selector: str = "") -> list[Object]:
        """Give a namespace's objects of a kind."""
        path = self.path(version, kind, namespace)
        return [{**one, "kind": kind} for one in self.ask("GET", f"{path}?labelSelector={selector}")["items"]]

    def bind(self, pod: Object, node: str) -> None:
        """Give a pod its node, as the scheduler does."""
        metadata = {"name": pod["metadata"]["name"]}
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{metadata['name']}/binding"
        self.ask("POST", path, {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target})

    def end_pods(self, namespace: str) -> None:
        """Report the end of pods that are to end, as a node's agent does."""
        path = f"/api/v1/namespaces/{namespace}/pods"
        for one in self.ask("GET", path)["items"]:
            if "deletionTimestamp" in one["metadata"]:
                self.ask("DELETE", f"{path}/{one['metadata']['name']}?gracePeriodSeconds=0")

    def logs(self) -> str:
        """Give the end of what the servers said."""
        return "\n".join(path.read_text(errors="replace")[-1000:] for path in sorted(self._folder.glob("*.log")))

    def _is_ready(self) -> bool:
        try:
            return self.ask("GET", "/api/v1/namespaces/default")["kind"] == "Namespace"
        except (OSError, RefusedError):
            return False

    def _start(self, program: str | Path, *arguments: str) -> None:
        with (self._folder / f"{Path(program).name}.log").open("wb") as log:
            self._processes.append(subprocess.Popen([program, *arguments], stdout=log, stderr=log, cwd=self._folder))

    def _write_files(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        form, plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, form, plain)
        (self._folder / "accounts.pem").write_bytes(pem)
        (self._folder / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        server = {"server": f"https://127.0.0.1:{self._port}", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }
        self.kubeconfig.write_text(json.dumps(config))


def until(look: Callable[[], Any], what: str, more: Callable[[], str] = str) -> Any:
    """Give what `look` gives once it is something; servers apart have no event to wait for."""
    deadline = time.monotonic() + PATIENCE_SECS
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not come: {more()}"
        time.sleep(0.1)
    return found
