"""What /metrics says of each simulated node, byte for byte; `make golden` writes the files anew, the diff is the review."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gpumon.catalog import GPU, GPU_HEALTH, SOURCE, Entity
from gpumon.export.prometheus import Form, Renderer
from tests.node import Node, without

GOLDEN = Path(__file__).with_name("golden")
PROFILES = ("h100x8", "a100x8", "rtx4090x1", "l40sx4", "h100x8-mig", "t4x1", "gb10x1")
# Of time on this machine's clock, and so of no two runs alike.
VOLATILE = {SOURCE: ("duration_seconds",), GPU_HEALTH: ("read_duration_seconds",)}
# The GB10's memory is this machine's.
UNIFIED = ("gb10x1", {GPU: ("memory_used", "memory_total", "memory_free_bytes")})
# Names that DESIGN fixes and promtool's linter dislikes.
CONTRACTED = ("gpumon_gpu_count", "gpumon_process_count")


def steady(entity: Entity, profile: str) -> Entity:
    """Blank what is of no two runs alike."""
    volatile = VOLATILE | (UNIFIED[1] if profile == UNIFIED[0] else {})
    return without(entity, *volatile.get(entity.kind, ()))


def page(profile: str) -> bytes:
    """Render the third snapshot of a simulated node."""
    with Node(profile) as node, capture_logs():
        snapshot = node.tick(3)
    return b"".join(Renderer().render([steady(entity, profile) for entity in snapshot.entities], Form.TEXT))


@pytest.mark.parametrize("profile", PROFILES)
def test_the_page_of_each_profile_is_as_reviewed(profile: str) -> None:
    """Nothing about a page changes unseen: not a name, not a label, not a number."""
    file = GOLDEN / f"{profile}.prom"
    content = page(profile)
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        file.write_bytes(content)
    assert content.decode().splitlines() == file.read_text().splitlines()


@pytest.mark.parametrize("profile", PROFILES)
def test_promtool_takes_the_page_of_each_profile(profile: str) -> None:
    """Prometheus's own checker finds nothing wrong but with names that are contracts."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("NOT CHECKED: promtool is not installed (Debian package prometheus)")
    checked = subprocess.run([promtool, "check", "metrics"], input=page(profile), capture_output=True, check=False)
    complaints = [line for line in checked.stderr.decode().splitlines() if not line.startswith(CONTRACTED)]
    assert complaints == []


def test_no_page_holds_a_number_that_is_none() -> None:
    """What could not be read is absent: never NaN, infinity or an empty value."""
    for profile in PROFILES:
        for line in page(profile).decode().splitlines():
            if not line.startswith("#"):
                value = line.rsplit(" ", 1)[1]
                assert value == str(value).strip()
                assert value.lower() not in ("nan", "inf", "+inf", "-inf", "")


def test_volatile_columns_exist() -> None:
    """The list of what is left out of the comparison has not gone stale."""
    for kind, columns in (VOLATILE | UNIFIED[1]).items():
        assert set(columns) <= set(kind.index)
