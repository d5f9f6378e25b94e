"""Builds the Kubernetes that the chart is installed into, and runs on, from official Go modules.

    python -m tests.tools.kube        prints the folder; builds what is missing in it first (9 minutes and more)

That is too long for every run of the end-to-end tests, so they skip without it. etcd is a package of the distribution.
Everything is kept in the folder that TOOLS_DIR names, or in `.tools` of the checkout.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

VERSION, OPERATOR_VERSION, GENERATOR_VERSION = "1.36.3", "0.95.1", "0.23.0"
SERVERS = ("kube-apiserver", "kube-controller-manager", "kubelet")
CRDS = "crds.yaml"

# Kubernetes's own module takes its parts from folders beside it; as a dependency it needs them named.
PART = re.compile(r"^\t(k8s\.io/[a-z-]+) => \./staging/", re.MULTILINE)
IMPORTS = """//go:build tools

package tools

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
"""
# What makes the Prometheus operator's custom resource definitions of its Go types.
OPERATOR_TYPES = "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring"
GENERATOR = "sigs.k8s.io/controller-tools"
CRD_IMPORTS = f"""//go:build tools

package tools

import (
	_ "{OPERATOR_TYPES}/v1"
	_ "{GENERATOR}/cmd/controller-gen"
)
"""
ROOT = Path(__file__).resolve().parents[2]


def folder() -> Path:
    """Give where the programs are, or would be."""
    return Path(os.environ.get("TOOLS_DIR") or ROOT / ".tools") / f"kube-{VERSION}"


def missing() -> list[str]:
    """Give what is not there yet."""
    return [name for name in (*SERVERS, CRDS) if not (folder() / name).exists()]


def build() -> Path:
    """Build what is missing; give the folder. RuntimeError says what keeps it from being built."""
    if missing() and shutil.which("go") is None:
        raise RuntimeError("Go is not installed: Kubernetes cannot be built")
    folder().mkdir(parents=True, exist_ok=True)
    for name in missing():
        with tempfile.TemporaryDirectory(dir=folder()) as work:
            if name == CRDS:
                _crds(Path(work))
            else:
                _server(name, Path(work))
            (Path(work) / name).replace(folder() / name)
    return folder()


def _server(name: str, work: Path) -> None:
    """Build one server. Packages one by one, at the lowest priority: on a small machine all at once take its memory."""
    declared = json.loads(_go(Path("/"), "mod", "download", "-json", f"k8s.io/kubernetes@v{VERSION}"))
    parts = PART.findall(Path(declared["GoMod"]).read_text())
    replaced = "".join(f"\t{part} => {part} v{VERSION.replace('1.', '0.', 1)}\n" for part in parts)
    (work / "go.mod").write_text(
        f"module kube\n\ngo {_go_version()}\n\nrequire k8s.io/kubernetes v{VERSION}\n\nreplace (\n{replaced})\n"
    )
    (work / "tools.go").write_text(IMPORTS)
    _go(work, "mod", "tidy")
    # A server tells its version only when it was built in.
    flags = f"-s -w -X k8s.io/component-base/version.gitVersion=v{VERSION}"
    _go(work, "build", "-p=1", "-trimpath", "-ldflags", flags, "-o", name, f"k8s.io/kubernetes/cmd/{name}")


def _crds(work: Path) -> None:
    required = f"require (\n\t{OPERATOR_TYPES} v{OPERATOR_VERSION}\n\t{GENERATOR} v{GENERATOR_VERSION}\n)"
    (work / "go.mod").write_text(f"module crds\n\ngo {_go_version()}\n\n{required}\n")
    (work / "tools.go").write_text(CRD_IMPORTS)
    _go(work, "mod", "tidy")
    generate = ("crd", f"paths={OPERATOR_TYPES}/v1", "output:crd:stdout")
    (work / CRDS).write_text(_go(work, "run", "-p=1", f"{GENERATOR}/cmd/controller-gen", *generate))


def _go_version() -> str:
    return _go(Path("/"), "env", "GOVERSION").strip().removeprefix("go")


def _go(work: Path, *arguments: str) -> str:
    command = ["nice", "-n", "19", "go", *arguments]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    print(build())
