"""Batch jobs are found by mapping files where the cgroup names none."""

from __future__ import annotations

from pathlib import Path

from gpumon.catalog import SHARE_REASON, WORKLOAD
from gpumon.process.jobs import Jobs
from gpumon.settings import Processes
from tests.process.node import ProcessNode, WrittenProc


def test_a_file_per_gpu_names_the_job(tmp_path: Path) -> None:
    """One job per GPU is given; several are not, with the reason; a cgroup's own job comes first; changes are noticed."""
    root, folder = tmp_path / "proc", tmp_path / "jobs"
    root.mkdir()
    folder.mkdir()
    proc = WrittenProc(root)
    proc.put(10, "python3 train.py")
    proc.put(11, "python3 train.py", cgroup="0::/system.slice/slurmstepd.scope/job_99/step_0/user/task_0")
    (folder / "0").write_text("1234\n")
    (folder / "1").write_text("7\n8\n")
    (folder / "notes.txt").write_text("x")

    def jobs(node: ProcessNode, gpu: int) -> set[str]:
        return {one.label("hpc_job") for one in snapshot.of(WORKLOAD) if one.labels[0] == str(gpu) and one["processes"]}

    with ProcessNode(settings=Processes(proc_root=str(root)), places=[Jobs(folder)]) as node:
        node.put(0, 10)
        node.put(1, 11)
        snapshot = node.tick()
        assert jobs(node, 0) == {"1234"}
        assert jobs(node, 1) == {"99"}
        ((gpu, part),) = {(one.labels[0], one.labels[3]) for one in snapshot.of(SHARE_REASON)}
        assert (gpu, part) == ("1", "jobs")
        (folder / "0").unlink()
        snapshot = node.tick(10)
        assert jobs(node, 0) == {""}
