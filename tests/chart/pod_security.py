"""Kubernetes's restricted pod-security profile (and with it the baseline one), a row per rule.

From the Pod Security Standards' tables. Only for pods on Linux; a real API server holds the chart to the same in
tests/e2e/test_kubernetes.py, and these rows to what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Part = dict[str, Any]

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
}


def violations(spec: Part) -> list[str]:
    """Give what the restricted profile does not allow of a pod."""
    return [message for rule in RULES for message in rule(spec)]


def _containers(spec: Part) -> Iterator[tuple[str, Part, Part]]:
    """Give each container's name, specification and security context."""
    for key in ("initContainers", "containers", "ephemeralContainers"):
        for one in spec.get(key, ()):
            yield one["name"], one, one.get("securityContext", {})


def _setting(spec: Part, context: Part, key: str) -> Any:
    """Give what holds for a container: its own setting, or the pod's."""
    return context[key] if key in context else spec.get("securityContext", {}).get(key)


def _host_namespaces(spec: Part) -> Iterator[str]:
    yield from (key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key))


def _volumes(spec: Part) -> Iterator[str]:
    for volume in spec.get("volumes", ()):
        yield from (f"volume {volume['name']}: {key}" for key in volume if key != "name" and key not in VOLUMES)


def _host_ports(spec: Part) -> Iterator[str]:
    for name, one, _ in _containers(spec):
        yield from (f"{name}: hostPort" for port in one.get("ports", ()) if port.get("hostPort"))


def _privileged(spec: Part) -> Iterator[str]:
    yield from (f"{name}: privileged" for name, _, context in _containers(spec) if context.get("privileged"))


def _escalation(spec: Part) -> Iterator[str]:
    for name, _, context in _containers(spec):
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: allowPrivilegeEscalation"


def _capabilities(spec: Part) -> Iterator[str]:
    for name, _, context in _containers(spec):
        capabilities = context.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", ()):
            yield f"{name}: capabilities not dropped"
        yield from (f"{name}: {one}" for one in capabilities.get("add", ()) if one != "NET_BIND_SERVICE")


def _user(spec: Part) -> Iterator[str]:
    for name, _, context in _containers(spec):
        if _setting(spec, context, "runAsNonRoot") is not True:
            yield f"{name}: may run as root"
        if _setting(spec, context, "runAsUser") == 0:
            yield f"{name}: user 0"


def _seccomp(spec: Part) -> Iterator[str]:
    for name, _, context in _containers(spec):
        profile = _setting(spec, context, "seccompProfile") or {}
        if profile.get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{name}: seccomp"


def _other_contexts(spec: Part) -> Iterator[str]:
    contexts = [("pod", spec.get("securityContext", {})), *((name, context) for name, _, context in _containers(spec))]
    for name, context in contexts:
        selinux = context.get("seLinuxOptions", {})
        if selinux.get("type") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
            yield f"{name}: SELinux"
        if context.get("procMount") not in (None, "Default"):
            yield f"{name}: procMount"
        if context.get("appArmorProfile", {}).get("type") not in (None, "RuntimeDefault", "Localhost"):
            yield f"{name}: AppArmor"
        yield from (f"sysctl {one['name']}" for one in context.get("sysctls", ()) if one["name"] not in SYSCTLS)


RULES: tuple[Callable[[Part], Iterator[str]], ...] = (
    _host_namespaces,
    _volumes,
    _host_ports,
    _privileged,
    _escalation,
    _capabilities,
    _user,
    _seccomp,
    _other_contexts,
)
