"""What the chart makes of values, by Helm itself, as a library."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "gpumon"

Object = dict[str, Any]
Values = dict[str, Any]

# Values that people install with; every object that the chart can make is in one of them, every choice, too.
VALUE_SETS: dict[str, Values] = {
    "default": {},
    "restricted": {"securityProfile": "restricted"},
    "restricted on a claim": {"securityProfile": "restricted", "data": {"volume": "claim", "claimName": "history"}},
    "host's /proc": {"processView": "proc"},
    "nothing of the host": {"processView": "none", "podNames": "off", "data": {"volume": "emptyDir"}},
    "pod labels": {"config": {"kubernetes": {"pod_labels": "app,team"}}},
    "kernel log": {"kernelLog": True},
    "privileged": {"securityContext": {"privileged": True}},
    "MIG": {"migMonitor": True, "runtimeClassName": "nvidia"},
    "every node": {"gpuNodeLabels": []},
    "host network": {"hostNetwork": True, "config": {"telemetry": {"metrics_port": 19090}}},
    "API": {"api": {"expose": True, "tokenSecret": {"name": "gpumon-api"}}},
    "TLS": {
        "webConfig": {"secretName": "gpumon-web", "login": True},
        "prometheus": {
            "monitor": "ServiceMonitor",
            "tlsConfig": {"ca": {"secret": {"name": "gpumon-web", "key": "ca.crt"}}, "serverName": "gpumon"},
            "basicAuth": {
                "username": {"name": "gpumon-login", "key": "username"},
                "password": {"name": "gpumon-login", "key": "password"},
            },
        },
    },
    "operators": {
        "clusterName": "c1",
        "prometheus": {
            "monitor": "PodMonitor",
            "labels": {"release": "kube-prometheus-stack"},
            "rules": {"enabled": True},
            "relabelings": [{"targetLabel": "rack", "replacement": "r1"}],
            "metricRelabelings": [{"action": "labeldrop", "regex": "vbios_version"}],
        },
        "dashboards": {"enabled": True, "namespace": "grafana", "annotations": {"grafana_folder": "GPUs"}},
    },
    "network policy": {
        "networkPolicy": {
            "enabled": True,
            "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
            "limitEgress": True,
            "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}],
        }
    },
    "no metrics": {"config": {"telemetry": {"enable_prometheus": False, "otlp_endpoint": "http://collector:4317"}}},
    "everything of one's own": {
        "image": {"repository": "registry.example.com/gpumon", "digest": f"sha256:{'0' * 64}"},
        "imagePullSecrets": [{"name": "registry"}],
        "clusterName": "c1",
        "commonLabels": {"team": "gpu"},
        "serviceAccount": {"annotations": {"example.com/role": "archive"}},
        "service": {"headless": False, "annotations": {"example.com/a": "b"}},
        "priorityClassName": "system-node-critical",
        "nodeSelector": {"pool": "gpu"},
        "affinity": {"podAntiAffinity": {}},
        "gpuNodeLabels": [],
        "yieldToGpuOperator": False,
        "podLabels": {"a": "b"},
        "podAnnotations": {"a": "b"},
        "securityContext": {"capabilities": {"drop": ["ALL"], "add": ["SYS_PTRACE"]}},
        "extraArgs": ["--simulate=h100x8"],
        "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_COMPRESSION", "value": "gzip"}],
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
        "config": {"proxy": {"listen": "0.0.0.0:11435", "drain_secs": 20.5}},
    },
}


@cache
def chart() -> helm_python.Chart:
    """Give the chart, loaded."""
    return helm_python.Chart.load(CHART)


def files(values: Values, name: str = "gpumon", namespace: str = "monitoring") -> dict[str, str]:
    """Give what each template makes, checked by the chart's schema. Raises helm_python.HelmError."""
    return _files(json.dumps(values), name, namespace)


@cache
def _files(values: str, name: str, namespace: str) -> dict[str, str]:
    given = json.loads(values)
    chart().validate_schema(given)
    return chart().render(given, name=name, namespace=namespace)


def objects(values: Values, name: str = "gpumon", namespace: str = "monitoring") -> list[Object]:
    """Give the Kubernetes objects of a release, those of `helm test` among them."""
    made = files(values, name, namespace)
    texts = [text for path, text in sorted(made.items()) if path.endswith(".yaml")]
    return [one for text in texts for one in yaml.load_all(text, yaml.CSafeLoader) if one]


def only(kind: str, some: list[Object]) -> Object:
    """Give the one object of a kind."""
    (found,) = (one for one in some if one["kind"] == kind)
    return found


def pod(some: list[Object]) -> Object:
    """Give the pods' specification."""
    spec: Object = only("DaemonSet", some)["spec"]["template"]["spec"]
    return spec
