"""Checks of what gpumon may know of the processes on GPUs: their pids, their facts, their pods."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from gpumon.check.finding import Finding, Status
from gpumon.process.container import has_hidden_beginning
from gpumon.process.grpc import GrpcError
from gpumon.process.podresources import allocations
from gpumon.process.proc import HOST_PID_NAMESPACE
from gpumon.process.userrules import parse_rules
from gpumon.settings import Settings, SettingsError

PROC = Path("/proc")

# A kubelet that is well answers at once.
ASK_SECS = 2.0

# What reading other users' processes takes (capabilities(7)), by its bit in CapEff.
SYS_PTRACE = 19


def pid_view(settings: Settings, proc: Path | None = None) -> Finding:
    """Say whether the pids that NVML gives are those seen here: it gives the host's."""
    if not settings.processes.enabled:
        return Finding(Status.INFO, "not needed: processes.enabled is false")
    mounted = Path(settings.processes.proc_root)
    own = proc is not None or mounted == PROC
    if own and _is_host_namespace(proc or PROC):
        return Finding(Status.OK, "the host's")
    # Kernel threads are seen by the host only; pid 2 is the parent of them all.
    on_host = (not own or not (proc or PROC).joinpath("self/ns/pid").is_symlink()) and (
        _first_line((proc or mounted) / "2/comm") == "kthreadd"
    )
    if on_host:
        return Finding(Status.OK, "the host's" if own else f"the host's, by {mounted}")
    if not own:
        advice = "mount the host's /proc there, or unset processes.proc_root"
        return Finding(Status.WARN, f"{mounted} is not the host's /proc, so processes on a GPU cannot be named", advice)
    return Finding(
        Status.WARN,
        "the container's own, so the processes on a GPU cannot be named",
        "run it with --pid=host (docker) or hostPID: true (Kubernetes), or mount the host's /proc and set processes.proc_root",
    )


def _is_host_namespace(proc: Path) -> bool:
    try:
        return str((proc / "self/ns/pid").readlink()) == HOST_PID_NAMESPACE
    except OSError:
        return False


def facts(settings: Settings, proc: Path = PROC) -> Finding:
    """Say what the kernel tells of other users' processes, and whether the rules of the settings can be used."""
    try:
        rules = parse_rules(settings.processes.rules)
    except SettingsError as error:
        return Finding(Status.FAIL, str(error).removesuffix("."), "correct processes.rules")
    own = f", {len(rules)} of the settings" if rules else ""
    hidden = " (cgroups from inside a private namespace)" if _has_hidden_cgroups(proc) else ""
    if _effective_capabilities(proc) >> SYS_PTRACE & 1:
        return Finding(Status.OK, f"all rules can be tried{own}{hidden}")
    found = f"libraries and ports of other users' processes cannot be read, so some rules cannot be tried{own}{hidden}"
    return Finding(
        Status.INFO, found, "for these as well, run with CAP_SYS_PTRACE, which root has outside of containers"
    )


def _effective_capabilities(proc: Path) -> int:
    for line in _text(proc / "self/status").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _has_hidden_cgroups(proc: Path) -> bool:
    return has_hidden_beginning(_text(proc / "1/cgroup"))


def kubelet(settings: Settings, path: Path | None = None, in_kubernetes: bool | None = None) -> Finding:
    """Say whether the kubelet can be asked which pod has which GPU, and what it says."""
    path = path or Path(settings.kubernetes.pod_resources_socket)
    if in_kubernetes is None:
        in_kubernetes = "KUBERNETES_SERVICE_HOST" in os.environ
    if not path.exists():
        status = Status.WARN if in_kubernetes else Status.INFO
        advice = f"to name pods, mount {path.parent} from the node" if in_kubernetes else ""
        return Finding(status, f"no socket at {path}", advice)
    further = frozenset(name.strip() for name in settings.kubernetes.resource_names.split(",") if name.strip())
    try:
        given = asyncio.run(allocations(str(path), further, ASK_SECS))
    except GrpcError as error:
        return Finding(Status.WARN, f"the kubelet {error}", f"to name pods, give access to {path} (root may use it)")
    pods = len({(one.namespace, one.pod) for one in given})
    return Finding(Status.OK, f"answers at {path}: pods with GPUs: {pods}")


def _first_line(path: Path) -> str:
    return _text(path).split("\n", 1)[0]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
