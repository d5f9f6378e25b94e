"""What docs/kubernetes.md shows can be taken as it stands."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gpumon.load import load
from tests.chart.pod_security import violations
from tests.chart.rendered import ROOT, objects

PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
OBJECTS = [block for block in BLOCKS if "apiVersion" in block]
VALUES = [block for block in BLOCKS if "apiVersion" not in block]


@pytest.mark.parametrize("values", VALUES, ids=lambda values: next(iter(values)))
def test_its_values_are_values_of_the_chart(values: dict[str, Any]) -> None:
    """Each block can be given to Helm."""
    assert objects(values)


def test_its_sidecar_is_a_pod_that_gpumon_runs_in() -> None:
    """Kubernetes takes the pod, the restricted profile finds nothing in the sidecar, and gpumon takes its settings."""
    (one,) = OBJECTS
    kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
    (sidecar,) = one["spec"]["initContainers"]
    assert not [found for found in violations(one["spec"]) if found.startswith(sidecar["name"])]
    environ = {entry["name"]: entry["value"] for entry in sidecar["env"]}
    settings = load(None, environ | {"HOME": "/nowhere"})
    (server,) = (entry["value"] for entry in one["spec"]["containers"][0]["env"] if entry["name"] == "OLLAMA_HOST")
    assert settings.proxy.upstream == f"http://{server}"
    ports = {port["name"]: port["containerPort"] for port in sidecar["ports"]}
    assert ports == {
        "http": int(settings.proxy.listen.rpartition(":")[2]),
        "metrics": settings.telemetry.metrics_port,
    }
    assert one["spec"]["terminationGracePeriodSeconds"] > settings.proxy.drain_secs


def test_its_table_of_rights_names_every_exception() -> None:
    """What the default asks for beyond the restricted profile stands there."""
    for value in ("processView: hostPID", "podNames: kubelet", "data.volume: hostPath", "kernelLog: true"):
        assert f"| `{value}`" in PAGE
