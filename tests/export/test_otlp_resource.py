"""Who sends is said as contracted, and as the environment has it."""

from __future__ import annotations

import pytest

from gpumon.catalog import KINDS
from gpumon.export.otlp_resource import attributes
from gpumon.settings import SettingsError


def resource(port: int = 9090, host: str = "node1", **environ: str) -> dict[str, str]:
    """Give the attributes for an environment."""
    return attributes(environ, version="1.2.3", hostname=host, port=port)


def test_contracted_attributes_are_there() -> None:
    """Name, version, host, and an instance id that outlives a restart and tells two gumpons of a host apart."""
    found = resource()
    assert (found["service.name"], found["service.version"], found["host.name"]) == ("gpumon", "1.2.3", "node1")
    ids = [
        found["service.instance.id"],
        resource(port=9091)["service.instance.id"],
        resource(host="b")["service.instance.id"],
    ]
    assert len(set(ids)) == 3
    assert resource() == found
    assert "k8s.node.name" not in found


def test_in_kubernetes_the_node_is_the_host() -> None:
    """A pod's host name is its own: the node's comes from the downward API."""
    found = resource(
        host="gpumon-x7k2p", NODE_NAME="gpu-7", K8S_CLUSTER_NAME="lab", POD_NAME="gpumon-x7k2p", POD_UID=""
    )
    assert found["host.name"] == found["k8s.node.name"] == "gpu-7"
    assert found["k8s.cluster.name"] == "lab"
    assert resource(K8S_NODE_NAME="a", NODE_NAME="b")["k8s.node.name"] == "a"


def test_the_resource_hides_no_attribute_of_a_reading() -> None:
    """Collectors that make labels of resource attributes put them over a point's: a pod's name would be gpumon's."""
    found = resource(NODE_NAME="gpu-7", POD_NAME="gpumon-x7k2p", POD_NAMESPACE="monitoring", POD_UID="1-2")
    labels = [label for kind in KINDS for label in kind.labels]
    forms = [name for label in labels if label.otel_form for name, _ in label.otel_form.attributes]
    assert not found.keys() & {*forms, *(label.attribute for label in labels)}


def test_the_environment_has_the_last_word() -> None:
    """OTEL_RESOURCE_ATTRIBUTES adds and replaces; OTEL_SERVICE_NAME goes before it."""
    found = resource(
        OTEL_RESOURCE_ATTRIBUTES="team=a%2Cb, service.name=x,service.instance.id=7,", OTEL_SERVICE_NAME="gpus"
    )
    assert (found["team"], found["service.name"], found["service.instance.id"]) == ("a,b", "gpus", "7")


def test_what_is_no_attribute_is_named() -> None:
    """A malformed list stops the start with the entry and an example."""
    with pytest.raises(SettingsError, match="OTEL_RESOURCE_ATTRIBUTES has 'nonsense'; entries have to be like"):
        resource(OTEL_RESOURCE_ATTRIBUTES="a=b,nonsense")
