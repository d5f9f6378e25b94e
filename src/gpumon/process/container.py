"""The container, pod and batch job of a process, from the text of /proc/<pid>/cgroup.

Patterns are unanchored and the deepest match wins: containers are nested (kind), and from inside a private cgroup
namespace the leading part of a path is missing or is "/..", so no depth and no beginning can be relied on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_HEX64 = r"[0-9a-f]{64}"
_UUID = r"[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}"
_RUNTIMES = "docker|cri-containerd|containerd|crio|libpod-payload|libpod|nerdctl|buildkit"

_CONTAINER = re.compile(rf"(?:^|[/:-])(?:({_RUNTIMES})[-:/])?({_HEX64})(?=\.scope|[/:]|$)")
_ECS = re.compile(r"(?:^|/)ecs/(?:[^/]+/)?([0-9a-f]{32}-\d+)(?=/|$)")
# A static pod has the hash of its manifest instead of a UUID.
_POD = re.compile(rf"(?:^|[/-])pod({_UUID}|[0-9a-f]{{32}})(?=\.slice|[/:]|$)")
# CRI-O's monitor of a container is not in it.
_MONITOR = re.compile(rf"crio-conmon-{_HEX64}|libpod-conmon-{_HEX64}")

# A batch system's name with how it names a job's cgroup.
_JOBS = (
    ("slurm", re.compile(r"(?:^|/)(?:slurm[^/]*|slurmstepd\.scope)/(?:uid_\d+/)?job_(\d+)(?=/|$)")),
    ("pbs", re.compile(r"(?:^|/)pbs_jobs\.service/jobid/([^/]+)")),
    ("pbs", re.compile(r"(?:^|/)pbspro[^/]*\.slice/pbspro-([^/]+?)\.(?:slice|scope)(?=/|$)")),
    ("lsf", re.compile(r"(?:^|/)lsf/[^/]+/job\.(\d+)\.")),
    ("htcondor", re.compile(r"(?:^|/)htcondor/condor_[^/]*?(slot[^/@]+)@")),
)

_NAMES = {
    "cri-containerd": "containerd",
    "crio": "cri-o",
    "libpod": "podman",
    "libpod-payload": "podman",
}


@dataclass(frozen=True, slots=True)
class Container:
    """Where a process runs; each is "" where it runs in none, or where its cgroup does not tell.

    `runtime` is also "" when only the kind of path names it, as in Kubernetes with the cgroupfs driver.
    """

    id: str = ""
    runtime: str = ""
    pod_uid: str = ""
    job_system: str = ""
    job: str = ""


NOWHERE = Container()


@lru_cache(maxsize=1024)  # all processes of a container have the same text
def find(cgroup: str) -> Container:
    """Give the container of a process by the text of its cgroup file."""
    found = NOWHERE
    for line in cgroup.splitlines():
        path = line.split(":", 2)[-1]
        here = _parse(path)
        # With cgroup v1 each controller has a path; the one that tells most is taken.
        if _weight(here) > _weight(found):
            found = here
    return found


def _weight(container: Container) -> int:
    return bool(container.id) + bool(container.pod_uid) + bool(container.runtime) + 3 * bool(container.job)


def _parse(path: str) -> Container:
    system, job = next(((name, match[1]) for name, pattern in _JOBS if (match := pattern.search(path))), ("", ""))
    if _MONITOR.search(path) or path.endswith(".mount"):
        return Container(job_system=system, job=job)
    containers = list(_CONTAINER.finditer(path))
    pods = _POD.findall(path)
    pod = _dashed(pods[-1]) if pods else ""
    if not containers:
        task = _ECS.search(path)
        return Container(task[1] if task else "", "ecs" if task else "", pod, system, job)
    last = containers[-1]
    runtime = last[1] or ("docker" if re.search(r"(?:^|/)docker/", path[: last.start(2)]) else "")
    return Container(last[2], _NAMES.get(runtime, runtime), pod, system, job)


def _dashed(uid: str) -> str:
    """Give a pod's UID as Kubernetes writes it; systemd's slices have underscores in place of dashes."""
    return uid.replace("_", "-")


def has_hidden_beginning(cgroup: str) -> bool:
    """Say whether the paths are seen from inside a private cgroup namespace, where pods of others may be hidden."""
    return any(line.split(":", 2)[-1].startswith("/..") for line in cgroup.splitlines())
