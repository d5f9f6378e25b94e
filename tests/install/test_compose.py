"""What the compose files name is there: files, settings, versions; and nothing listens to more than this machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpumon.settings import options

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "compose"
FILES = ("compose.yaml", "compose.ollama.yaml")
SERVICES: list[tuple[str, dict[str, Any]]] = [
    (name, service)
    for file in FILES
    for name, service in yaml.safe_load((FOLDER / file).read_text())["services"].items()
]


def test_versions_are_pinned() -> None:
    """By a version of three numbers, so that tomorrow's start is today's."""
    images = [service["image"] for _, service in SERVICES if "image" in service]
    assert len(images) == 6
    assert all(re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", image) for image in images)


def test_mounted_files_are_there() -> None:
    """A file that is missing would be made a folder by Docker."""
    mounted = [volume.split(":")[0] for _, service in SERVICES for volume in service.get("volumes", ())]
    assert {path for path in mounted if path.startswith(".") and not (FOLDER / path).exists()} == set()


def test_variables_are_settings() -> None:
    """Every variable of gpumon's is one that it reads."""
    known = {option.variable for option in options()}
    given = {name for _, service in SERVICES for name in service.get("environment", {}) if name.startswith("GPUMON_")}
    assert given <= known


def test_ports_are_of_this_machine_only() -> None:
    """Neither Grafana nor the API is open to the network until somebody says so."""
    ports = [port for _, service in SERVICES for port in service.get("ports", ())]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_gpumon_has_no_more_rights_than_it_needs() -> None:
    """Read-only root, no capability, no new ones, and a limit of memory."""
    ours = [service for _, service in SERVICES if service.get("image", "").startswith("gpumon:")]
    assert len(ours) == 2
    for service in ours:
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"].endswith("m")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="NOT TESTED: promtool is not installed")
def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    """With rules and targets where the containers have them."""
    shutil.copytree(FOLDER / "targets", tmp_path / "targets")
    shutil.copytree(ROOT / "rules", tmp_path / "rules")
    shutil.copy(FOLDER / "prometheus.yml", tmp_path)
    done = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
