"""A node of a cluster that runs pods: containerd and a kubelet.

All of theirs is in one folder, but for what a kubelet makes wherever it is told to be: empty folders below
/var/lib/kubelet and /var/log/containers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from tests.chart.cluster import Cluster, RefusedError, until
from tests.tools import image, kube

PLUGINS = Path("/usr/lib/cni")
PAUSE_IMAGE = "localhost/pause:test"
# What holds a pod's namespaces while its containers come and go.
PAUSE = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
# Of addresses that documentation uses; reached from this machine only.
SUBNET = "198.51.100.0/24"

# cgroupfs, no AppArmor and no negative oom_score_adj, because a container that runs the tests has no more.
CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{folder}/network"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


def missing() -> list[str]:
    """Give what has to be built or installed first, in words."""
    wanted = ("containerd", "ctr", "runc", "cc", *image.PROGRAMS)
    found = [program for program in wanted if shutil.which(program) is None]
    if not (PLUGINS / "ptp").exists():
        found.append("containernetworking-plugins")
    return found if os.getuid() == 0 else [*found, "root"]


class Node:
    """The node's programs, while used as a context."""

    def __init__(self, cluster: Cluster, folder: Path, name: str, labels: dict[str, str]) -> None:
        self._cluster = cluster
        self._folder = folder
        self._name = name
        self._labels = labels
        self._processes: list[subprocess.Popen[bytes]] = []
        self.kubelet_folder = folder / "kubelet"

    def __enter__(self) -> Self:
        self._write_files()
        self._start("containerd", f"--config={self._folder}/containerd.toml")
        until((self._folder / "containerd.sock").exists, "containerd", self.logs)
        for name in (image.build(), self._pause()):
            archive = self._folder / "image.tar"
            image.podman("save", "--quiet", "--output", str(archive), name)
            self._ctr("images", "import", str(archive))
            archive.unlink()
        self._start(
            kube.folder() / "kubelet",
            f"--config={self._folder}/kubelet.json",
            f"--kubeconfig={self._cluster.kubeconfig}",
            f"--root-dir={self.kubelet_folder}",
            f"--hostname-override={self._name}",
            "--node-labels=" + ",".join(f"{key}={value}" for key, value in self._labels.items()),
        )
        until(self._is_ready, "the node", self.logs)
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.terminate()
            process.wait()
        # What a kubelet leaves: its folder mounted onto itself, and the groups of pods, which are empty.
        subprocess.run(["umount", self.kubelet_folder], check=False)
        for group in sorted(Path("/sys/fs/cgroup").glob("*/kubepods/**/"), reverse=True):
            with suppress(OSError):
                group.rmdir()

    def run(self, pod: Any, *command: str) -> tuple[int, str]:
        """Run a command in a pod's container; give its exit code and what it said."""
        container = pod["status"]["containerStatuses"][0]["containerID"].partition("://")[2]
        done = self._ctr("tasks", "exec", "--exec-id", f"run-{time.monotonic_ns()}", container, *command, check=False)
        return done.returncode, done.stdout + done.stderr

    def logs(self) -> str:
        """Give the end of what the node's programs and the pods said."""
        paths = [*self._folder.glob("*.log"), *self._folder.glob("pods/*/*/*.log")]
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(paths))

    def _is_ready(self) -> bool:
        try:
            conditions = self._cluster.ask("GET", f"/api/v1/nodes/{self._name}")["status"]["conditions"]
        except RefusedError:
            return False
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def _ctr(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["ctr", "--address", f"{self._folder}/containerd.sock", "--namespace", "k8s.io", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=check)

    def _start(self, program: str | Path, *arguments: str) -> None:
        with (self._folder / f"{Path(program).name}.log").open("wb") as log:
            self._processes.append(subprocess.Popen([program, *arguments], stdout=log, stderr=log, cwd=self._folder))

    def _pause(self) -> str:
        source, program = self._folder / "pause.c", self._folder / "pause"
        source.write_text(PAUSE)
        subprocess.run(["cc", "-static", "-o", program, source], check=True)
        archive = self._folder / "pause.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(program, "pause")
        image.podman("import", "--quiet", "--change", 'ENTRYPOINT ["/pause"]', str(archive), PAUSE_IMAGE)
        return PAUSE_IMAGE

    def _write_files(self) -> None:
        config = CONTAINERD.format(folder=self._folder, pause=PAUSE_IMAGE, plugins=PLUGINS)
        (self._folder / "containerd.toml").write_text(config)
        addresses = {"type": "host-local", "ranges": [[{"subnet": SUBNET}]], "dataDir": f"{self._folder}/addresses"}
        plugin = {"type": "ptp", "ipam": {**addresses, "routes": [{"dst": "0.0.0.0/0"}]}}
        (self._folder / "network").mkdir()
        network = {"cniVersion": "0.4.0", "name": "test", "plugins": [plugin]}
        (self._folder / "network" / "test.conflist").write_text(json.dumps(network))
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{self._folder}/containerd.sock",
            "podLogsDir": f"{self._folder}/pods",
            "volumePluginDir": f"{self._folder}/plugins",
            "address": "127.0.0.1",
            "healthzPort": 0,
            # What a machine for tests is like: the older cgroups, swap, and little room on its disk.
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "oomScoreAdj": 0,
            "makeIPTablesUtilChains": False,
            "evictionHard": {"nodefs.available": "1%"},
            "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
        }
        (self._folder / "kubelet.json").write_text(json.dumps(kubelet))
