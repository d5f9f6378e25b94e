"""Real containers: a process that Podman starts is seen in its container, also from inside a private cgroup namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpumon.process.container import find
from tests.process.node import ProcessNode

pytestmark = pytest.mark.skipif(
    os.getuid() != 0 or not shutil.which("podman") or not shutil.which("runc"),
    reason="NOT CHECKED: needs root, podman and runc",
)

CONFIG = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
SOURCE = b"#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"
REPOSITORY = Path(__file__).parents[2]


@dataclass
class Container:
    """A running container."""

    id: str
    pid: int


@pytest.fixture
def container() -> Iterator[Container]:
    """Give a container whose only process is called ollama."""
    folder = tempfile.mkdtemp(prefix="gpumon")  # pytest's are longer than the 50 characters that podman allows
    try:
        yield from _container(Path(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _container(tmp_path: Path) -> Iterator[Container]:
    program = tmp_path / "ollama"
    made = subprocess.run(["cc", "-static", "-x", "c", "-o", program, "-"], input=SOURCE, check=False)
    if made.returncode:
        pytest.skip("NOT CHECKED: no static C library")
    archive, config = tmp_path / "image.tar", tmp_path / "containers.conf"
    config.write_text(CONFIG)
    subprocess.run(["tar", "-C", tmp_path, "-cf", archive, "ollama"], check=True)
    podman = ["podman", "--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "run")]
    environ = {**os.environ, "CONTAINERS_CONF": str(config)}

    def run(*arguments: str) -> str:
        done = subprocess.run([*podman, *arguments], env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"NOT CHECKED: podman does not work here: {done.stderr.strip()[-200:]}")
        return done.stdout.strip()

    run("import", "-q", str(archive), "localhost/gpumon-test:latest")
    identifier = run("run", "-d", "--network=none", "localhost/gpumon-test:latest", "/ollama", "runner")
    try:
        yield Container(identifier, int(run("inspect", "-f", "{{.State.Pid}}", identifier)))
    finally:
        subprocess.run([*podman, "rm", "-f", "-t", "0", identifier], env=environ, capture_output=True, check=False)


def test_a_process_in_a_container_is_seen_there(container: Container) -> None:
    """Its pid is the host's, its container the one that Podman names, and its command line the container's."""
    with ProcessNode() as node:
        node.put(0, container.pid)
        node.tick()
        (record,) = node.source.records()
    assert (record.container.id, record.container.runtime) == (container.id, "podman")
    assert record.container_name == container.id[:12]
    assert (record.category, record.name) == ("llm_inference", "ollama")


def test_from_a_private_cgroup_namespace_it_is_seen_as_well(container: Container) -> None:
    """There the path begins with /.. and lacks what is above the reader."""
    code = f"import sys; sys.path.insert(0, 'src'); print(open('/proc/{container.pid}/cgroup').read())"
    roots = [Path("/sys/fs/cgroup"), *sorted(Path("/sys/fs/cgroup").glob("*"))]
    root = next((one for one in roots if (one / "cgroup.procs").exists() and os.access(one, os.W_OK)), None)
    if root is None:
        pytest.skip("NOT CHECKED: no cgroup hierarchy is mounted")
    own = root / "gpumon-reader"
    own.mkdir()
    try:
        inner = f'echo $$ > {own}/cgroup.procs && exec unshare -C {sys.executable} -c "{code}"'
        done = subprocess.run(["sh", "-c", inner], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    finally:
        own.rmdir()
    assert "/.." in done.stdout
    assert find(done.stdout).id == container.id
