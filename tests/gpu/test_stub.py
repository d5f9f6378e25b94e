"""The binary interface, checked by a second library in C: what NVIDIA's header lays out is what gpumon and nvidia-ml-py read."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests import stub

from gpumon.catalog import FAN, GPU, MIG, NVLINK, EntityKind

ROOT = Path(__file__).parents[2]
# Unix seconds since which the library counts, and a moment at which GPU 1 is near the top of its load curve
# (BOOT, PERIOD and load_at in tests/stub): power-capped, and no percentage close to where rounding turns.
BOOT = 1735689600
UPTIME = 10_000_025
LOAD = 0.5 + 0.45 * math.sin(UPTIME * 2 * math.pi / 60 + 1)
GIB = 2**30
USED = 11 * GIB + int(LOAD * GIB)
ENERGY = 100 * UPTIME + 500 * (
    UPTIME / 2 + 0.45 * 60 / 2 / math.pi * (math.cos(1) - math.cos(UPTIME * math.pi / 30 + 1))
)
MHZ = 1e6
NO, YES = 0, 1

PROFILING = {
    f"{name}_ratio": LOAD * (1 - metric / 100)
    for name, metric in {
        "graphics_active": 1,
        "sm_active": 2,
        "sm_occupancy": 3,
        "integer_active": 4,
        "tensor_active": 5,
        "dram_active": 10,
        "fp64_active": 11,
        "fp32_active": 12,
        "fp16_active": 13,
    }.items()
}

# What GPU 1 must answer; where the sources of a column differ, one value for each.
EXPECTED_GPU: dict[str, float | tuple[float, ...]] = {
    "utilization_gpu": 95,
    "memory_utilization_percent": 57,
    "encoder_utilization_percent": 47,
    "decoder_utilization_percent": 38,
    "jpeg_utilization_percent": 28,
    "ofa_utilization_percent": 19,
    "memory_used": (USED, USED + GIB // 2),  # the older call counts what is reserved as used
    "memory_total": 80 * GIB,
    "memory_free_bytes": 80 * GIB - GIB // 2 - USED,
    "memory_reserved_bytes": GIB // 2,
    "bar1_used_bytes": 2 * GIB,
    "bar1_total_bytes": 128 * GIB,
    "protected_memory_used_bytes": GIB,
    "temperature": 68,
    "memory_temperature_celsius": 77,
    "temperature_margin_celsius": 19,
    "temperature_threshold_shutdown_celsius": 92,
    "temperature_threshold_slowdown_celsius": 89,
    "temperature_threshold_memory_max_celsius": 95,
    "temperature_threshold_gpu_max_celsius": 87,
    "temperature_margin_threshold_shutdown_celsius": -8,
    "temperature_margin_threshold_slowdown_celsius": -2,
    "temperature_margin_threshold_memory_max_celsius": 3,
    "temperature_margin_threshold_gpu_max_celsius": 0,
    "power": 100 + 500 * LOAD,
    "power_instant_watts": 101 + 500 * LOAD,
    "power_limit_enforced_watts": 650,
    "power_limit_requested_watts": 660,
    "power_limit_default_watts": 700,
    "power_limit_min_watts": 200,
    "power_limit_max_watts": 710,
    "energy_driver_joules_total": ENERGY,
    "clock_graphics_hertz": 1965 * MHZ,
    "clock_sm_hertz": 1980 * MHZ,
    "clock_memory_hertz": 2619 * MHZ,
    "clock_video_hertz": 1785 * MHZ,
    "clock_max_graphics_hertz": 1980 * MHZ,
    "clock_max_sm_hertz": 1995 * MHZ,
    "clock_max_memory_hertz": 2619 * MHZ,
    "clock_max_video_hertz": 1800 * MHZ,
    "performance_state": 0,
    "throttle_active_gpu_idle": NO,
    "throttle_active_applications_clocks": YES,
    "throttle_active_sw_power_cap": YES,
    "throttle_active_hw_slowdown": NO,
    "throttle_active_sync_boost": NO,
    "throttle_active_sw_thermal": NO,
    "throttle_active_hw_thermal": NO,
    "throttle_active_hw_power_brake": NO,
    "throttle_active_display_clocks": NO,
    "throttle_sw_power_cap_seconds_total": 0.02 * UPTIME,
    "throttle_sync_boost_seconds_total": 0.04 * UPTIME,
    "throttle_sw_thermal_seconds_total": 0.06 * UPTIME,
    "throttle_hw_thermal_seconds_total": 0.08 * UPTIME,
    "throttle_hw_power_brake_seconds_total": 0.10 * UPTIME,
    "pcie_transmit_bytes_total": 2e6 * UPTIME,
    "pcie_receive_bytes_total": 4e6 * UPTIME,
    "pcie_replays_total": 12,
    "pcie_errors_correctable_total": 22,
    "pcie_errors_non_fatal_total": 32,
    "pcie_errors_fatal_total": 42,
    "pcie_link_generation_current": 4,
    "pcie_link_generation_max": 5,
    "pcie_link_width_current": 8,
    "pcie_link_width_max": 16,
    "nvlink_errors_crc_flit_total": 52,
    "nvlink_errors_crc_data_total": 62,
    "nvlink_errors_replay_total": 72,
    "nvlink_errors_recovery_total": 82,
    "nvlink_errors_ecc_data_total": 92,
    "fabric_state": 3,
    "fabric_health_degraded_bandwidth": YES,
    "fabric_health_route_recovery": YES,
    "fabric_health_route_unhealthy": NO,
    "fabric_health_access_timeout_recovery": YES,
    "ecc_errors_corrected_volatile_total": 11,
    "ecc_errors_corrected_aggregate_total": 111,
    "ecc_errors_uncorrected_volatile_total": 21,
    "ecc_errors_uncorrected_aggregate_total": 121,
    "retired_pages_single_bit": 3,
    "retired_pages_double_bit": 4,
    "retired_pages_pending": 1,
    "remapped_rows_corrected_total": 6,
    "remapped_rows_uncorrected_total": 7,
    "row_remap_pending": 1,
    "row_remap_failure": 0,
    "row_remap_banks_max": 640,
    "row_remap_banks_high": 4,
    "row_remap_banks_partial": 3,
    "row_remap_banks_low": 2,
    "row_remap_banks_none": 1,
    "recovery_action": 1,
    **PROFILING,
}
EXPECTED_NVLINK = {  # of link 2; a link carries as many KiB a second as its number, from 1, says thousands
    "nvlink_up": YES,
    "nvlink_transmit_bytes_total": 3e3 * 2 * 1024 * UPTIME,
    "nvlink_receive_bytes_total": 3e3 * 4 * 1024 * UPTIME,
}
EXPECTED_FAN = {"fan_speed_percent": 41}
EXPECTED_MIG = {
    "memory_used_bytes": (USED // 2, USED // 2 + GIB // 4),
    "memory_total_bytes": 40 * GIB,
    **{name: value / 2 for name, value in PROFILING.items()},
}
# Rates and samples are refused by a GPU in MIG mode.
NOT_IN_MIG_MODE = {name for name in EXPECTED_GPU if name.endswith("utilization_percent") or name == "utilization_gpu"}

ABSENT = ("Not Supported", "Function Not Found")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a freshly built library."""
    try:
        return stub.build(tmp_path_factory.mktemp("stub"))
    except stub.UnbuildableError as error:
        pytest.skip(f"the binary interface is NOT checked against a C library: {error}")


def child(environment: dict[str, str], *arguments: str) -> Any:
    """Run Python with the library in its environment and give the JSON it prints."""
    environment |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    # So long that only a call that never returns takes it.
    result = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def client(environment: dict[str, str], program: str) -> Any:
    """Run a few lines against nvidia-ml-py, imported as p and initialised; `answer` is what they have to say."""
    head = "import json, pynvml as p, tests.stub as stub\nfrom pathlib import Path\np.nvmlInit()\n"
    return child(environment, "-c", f"{head}{textwrap.dedent(program)}\nprint(json.dumps(answer))")


@pytest.fixture(scope="module")
def plain(library: Path) -> Any:
    """Give all answers of GPU 1 of two, and how many of the library's things were left over."""
    return child(stub.environment(library, gpus=2, clock=BOOT + UPTIME), "-m", "tests.stub.ask")


@pytest.fixture(scope="module")
def partitioned(library: Path) -> Any:
    """Give all answers of a GPU in MIG mode."""
    return child(stub.environment(library, gpus=2, mig=True, clock=BOOT + UPTIME), "-m", "tests.stub.ask")


def close_to(value: float) -> Any:
    # NVML's integers are cut off at a milliwatt, millijoule or nanosecond.
    return pytest.approx(value, rel=1e-9, abs=2e-3)


def check_sources(kind: EntityKind, answers: Mapping[str, list[Any]], expected: Mapping[str, Any]) -> None:
    for column in kind.columns:
        for i, answer in enumerate(answers[column.name]):
            if answer is None:  # not NVML's, or put together from several calls: see the engine's reading
                continue
            if column.name not in expected:  # a row newer than the library
                assert answer in ABSENT, (column.name, answer)
                continue
            value = expected[column.name]
            assert answer == close_to(value[i] if isinstance(value, tuple) else value), column.name


def check_reading(values: Mapping[str, float | None], expected: Mapping[str, Any]) -> None:
    for name, value in expected.items():
        assert values[name] == close_to(value[0] if isinstance(value, tuple) else value), name


def test_every_source_in_the_catalogue_answers_what_the_library_holds(plain: Any) -> None:
    """Every Call, Field and Gpm, first choice or fall-back, gives the right number over the real binary interface."""
    check_sources(GPU, plain["direct"]["gpu"], EXPECTED_GPU)
    check_sources(NVLINK, plain["direct"]["nvlink"], EXPECTED_NVLINK)
    check_sources(FAN, plain["direct"]["fan"], EXPECTED_FAN)


def test_gpumon_reads_the_same_numbers(plain: Any) -> None:
    """gpumon's own buffers and unpacking lay structures out as NVIDIA's compiler does."""
    check_reading(plain["read"]["gpu"], EXPECTED_GPU)
    check_reading(plain["read"]["nvlink 2"], EXPECTED_NVLINK)
    check_reading(plain["read"]["fan 1"], EXPECTED_FAN)
    assert plain["read"]["nvlink 17"]["nvlink_up"] == NO


def test_mig_devices_have_their_own_memory_and_profiling(partitioned: Any) -> None:
    """MIG devices are read through their own handles, also behind an empty slot, and the GPU keeps what it still has."""
    instances = [name for name in partitioned["direct"] if name.startswith("mig")]
    assert instances == ["mig 1", "mig 2"]
    for name in instances:
        check_sources(MIG, partitioned["direct"][name], EXPECTED_MIG)
    read = [values for name, values in partitioned["read"].items() if name.startswith("mig ")]
    assert len(read) == 2
    for values in read:
        check_reading(values, EXPECTED_MIG)
    gpu = partitioned["read"]["gpu"]
    check_reading(gpu, {name: value for name, value in EXPECTED_GPU.items() if name not in NOT_IN_MIG_MODE})
    assert all(gpu[name] is None for name in NOT_IN_MIG_MODE)


def test_a_structure_of_another_version_is_refused(library: Path) -> None:
    """The library compares versions as the real one does, so a size that is wrong in the binding cannot pass unseen."""
    program = """
        from ctypes import byref
        handle = p.nvmlDeviceGetHandleByIndex(0)
        structures = {
            "nvmlDeviceGetMemoryInfo_v2": p.c_nvmlMemory_v2_t(),
            "nvmlDeviceGetTemperatureV": p.c_nvmlTemperature_v1_t(),
            "nvmlDeviceGetMarginTemperature": p.c_nvmlMarginTemperature_v1_t(),
            "nvmlDeviceGetGpuFabricInfoV": p.c_nvmlGpuFabricInfo_v3_t(),
            "nvmlDeviceGetAddressingMode": p.c_nvmlDeviceAddressingMode_t(),
            "nvmlGpmQueryDeviceSupport": p.c_nvmlGpmSupport_t(),
        }
        answer = {}
        for function, structure in structures.items():
            structure.version = 0x7000001
            answer[function] = p._nvmlGetFunctionPointer(function)(handle, byref(structure))
    """
    codes = client(stub.environment(library), program)
    assert set(codes.values()) == {25}, codes  # NVML_ERROR_ARGUMENT_VERSION_MISMATCH


def test_samples_are_those_since_the_last_seen_one(library: Path) -> None:
    """The sample buffer is addressed in microseconds, holds six entries a second, and is empty once all were seen."""
    program = """
        handle = p.nvmlDeviceGetHandleByIndex(1)
        kind, samples = p.nvmlDeviceGetSamples(handle, p.NVML_GPU_UTILIZATION_SAMPLES, 0)
        times = [sample.timeStamp for sample in samples]
        _, newer = p.nvmlDeviceGetSamples(handle, p.NVML_GPU_UTILIZATION_SAMPLES, times[-7])
        try:
            p.nvmlDeviceGetSamples(handle, p.NVML_GPU_UTILIZATION_SAMPLES, times[-1])
        except p.NVMLError_NotFound:
            times.append(0)
        answer = [kind, times, [sample.sampleValue.uiVal for sample in samples][-1], len(newer)]
    """
    kind, times, last, newer = client(stub.environment(library, gpus=2, clock=BOOT + UPTIME), program)
    assert kind == 1  # NVML_VALUE_TYPE_UNSIGNED_INT
    assert len(times) == 121
    assert times[-1] == 0
    assert {b - a for a, b in pairwise(times[:-1])} == {166_667}
    assert 0 <= (BOOT + UPTIME) * 10**6 - times[-2] < 166_667
    assert last in (94, 95)
    assert newer == 6


@pytest.mark.parametrize(
    ("kind", "pids"),
    [("Compute", [4321, 4323]), ("Graphics", []), ("MPSCompute", [])],
)
def test_process_lists_have_the_layout_of_each_version(library: Path, kind: str, pids: list[int]) -> None:
    """All three layouts of a process entry give pids and memory, with arrays that are too small refused first."""
    program = f"""
        handle = p.nvmlDeviceGetHandleByIndex(0)
        answer = [
            [(process.pid, process.usedGpuMemory) for process in function(handle)]
            for function in (p.nvmlDeviceGet{kind}RunningProcesses_v3, p.nvmlDeviceGet{kind}RunningProcesses_v2)
        ]
    """
    environment = stub.environment(library, gpus=2, pids=(4321, 4322, 4323))
    expected = [[pid, memory] for pid, memory in zip(pids, (GIB // 4, GIB * 3 // 4), strict=False)]
    assert client(environment, program) == [expected, expected]


def test_processes_in_detail_and_their_use(library: Path) -> None:
    """The detail list and the utilisation samples name the same processes as the plain list."""
    program = """
        handle = p.nvmlDeviceGetHandleByIndex(1)
        detail = p.nvmlDeviceGetRunningProcessDetailList(handle, p.nvmlProcessDetailList_v1, 0)
        use = p.nvmlDeviceGetProcessUtilization(handle, 0)
        answer = [[(d.pid, d.usedGpuMemory) for d in detail], [(u.pid, u.smUtil, u.memUtil) for u in use]]
    """
    environment = stub.environment(library, gpus=2, pids=(4321, 4322), clock=BOOT + UPTIME)
    assert client(environment, program) == [[[4322, GIB // 2]], [[4322, 95, 57]]]


def test_a_function_left_out_is_a_missing_symbol(tmp_path: Path, library: Path) -> None:
    """A library can be built as an older driver: without a function, as nvidia-ml-py finds out."""
    older = stub.build(tmp_path / "older", without=("nvmlDeviceGetMemoryInfo_v2",))
    program = """
        handle = p.nvmlDeviceGetHandleByIndex(0)
        try:
            p.nvmlDeviceGetMemoryInfo(handle, version=p.nvmlMemory_v2)
            answer = "there"
        except p.NVMLError_FunctionNotFound:
            answer = p.nvmlDeviceGetMemoryInfo(handle).total
    """
    assert client(stub.environment(library), program) == "there"
    assert client(stub.environment(older), program) == 80 * GIB


def test_orders_take_effect_at_once_and_end_when_withdrawn(library: Path, tmp_path: Path) -> None:
    """GPUs are lost and come back, appear and vanish, and the library refuses all, as the file of orders says."""
    control = tmp_path / "control"
    program = f"""
        control = Path({str(control)!r})
        handles = [p.nvmlDeviceGetHandleByIndex(i) for i in range(2)]

        def codes():
            answers = []
            for handle in handles:
                try:
                    p.nvmlDeviceGetPowerUsage(handle)
                    answers.append(0)
                except p.NVMLError as error:
                    answers.append(error.value)
            return answers

        answer = []
        for orders in ((), ("lost 1",), ("fail 999",), ("mismatch",), ()):
            stub.order(control, *orders)
            answer.append(codes())
        stub.order(control, "gpus 3")
        answer.append(p.nvmlDeviceGetCount())
        stub.order(control, "gpus 1")
        answer.append([p.nvmlDeviceGetCount(), *codes()])
    """
    assert client(stub.environment(library, gpus=2, control=control), program) == [
        [0, 0],
        [0, 15],
        [999, 999],
        [18, 18],
        [0, 0],
        3,
        [1, 0, 15],
    ]


def test_a_hung_gpu_holds_its_caller_and_nobody_else(library: Path, tmp_path: Path) -> None:
    """A call for a hung GPU does not return while calls for another do; it returns once the order is withdrawn."""
    control = tmp_path / "control"
    program = f"""
        import threading
        control = Path({str(control)!r})
        hung, other = (p.nvmlDeviceGetHandleByIndex(i) for i in range(2))
        stub.order(control, "hang 0")
        done = threading.Event()

        def ask():
            p.nvmlDeviceGetPowerUsage(hung)
            done.set()

        threading.Thread(target=ask, daemon=True).start()
        answer = [p.nvmlDeviceGetPowerUsage(other) > 0 for _ in range(100)]
        answer = [all(answer), done.wait(0.1)]
        stub.order(control)
        answer.append(done.wait(30))
    """
    assert client(stub.environment(library, gpus=2, control=control), program) == [True, False, True]


def test_events_block_until_an_xid_or_the_time_is_up(library: Path, tmp_path: Path) -> None:
    """Waiting for events takes its time, ends early with an XID, and tells nothing of the time before registration."""
    control = tmp_path / "control"
    program = f"""
        import time
        control = Path({str(control)!r})
        handle = p.nvmlDeviceGetHandleByIndex(1)
        stub.order(control, "xid 1 31")
        events = p.nvmlEventSetCreate()
        p.nvmlDeviceRegisterEvents(handle, p.nvmlEventTypeXidCriticalError, events)

        def wait(milliseconds):
            started = time.monotonic()
            try:
                data = p.nvmlEventSetWait_v2(events, milliseconds)
                return [data.eventData, data.eventType, data.device.contents is not None, data.gpuInstanceId]
            except p.NVMLError_Timeout:
                return time.monotonic() - started

        answer = [wait(50)]
        stub.order(control, "xid 1 79", "xid 0 13", "xid 1 48")
        answer += [wait(60_000), wait(60_000), wait(0)]
        p.nvmlEventSetFree(events)
    """
    waited, first, second, nothing = client(stub.environment(library, gpus=2, control=control), program)
    assert 0.05 <= waited < 5
    assert [first[:2], second[:2]] == [[79, 8], [48, 8]]
    assert first[3] == 0xFFFFFFFF
    assert nothing < 5


def test_calls_and_what_is_left_over_are_counted(library: Path, tmp_path: Path) -> None:
    """Tests and benchmarks can see whether the driver was called, and whether everything taken was given back."""
    count = tmp_path / "count"
    program = f"""
        handle = p.nvmlDeviceGetHandleByIndex(0)
        events, sample = p.nvmlEventSetCreate(), p.nvmlGpmSampleAlloc()
        before = stub.read_count(Path({str(count)!r}))
        for _ in range(10):
            p.nvmlDeviceGetPowerUsage(handle)
        after = stub.read_count(Path({str(count)!r}))
        p.nvmlEventSetFree(events)
        p.nvmlGpmSampleFree(sample)
        p.nvmlShutdown()
        answer = [after.calls - before.calls, before[2:], stub.read_count(Path({str(count)!r}))[2:]]
    """
    assert client(stub.environment(library, count=count), program) == [10, [1, 1, 1], [0, 0, 0]]


def test_gpumon_gives_back_all_it_took(library: Path, tmp_path: Path) -> None:
    """After reading a device and closing it, no initialisation, event set or GPM sample is left."""
    count = tmp_path / "count"
    child(stub.environment(library, gpus=2, mig=True, count=count), "-m", "tests.stub.ask")
    left = stub.read_count(count)
    assert left.calls > 100
    assert (left.initialised, left.event_sets, left.gpm_samples) == (0, 0, 0)
