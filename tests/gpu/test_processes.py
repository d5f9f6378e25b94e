"""What a GPU's processes are told as: all lists joined, what each does, and nothing where the driver gives nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pynvml
import pytest

from gpumon.gpu.nvml import Nvml
from gpumon.gpu.processes import DeviceProcesses, ProcessReading, has_misplaced_lists
from gpumon.gpu.simulate import SimulatedAccount, SimulatedLibrary, SimulatedProcess, parse_profile

GIB = 1 << 30
LISTS = [f"nvmlDeviceGet{name}RunningProcesses" for name in ("Compute", "Graphics", "MPSCompute")]


class Bench:
    """One simulated GPU that is asked directly, with a clock the test moves."""

    def __init__(self, profile: str) -> None:
        self.now = 1_700_000_000.0
        self.library = SimulatedLibrary(parse_profile(profile), clock=lambda: self.now)
        self.nvml = Nvml(self.library)
        self.nvml.open()
        self.handle = self.nvml.call("nvmlDeviceGetHandleByIndex", 0)
        self.processes = DeviceProcesses("570.124.06")

    def read(self, seconds: float = 2.0, *instances: object, slow: bool = True) -> ProcessReading:
        """Let time pass, and read."""
        self.now += seconds
        return self.processes.read(self.nvml, self.handle, instances, slow=slow)


@contextmanager
def started(profile: str = "h100x1") -> Iterator[Bench]:
    """Give a bench; nvidia-ml-py is left as it was."""
    before = pynvml.nvmlLib
    try:
        yield Bench(profile)
    finally:
        pynvml.nvmlLib = before
        pynvml._nvmlGetFunctionPointer_cache.clear()


def test_a_process_in_several_lists_is_one() -> None:
    """Compute, graphics and MPS contexts are joined by pid; memory is the process's own and is not added up."""
    with started() as bench:
        listed = [SimulatedProcess(pid=7, kind=kind, used_memory_bytes=GIB) for kind in ("compute", "graphics", "mps")]
        bench.library.set_processes(0, [*listed, SimulatedProcess(pid=8, used_memory_bytes=None)])
        first, second = bench.read().processes or ()
    assert (first.pid, first.contexts, first.memory_bytes) == (7, "CGM", GIB)
    assert (second.pid, second.contexts, second.memory_bytes) == (8, "C", None)


@pytest.mark.parametrize("removed", [("_v3",), ("_v3", "_v2")])
def test_older_drivers_are_asked_by_older_calls(removed: tuple[str, ...]) -> None:
    """Without the newest symbols the next older ones give the same processes."""
    with started() as bench:
        bench.library.set_processes(0, [SimulatedProcess(pid=7, used_memory_bytes=GIB)])
        for name in LISTS:
            for suffix in removed:
                bench.library.remove(name + suffix)
        (process,) = bench.read().processes or ()
    assert (process.pid, process.memory_bytes) == (7, GIB)


def test_a_list_that_outgrows_its_buffer_is_read_whole() -> None:
    """A driver that asks for more room gets it within the same reading, for both kinds of list."""
    with started() as bench:
        bench.library.set_processes(0, [SimulatedProcess(pid=1, used_memory_bytes=GIB, sm=50)])
        bench.read()
        many = [SimulatedProcess(pid=pid, used_memory_bytes=1, sm=1) for pid in range(1, 501)]
        bench.library.set_processes(0, many)
        processes = bench.read().processes or ()
    assert [process.pid for process in processes] == list(range(1, 501))
    assert {process.sm for process in processes} == {1.0}


def test_idle_is_empty_and_no_error() -> None:
    """No sample is what drivers answer by NOT_FOUND for an idle GPU; so is an empty list."""
    with started() as bench:
        bench.library.set_processes(0, [])
        bench.read()
        assert bench.read() == ProcessReading((), "", "", ())
        assert bench.nvml.errors == {}


@pytest.mark.parametrize("older", [False, True])
def test_work_is_what_was_done_since_the_last_reading(older: bool) -> None:
    """The first reading has none, because what was before is not known to be since; each sample counts once."""
    with started() as bench:
        if older:
            bench.library.remove("nvmlDeviceGetProcessesUtilizationInfo")
        given = SimulatedProcess(pid=7, used_memory_bytes=GIB, sm=40, memory=20, encoder=5, decoder=1)
        bench.library.set_processes(0, [given])
        (first,) = bench.read().processes or ()
        (second,) = bench.read().processes or ()
        (again,) = bench.read(0.0).processes or ()
    assert (first.sm, first.work) == (None, 0)
    assert (second.sm, second.memory, second.encoder, second.decoder, second.work) == (40, 20, 5, 1, 40)
    assert second.jpeg == (None if older else 0)
    assert (again.sm, again.work) == (None, 0)


def test_more_than_full_is_no_sample() -> None:
    """Drivers have answered thousands of percent (nvtop #110); such a sample is dropped."""
    with started() as bench:
        bench.library.set_processes(0, [SimulatedProcess(pid=7, used_memory_bytes=GIB, sm=4000)])
        bench.read()
        (process,) = bench.read().processes or ()
    assert process.sm is None


def test_a_process_that_worked_and_is_gone_is_still_told() -> None:
    """What was done between two ticks has a doer, also when it ended in between."""
    with started() as bench:
        bench.library.set_processes(0, [SimulatedProcess(pid=7, used_memory_bytes=GIB, sm=40)])
        bench.read()
        for name in LISTS:
            bench.library.fail(f"{name}_v3", pynvml.NVML_ERROR_NOT_FOUND)
        (process,) = bench.read().processes or ()
    assert (process.pid, process.contexts, process.sm) == (7, "", 40)


@pytest.mark.parametrize(
    ("version", "wrong"),
    [
        ("535.43.02", True),
        ("535.86.10", True),
        ("535.98", False),
        ("535.104.05", False),
        ("550.54", False),
        ("", False),
    ],
)
def test_drivers_with_a_wrong_layout_are_known(version: str, wrong: bool) -> None:
    """535.43 to 535.86 and no others."""
    assert has_misplaced_lists(version) is wrong


def test_a_wrong_layout_gives_nothing_and_says_why() -> None:
    """Garbage pids are never shown."""
    with started() as bench:
        bench.processes = DeviceProcesses("535.54.03")
        reading = bench.read()
    assert reading.processes is None
    assert "535.43" in reading.reason


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_UNKNOWN])
def test_a_refused_list_is_no_empty_list(code: int) -> None:
    """Who uses the GPU is then not known, and the driver's word is the reason."""
    with started() as bench:
        bench.library.fail(f"{LISTS[0]}_v3", code)
        reading = bench.read()
        assert reading.processes is None
        assert reading.reason in ("NO_PERMISSION", "UNKNOWN")
        bench.library.heal()
        assert bench.read().processes


def test_a_device_without_graphics_has_processes() -> None:
    """Only the compute list must be there."""
    with started() as bench:
        bench.library.set_processes(0, [SimulatedProcess(pid=7, used_memory_bytes=GIB)])
        bench.library.fail(f"{LISTS[1]}_v3", pynvml.NVML_ERROR_NOT_SUPPORTED)
        for suffix in ("_v3", "_v2", ""):
            bench.library.remove(LISTS[2] + suffix)
        assert [process.pid for process in bench.read().processes or ()] == [7]


def test_a_divided_gpu_says_where_each_process_is_and_why_its_work_is_unknown() -> None:
    """Instance ids are told; utilisation per process does not exist in MIG mode."""
    with started("h100x1-mig") as bench:
        listed = [
            SimulatedProcess(pid=7, used_memory_bytes=GIB, gpu_instance_id=gi, compute_instance_id=0) for gi in (1, 2)
        ]
        bench.library.set_processes(0, listed)
        reading = bench.read()
        instances = [bench.nvml.call("nvmlDeviceGetMigDeviceHandleByIndex", bench.handle, i) for i in range(2)]
        assert reading.processes
        assert [(p.pid, p.gpu_instance_id) for p in reading.processes] == [(7, 1), (7, 2)]
        assert reading.work_reason == "NOT_SUPPORTED"
        # Who may not see the whole may still see its parts.
        bench.library.fail(f"{LISTS[0]}_v3", pynvml.NVML_ERROR_NO_PERMISSION, times=1)
        assert bench.read(2.0, *instances).processes == reading.processes


def test_work_comes_back_after_the_drivers_clock_was_set_back() -> None:
    """Samples stamped before the last one seen are taken again after a while, and none of them twice."""
    with started() as bench:
        bench.library.set_processes(0, [SimulatedProcess(pid=7, used_memory_bytes=GIB, sm=40)])
        bench.read()
        bench.now -= 3600
        got = [process.sm for _ in range(40) for process in bench.read().processes or ()]
    assert got[0] is None
    assert got[-1] == 40


def test_a_lost_device_ends_the_reading() -> None:
    """What means that the device is gone is no matter of processes."""
    from gpumon.gpu.nvml import RefusedError

    with started() as bench:
        bench.library.lose(0)
        with pytest.raises(RefusedError):
            bench.read()


def test_accounting_tells_who_ended_since_the_last_reading() -> None:
    """Only where it is on; what the driver remembered before gpumon came, and who still runs, is not told."""
    with started() as bench:
        assert bench.read().ended == ()
        old = SimulatedAccount(pid=5, started=1.6e9, seconds=3)
        bench.library.set_accounts(0, [old])
        assert bench.read().ended == ()
        running = SimulatedAccount(pid=6, started=1.7e9, seconds=1, running=True)
        many = [
            SimulatedAccount(pid=pid, started=1.7e9, seconds=1.5, sm=40, peak_memory_bytes=GIB)
            for pid in range(100, 200)
        ]
        bench.library.set_accounts(0, [old, running, *many])
        assert bench.read(slow=False).ended == ()
        ended = bench.read().ended
        assert bench.read().ended == ()
    assert [process.pid for process in ended] == list(range(100, 200))
    assert ended[0].busy_seconds == pytest.approx(0.6)
    assert (ended[0].seconds, ended[0].peak_memory_bytes, ended[0].started) == (1.5, GIB, 1.7e9)
