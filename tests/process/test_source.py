"""Every process on a GPU is found, told from others, classified, and told of when it comes, changes and goes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from gpumon.apart import apart
from gpumon.catalog import (
    ATTRIBUTION,
    FACTS_DENIED,
    GPU,
    GPU_PROCESS,
    PROCESS_CATEGORY,
    PROCESS_LIMIT,
    SHARE_REASON,
    WORKLOAD,
)
from gpumon.gpu.simulate import SimulatedAccount, SimulatedProcess
from gpumon.process.proc import Proc
from gpumon.settings import Processes
from tests.process.node import GIB, Children, ProcessNode, WrittenProc, values, workloads


@pytest.fixture
def children() -> Iterator[Children]:
    """Give real processes."""
    with Children() as made:
        yield made


def test_real_processes_are_found_and_classified(children: Children) -> None:
    """Pids that the driver lists are joined with /proc; counts and memory are by category, and all five are there."""
    with ProcessNode() as node:
        node.put(0, children.start("ollama runner --model x"), children.start("python3 train.py"))
        node.put(1, children.start("gmx mdrun"))
        snapshot = node.tick()
    found = {labels[0]: entity.values for labels, entity in values(snapshot, PROCESS_CATEGORY).items()}
    assert found == {
        "gaming": (0, 0),
        "llm_inference": (1, GIB),
        "ml_training": (1, GIB),
        "general_compute": (1, GIB),
        "unknown": (0, 0),
    }
    assert list(values(snapshot, ATTRIBUTION)) == [("host", "")]


def test_a_process_on_several_gpus_counts_once(children: Children) -> None:
    """Its memory is that of all of them."""
    with ProcessNode() as node:
        pid = children.start("vllm serve m")
        node.put(0, pid)
        node.put(1, pid, used_memory_bytes=2 * GIB)
        snapshot = node.tick()
        (record,) = node.source.records()
    assert values(snapshot, PROCESS_CATEGORY)[("llm_inference",)].values == (1, 3 * GIB)
    assert [process.memory_bytes for _, process in record.gpus] == [GIB, 2 * GIB]
    assert (record.pid, record.name, record.user) == (pid, "idle", "root" if os.getuid() == 0 else record.user)


def test_a_reused_pid_is_another_process(tmp_path: Path) -> None:
    """Identity is pid and start time: the same pid with another start ends the one and begins the other."""
    written = WrittenProc(tmp_path)
    with ProcessNode(settings=Processes(proc_root=str(tmp_path))) as node:
        node.tick()
        written.put(77, "ollama runner", ticks=1000)
        node.put(0, 77)
        node.tick()
        written.put(77, "python3 train.py", ticks=1100)
        node.tick()
        told = [(event.event, event.pid, event.category) for event in node.events()]
    assert told == [("start", 77, "llm_inference"), ("end", 77, "llm_inference"), ("start", 77, "ml_training")]


def test_events_tell_start_change_and_end_with_totals(children: Children) -> None:
    """Who was there before gpumon does not start; an end has time, peak memory, busy time and energy."""
    with ProcessNode() as node:
        early, late = children.start("ollama runner"), children.start("python3 train.py")
        node.put(0, early, sm=30)
        node.tick()
        assert node.events() == []
        node.library.set_processes(
            0,
            [
                SimulatedProcess(pid=early, used_memory_bytes=GIB, sm=30),
                SimulatedProcess(pid=late, used_memory_bytes=3 * GIB, sm=60),
            ],
        )
        node.tick(5)
        node.put(0, early, sm=30)
        children.end(late)
        node.tick()
        start, end = node.events()
    assert (start.event, start.pid, start.category, start.process_name) == ("start", late, "ml_training", "idle")
    assert (end.event, end.pid, end.gpu_id, end.gpu_memory_mb) == ("end", late, 0, 3 * GIB / 1e6)
    assert end.duration_seconds == 10.0
    assert end.gpu_seconds is not None
    assert end.energy_joules is not None
    assert 0 < end.gpu_seconds <= 10.0
    assert end.energy_joules > 0


def test_behaviour_changes_a_category_and_tells_so(children: Children) -> None:
    """A process that no name tells is watched; once it is sure enough its category changes by an event."""
    with ProcessNode("rtx4090x1") as node:
        pid = children.start("thing")
        node.library.set_load(0, "gaming")
        node.put(0, pid, kind="graphics", sm=95)
        node.tick()
        assert [record.category for record in node.source.records()] == ["unknown"]
        node.tick(40)
        (record,) = node.source.records()
        changes = [event for event in node.events() if event.event == "change"]
    assert (record.category, record.rule) == ("gaming", "game-like")
    assert [(event.previous_category, event.category) for event in changes] == [("unknown", "gaming")]


def test_a_process_that_the_kernel_does_not_show_is_counted_as_unknown() -> None:
    """With hidepid, or when it has just ended, it has no name but still holds the GPU."""
    with ProcessNode() as node:
        node.put(0, 2**22 + 5)
        snapshot = node.tick(2)
        (record,) = node.source.records()
    assert values(snapshot, PROCESS_CATEGORY)[("unknown",)].values == (1, GIB)
    assert (record.name, record.started, record.category) == ("", None, "unknown")


def test_without_the_hosts_pids_nothing_is_joined(tmp_path: Path, children: Children) -> None:
    """The mode is "none" and says how to mend it; a foreign pid is never looked up in gpumon's own /proc."""
    (tmp_path / "stat").write_text("btime 1\n")
    proc = Proc(str(tmp_path))
    with ProcessNode(proc=proc) as node:
        node.put(0, children.start("ollama runner"))
        snapshot = node.tick()
        assert list(node.source.records()) == []
    ((mode, reason),) = values(snapshot, ATTRIBUTION)
    assert mode == "none"
    assert "processes.proc_root" in reason
    assert snapshot.of(PROCESS_CATEGORY) == ()
    assert snapshot.of(WORKLOAD) == ()
    assert len(snapshot.of(GPU)) == 2


def test_a_proc_mounted_elsewhere_is_read(tmp_path: Path, children: Children) -> None:
    """As in a container that has the host's /proc but not its pids."""
    root = tmp_path / "host-proc"
    root.symlink_to("/proc")
    with ProcessNode(settings=Processes(proc_root=str(root))) as node:
        node.put(0, children.start("ollama runner"))
        snapshot = node.tick()
    assert list(values(snapshot, ATTRIBUTION)) == [("host_proc", "")]
    assert values(snapshot, PROCESS_CATEGORY)[("llm_inference",)]["count"] == 1


def test_unchanging_files_are_read_once_per_process(children: Children) -> None:
    """However long a process lives, its command line and cgroup are read once; an ancestor's too."""
    proc = Proc()
    with ProcessNode(proc=proc) as node:
        pids = [children.start(f"python3 train{i}.py") for i in range(3)]
        node.put(0, *pids)
        node.tick()
        ancestors = len({origin.pid for pid in pids for origin in node.source._tracked[pid].facts.origin.ancestors})
        node.tick(20)
    assert proc.reads["cgroup"] == 3
    assert proc.reads["cmdline"] == 3 + ancestors
    assert not {"maps", "exe", "status", "environ"} & set(proc.reads)  # not needed: decided by their names


def test_expensive_readings_are_spread_over_ticks(children: Children) -> None:
    """Twenty undecided processes at once are not all read at one tick."""
    proc = Proc()
    with ProcessNode(proc=proc) as node:
        node.put(0, *[children.start("work") for _ in range(10)])
        node.tick(2)
        assert 0 < proc.reads["maps"] <= 4
        node.tick(6)
        assert proc.reads["maps"] == 10


@pytest.mark.skipif(os.getuid() != 0, reason="NOT CHECKED: only root can become another user")
def test_what_the_kernel_refuses_is_said(children: Children) -> None:
    """As an unprivileged user, what other users' processes have loaded is not known: how many, and which file."""
    pid = children.start("work")

    def as_nobody() -> tuple[dict[str, float | None], tuple[str, ...], str]:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with ProcessNode() as node:
            node.put(0, pid)
            snapshot = node.tick(2)
            (record,) = node.source.records()
        denied = {labels[0]: entity.values[0] for labels, entity in values(snapshot, FACTS_DENIED).items()}
        return denied, record.untried, record.user

    denied, untried, user = apart(as_nobody, 60)
    assert denied == {"library": 1, "port": 1}
    assert {"llama.cpp-library", "native-compute"} <= set(untried)
    assert user == "root"


def test_a_process_that_hangs_whoever_reads_it_costs_only_itself(tmp_path: Path) -> None:
    """As one that is stuck in the driver does: the others are told in time, it is said of it, and it is known once it is free."""
    written = WrittenProc(tmp_path)
    for pid in (10, 11, 12):
        written.put(pid, "ollama runner")
    (tmp_path / "10/cmdline").unlink()
    os.mkfifo(tmp_path / "10/cmdline")  # opening it blocks until there is a writer
    with ProcessNode(settings=Processes(proc_root=str(tmp_path))) as node:
        node.put(0, 10, 11)
        for pids in ((10, 11), (10, 11, 12)):
            node.put(0, *pids)
            snapshot = node.tick()
            found = values(snapshot, PROCESS_CATEGORY)
            assert found[("llm_inference",)]["count"] == len(pids) - 1
            assert found[("unknown",)]["count"] == 1
            assert values(snapshot, FACTS_DENIED)[("cmdline",)]["facts_denied"] == 1
        writer = os.open(tmp_path / "10/cmdline", os.O_WRONLY)
        os.write(writer, b"ollama\0runner\0")
        os.close(writer)
        (tmp_path / "10/cmdline").unlink()
        written.put(10, "ollama runner")
        deadline = time.monotonic() + 10
        while node.source._crew.busy and time.monotonic() < deadline:
            os.sched_yield()
        snapshot = node.tick()
    assert values(snapshot, PROCESS_CATEGORY)[("llm_inference",)]["count"] == 3
    assert snapshot.of(FACTS_DENIED) == ()


def test_one_gpu_that_does_not_tell_costs_only_its_own(children: Children) -> None:
    """The reason is said for it, the others go on, and nobody on it is said to have ended."""
    with ProcessNode() as node:
        first, second = children.start("ollama runner"), children.start("gmx mdrun")
        node.put(0, first)
        node.put(1, second)
        node.tick(2)
        node.library.fail("nvmlDeviceGetComputeRunningProcesses_v3", pynvml.NVML_ERROR_NO_PERMISSION, device=0)
        snapshot = node.tick()
        assert node.events() == []
        ((labels, _),) = values(snapshot, SHARE_REASON).items()
        assert (labels[0], labels[3], labels[4]) == ("0", "processes", "NO_PERMISSION")
        assert workloads(snapshot, 0) == {}
        assert workloads(snapshot, 1)["general_compute"]["processes"] == 1
        children.end(first)
        node.tick()
        assert [(event.event, event.pid) for event in node.events()] == [("end", first)]


def test_no_series_of_single_processes_unless_wanted(children: Children) -> None:
    """With the switch there are as many as allowed, those with the most memory, and the limit is said."""
    with ProcessNode() as node:
        node.put(0, children.start("a"))
        assert node.tick().of(GPU_PROCESS) == ()
    with ProcessNode(settings=Processes(per_process_metrics=True, per_process_limit=2)) as node:
        pids = [children.start(name) for name in "abc"]
        node.library.set_processes(
            0, [SimulatedProcess(pid=pid, used_memory_bytes=(i + 1) * GIB, sm=10) for i, pid in enumerate(pids)]
        )
        node.tick()
        snapshot = node.tick()
    series = snapshot.of(GPU_PROCESS)
    assert [entity.label("pid") for entity in series] == [str(pids[2]), str(pids[1])]
    assert [entity["memory_used_bytes"] for entity in series] == [3 * GIB, 2 * GIB]
    assert series[0]["sm_utilization_percent"] == 10
    assert series[0]["start_time_seconds"] is not None
    assert snapshot.of(PROCESS_LIMIT)[0].values == (2, 1)


def test_command_lines_are_nowhere_unless_switched_on(children: Children) -> None:
    """By default only names; switched on, they are cut and without secrets, and still no label."""
    line = ["ollama", "runner", "--api-key", "hunter2hunter2", "--url=https://me:pw@example.com/x", "a" * 300]
    for keep in (False, True):
        with ProcessNode(settings=Processes(command_lines=keep, per_process_metrics=True)) as node:
            pid = children.start(line)
            node.tick()
            node.put(0, pid)
            snapshot = node.tick()
            (record,) = node.source.records()
            (event,) = node.events()
        assert (record.command_line != "") is keep
        assert event.command_line == (record.command_line or None)
        assert "hunter2" not in repr(snapshot) + repr(record) + repr(event)
        assert "me:pw" not in record.command_line
        assert len(record.command_line) <= 200
        assert not any("runner" in label for entity in snapshot.entities for label in entity.labels)


def test_processes_between_two_ticks_are_told_where_accounting_is_on(children: Children) -> None:
    """They have an end with totals; one that was seen while it lived is not told twice."""
    with ProcessNode() as node:
        node.library.set_accounts(0, [])
        node.tick()
        seen = children.start("gmx mdrun")
        node.put(0, seen)
        node.tick()
        started = Proc().facts(seen, Proc().stat(seen)).started
        node.now = max(node.now, started + 5)
        children.end(seen)
        node.put(0)
        node.tick()
        node.events()
        brief = SimulatedAccount(pid=4242, started=node.now - 1, seconds=0.5, sm=50, peak_memory_bytes=GIB)
        known = SimulatedAccount(pid=seen, started=started, seconds=3, sm=50)
        node.library.set_accounts(0, [brief, known])
        node.tick(20)
        (event,) = node.events()
    assert (event.event, event.pid, event.duration_seconds, event.gpu_seconds) == ("end", 4242, 0.5, 0.25)
    assert (event.category, event.gpu_memory_mb) == ("unknown", GIB / 1e6)


@pytest.mark.skipif(
    os.getuid() != 0 or not os.access("/sys/fs/cgroup", os.W_OK), reason="NOT CHECKED: cgroups cannot be made here"
)
def test_real_cgroups_lead_to_containers(children: Children) -> None:
    """A process that the kernel puts into a pod's cgroup is seen there."""
    uid, container = "3e61b8b5-4b3c-4d7e-9f0a-1c2d3e4f5a6b", "c3" * 32
    roots = [Path("/sys/fs/cgroup"), *sorted(Path("/sys/fs/cgroup").glob("*"))]
    root = next((root for root in roots if (root / "cgroup.procs").exists()), None)
    if root is None:
        pytest.skip("NOT CHECKED: no cgroup hierarchy is mounted")
    levels = [root / "gpumon-test", root / f"gpumon-test/pod{uid}", root / f"gpumon-test/pod{uid}/{container}"]
    pid = children.start("python3 train.py")
    try:
        for level in levels:
            level.mkdir()
        (levels[-1] / "cgroup.procs").write_text(str(pid))
        with ProcessNode() as node:
            node.put(0, pid)
            snapshot = node.tick()
            (record,) = node.source.records()
        assert (record.container.id, record.container.pod_uid) == (container, uid)
        (workload,) = [entity for entity in snapshot.of(WORKLOAD) if entity.label("category") == "ml_training"]
        assert workload.label("container") == container[:12]
    finally:
        children.end(pid)
        for level in reversed(levels):
            if level.exists():
                level.rmdir()


def test_more_processes_than_files_may_be_open_are_read_all_the_same(children: Children) -> None:
    """Stat files are kept open for some only, and none is left open when its process is gone."""
    proc = Proc()
    proc._most_open = 3
    before = len(list(Path("/proc/self/fd").iterdir()))
    with ProcessNode(proc=proc) as node:
        base = len(list(Path("/proc/self/fd").iterdir()))
        pids = [children.start(f"python3 train{i}.py") for i in range(6)]
        node.put(0, *pids)
        node.tick(3)
        assert len(list(node.source.records())) == 6
        assert len(proc._open) == 3
        for pid in pids:
            children.end(pid)
        node.put(0)
        node.tick(2)
        assert proc._open == {}
        assert len(list(Path("/proc/self/fd").iterdir())) <= base
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
