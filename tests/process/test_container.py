"""Every shape a cgroup path is known to have leads to its container, pod or job."""

from __future__ import annotations

import pytest

from gpumon.process.container import NOWHERE, Container, find, has_hidden_beginning

ID, NODE = "a1" * 32, "b2" * 32
UID = "3e61b8b5-4b3c-4d7e-9f0a-1c2d3e4f5a6b"
FLAT = UID.replace("-", "_")
STATIC = "0123456789abcdef" * 2
KIND = "0::/system.slice/docker-{node}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice"

SHAPES = [
    # (text of the file, id, runtime, pod uid)
    (f"13:name=systemd:/docker/{ID}", ID, "docker", ""),
    (f"0::/system.slice/docker-{ID}.scope", ID, "docker", ""),
    (f"0::/docker/{ID}", ID, "docker", ""),
    (f"0::/docker/{NODE}/docker/{ID}", ID, "docker", ""),
    (f"11:devices:/kubepods/burstable/pod{UID}/{ID}", ID, "", UID),
    (f"11:devices:/kubepods/besteffort/pod{UID}/{ID}", ID, "", UID),
    (f"11:devices:/kubepods/pod{UID}/{ID}", ID, "", UID),
    (f"0::/kubepods/burstable/pod{UID}/{ID}", ID, "", UID),
    (
        f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{FLAT}.slice/cri-containerd-{ID}.scope",
        ID,
        "containerd",
        UID,
    ),
    (f"0::/kubepods.slice/kubepods-pod{FLAT}.slice/cri-containerd-{ID}.scope", ID, "containerd", UID),
    (f"0::/kubepods.slice/kubepods-pod{FLAT}.slice/crio-{ID}.scope", ID, "cri-o", UID),
    (f"0::/kubepods.slice/kubepods-pod{FLAT}.slice/crio-{ID}.scope/container", ID, "cri-o", UID),
    (
        f"1:name=systemd:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{FLAT}.slice/docker-{ID}.scope",
        ID,
        "docker",
        UID,
    ),
    (
        f"9:cpu:/system.slice/containerd.service/kubepods-burstable-pod{FLAT}.slice:cri-containerd:{ID}",
        ID,
        "containerd",
        UID,
    ),
    (
        f"{KIND.format(node=NODE)}/kubelet-kubepods-besteffort-pod{FLAT}.slice/cri-containerd-{ID}.scope",
        ID,
        "containerd",
        UID,
    ),
    (f"0::/machine.slice/libpod-{ID}.scope/container", ID, "podman", ""),
    (f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container", ID, "podman", ""),
    (f"4:memory:/libpod_parent/libpod-{ID}", ID, "podman", ""),
    (f"0::/ecs/{STATIC}/{ID}", ID, "", ""),
    (f"0::/ecs/{STATIC}-1234567890", f"{STATIC}-1234567890", "ecs", ""),
    (f"0::/kubepods/pod{STATIC}/{ID}", ID, "", STATIC),
    # From inside a private cgroup namespace (cgroup_namespaces(7)).
    (f"0::/../cri-containerd-{ID}.scope", ID, "containerd", ""),
    (
        f"0::/../../../kubepods-besteffort.slice/kubepods-besteffort-pod{FLAT}.slice/cri-containerd-{ID}.scope",
        ID,
        "containerd",
        UID,
    ),
    (f"0::/../../pod{UID}/{ID}", ID, "", UID),
    ("0::/", "", "", ""),
    ("0::/../../../..", "", "", ""),
    # No container.
    (f"0::/kubepods.slice/kubepods-pod{FLAT}.slice/crio-conmon-{ID}.scope", "", "", ""),
    ("0::/user.slice/user-1000.slice/session-3.scope", "", "", ""),
    ("0::/system.slice/ollama.service", "", "", ""),
    (f"0::/system.slice/var-lib-docker-overlay2-{ID}-merged.mount", "", "", ""),
    ("", "", "", ""),
]

JOBS = [
    ("5:devices:/slurm/uid_1000/job_42/step_0/task_0", "slurm", "42"),
    ("0::/system.slice/slurmstepd.scope/job_42/step_0/user/task_0", "slurm", "42"),
    ("4:memory:/slurm_node7/uid_1000/job_42/step_batch", "slurm", "42"),
    ("0::/pbs_jobs.service/jobid/123.server", "pbs", "123.server"),
    ("4:memory:/lsf/cluster1/job.77.2001.1690000000/taskid", "lsf", "77"),
]


@pytest.mark.parametrize(("text", "container", "runtime", "pod"), SHAPES)
def test_every_known_shape_is_read(text: str, container: str, runtime: str, pod: str) -> None:
    """Docker, containerd, CRI-O and Podman, both cgroup versions and drivers, nested, and with the beginning missing."""
    assert find(text) == Container(container, runtime, pod)


@pytest.mark.parametrize(("text", "system", "job"), JOBS)
def test_batch_jobs_are_found_by_their_cgroup(text: str, system: str, job: str) -> None:
    """Slurm with both cgroup versions, PBS and LSF."""
    found = find(text)
    assert (found.job_system, found.job) == (system, job)


def test_a_container_in_a_job_has_both() -> None:
    """A job may run a container."""
    found = find(f"5:devices:/slurm/uid_1000/job_42/step_0/libpod-{ID}")
    assert (found.job, found.id) == ("42", ID)


def test_with_many_controllers_the_line_that_tells_most_counts() -> None:
    """In a hybrid hierarchy some controllers are left at the root."""
    text = f"9:name=systemd:/\n4:memory:/kubepods/burstable/pod{UID}/{ID}\n2:cpu:/\n0::/\n"
    assert find(text) == Container(ID, "", UID)


def test_garbage_is_nowhere() -> None:
    """Text that is no cgroup file does no harm."""
    for text in ("\0\0\0", ":::", "x" * 10000, f"0::/{'g' * 64}", f"0::/{ID}0"):
        assert find(text) == NOWHERE


def test_a_private_namespace_is_noticed() -> None:
    """Only there paths begin with /.. ."""
    assert has_hidden_beginning(f"0::/../cri-containerd-{ID}.scope")
    assert not has_hidden_beginning(f"0::/docker/{ID}")
