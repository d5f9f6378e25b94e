"""Who sends: OpenTelemetry's resource attributes of this gpumon."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from urllib.parse import unquote

from gpumon.settings import SettingsError

# The variables of a pod from which its attributes come; the chart sets them by the downward API.
# Not the names of gpumon's own pod: readings carry those of the pods they are of, and a collector that makes labels of
# resource attributes would overwrite them with gpumon's.
FROM_ENVIRONMENT = {
    "k8s.node.name": ("K8S_NODE_NAME", "NODE_NAME"),
    "k8s.cluster.name": ("K8S_CLUSTER_NAME", "CLUSTER_NAME"),
}
# Names that are hashed with this are gpumon's and nobody else's; a random number, chosen once.
NAMESPACE = uuid.UUID("0a6f5c1e-7d0f-4b8e-9a4e-2c54f1a3b7d6")


def attributes(environ: Mapping[str, str], *, version: str, hostname: str, port: int) -> dict[str, str]:
    """Give the resource attributes; what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say goes before the rest.

    In Kubernetes `host.name` is the node's: a pod's host name is the pod's own.
    `service.instance.id` follows from host and port of /metrics, so that it outlives a restart and two gpumons differ.
    SettingsError says what is wrong with OTEL_RESOURCE_ATTRIBUTES.
    """
    found = {
        attribute: value
        for attribute, variables in FROM_ENVIRONMENT.items()
        if (value := next((environ[name] for name in variables if environ.get(name)), ""))
    }
    host = found.get("k8s.node.name", hostname)
    result = {
        "service.name": "gpumon",
        "service.version": version,
        "service.instance.id": str(uuid.uuid5(NAMESPACE, f"{host}:{port}")),
        "host.name": host,
        **found,
        **_listed(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")),
    }
    if environ.get("OTEL_SERVICE_NAME"):
        result["service.name"] = environ["OTEL_SERVICE_NAME"]
    return result


def _listed(text: str) -> dict[str, str]:
    """Read a list like `key=value,key2=value2` with percent-encoded values."""
    pairs = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = entry.partition("=")
        if not equals or not key.strip():
            raise SettingsError(f"OTEL_RESOURCE_ATTRIBUTES has {entry!r}; entries have to be like team=vision")
        pairs[key.strip()] = unquote(value.strip())
    return pairs
