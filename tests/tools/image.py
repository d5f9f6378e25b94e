"""Builds the image with buildah and runs it with podman, on a base made with mmdebstrap: no image registry is needed.

    python -m tests.tools.image [PODMAN ARGUMENT]…      builds, then runs podman with these arguments

Images and their layers are kept in the folder that TOOLS_DIR names, or in `.tools` of the checkout, so that only what
changed is built again (40 s the first time, 2 s when nothing changed).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "localhost/gpumon:test"
PROGRAMS = ("buildah", "podman", "runc", "mmdebstrap")
# Package mirrors fail now and then; what was built so far is kept.
ATTEMPTS = 3
# runc, because crun refuses machines with both kinds of cgroups; no systemd and no journal are needed.
CONFIG = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
# How this machine reaches package registries: seen by the build, not left in the image.
MOUNTED = ("/etc/ssl/certs", "/etc/pip.conf")


def storage() -> Path:
    """Give the folder of images."""
    return Path(os.environ.get("TOOLS_DIR") or ROOT / ".tools") / "containers"


def _run_folder() -> str:
    """Give the folder of what runs: always the same for the same images, and shorter than podman's 50 characters."""
    folder = Path(tempfile.gettempdir(), f"gpumon-{zlib.crc32(bytes(storage())):08x}")
    folder.mkdir(exist_ok=True)
    return str(folder)


def command(program: str, *arguments: str) -> list[str]:
    """Give a command line of podman or buildah that uses our own images."""
    return [program, "--root", str(storage()), "--runroot", _run_folder(), *arguments]


def environment() -> dict[str, str]:
    """Give the environment such a command needs."""
    config = Path(_run_folder()) / "containers.conf"
    config.write_text(CONFIG)
    return os.environ | {"CONTAINERS_CONF": str(config)}


def podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run podman to its end; RuntimeError has what it said where `check` is on and it failed."""
    done = subprocess.run(
        command("podman", *arguments),
        cwd=_run_folder(),  # where the file goes that tells of a process killed for memory
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if check and done.returncode:
        raise RuntimeError(f"podman {' '.join(arguments)}: {done.stderr.strip()[-500:]}")
    return done


def build() -> str:
    """Build the image and give its name; RuntimeError says what keeps it from being built."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise RuntimeError(f"{', '.join(missing)} not installed")
    if os.getuid() != 0:
        raise RuntimeError("only root can make the base image")
    storage().mkdir(parents=True, exist_ok=True)
    base = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0]
    if podman("image", "exists", base, check=False).returncode:
        with tempfile.TemporaryDirectory() as folder:
            archive = f"{folder}/base.tar"
            # ca-certificates cannot be installed later, into the folder that is mounted from outside.
            options = ("--quiet", "--variant=minbase", "--mode=root", "--include=ca-certificates")
            _retry(["mmdebstrap", *options, "trixie", archive])
            podman("import", "--quiet", archive, base)
    volumes = [f"--volume={path}:{path}:ro" for path in MOUNTED if Path(path).exists()]
    # Docker's format, because OCI's has no HEALTHCHECK.
    options = ("--pull-never", "--network=host", "--isolation=chroot", "--layers", "--format=docker", *volumes)
    _retry(command("buildah", "build", *options, f"--tag={IMAGE}", str(ROOT)))
    return IMAGE


def _retry(arguments: list[str]) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if attempt == ATTEMPTS:
            raise RuntimeError(f"{arguments[0]} failed: {(done.stderr or done.stdout).strip()[-1000:]}")


if __name__ == "__main__":
    build()
    os.execvpe("podman", command("podman", *(sys.argv[1:] or ["images"])), environment())
