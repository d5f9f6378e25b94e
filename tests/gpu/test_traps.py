"""Each known trap of NVML and of nvidia-ml-py, and that it is not stepped into."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest
from structlog.testing import capture_logs
from tests.node import Node, gpus, support, up

import gpumon
from gpumon.catalog import GPU_INFO, MIG, MIG_INFO, NVLINK, Field
from gpumon.catalog.gpu import GPU
from gpumon.gpu.buffers import SampleBuffer, number
from gpumon.gpu.nvml import Nvml, RefusedError, Trouble, constant, trouble_of
from gpumon.gpu.simulate import SimulatedLibrary, parse_profile

Install = Callable[[object], None]


def first(node: Node, ticks: int = 2) -> dict[str, float | None]:
    """Give GPU 0's values by column after some ticks."""
    gpu = gpus(node.tick(ticks))[0]
    return {column.name: value for column, value in zip(GPU.columns, gpu.values, strict=True)}


# The binding.


def test_a_mismatch_error_of_the_binding_is_a_refusal_like_any_other() -> None:
    """NVMLLibraryMismatchError is no NVMLError; the door knows both."""
    library = SimulatedLibrary(parse_profile("h100x1"))
    library.remove("nvmlDeviceGetComputeRunningProcesses_v3")
    with Node(library=library) as node:
        node.nvml.open()
        handle = node.nvml.call("nvmlDeviceGetHandleByIndex", 0)
        with pytest.raises(RefusedError) as caught:
            node.nvml.call("nvmlDeviceGetComputeRunningProcesses", handle)
        assert caught.value.reason == "FUNCTION_NOT_FOUND"
        node.nvml.close()


def test_refusals_can_be_kept_and_compared_by_code() -> None:
    """NVMLError cannot be hashed; what the door raises can, and names function and error."""
    refusal = RefusedError("nvmlDeviceGetName", 15)
    assert {refusal: 1}[refusal] == 1
    assert str(refusal) == "nvmlDeviceGetName: GPU_IS_LOST"


def test_functions_that_share_a_buffer_between_threads_are_not_used() -> None:
    """Six functions of the binding have a mutable default argument, which all threads would write into."""
    sharing = [
        "nvmlDeviceGetModuleId",
        "nvmlDeviceGetMinMaxFanSpeed",
        "nvmlDeviceGetFanControlPolicy_v2",
        "nvmlDeviceGetGspFirmwareMode",
        "nvmlDeviceGetDynamicPstatesInfo",
        "nvmlDeviceGetThermalSettings",
    ]
    for file in (Path(gpumon.__file__).parent).rglob("*.py"):
        if "simulate" not in file.parts:
            for name in sharing:
                assert f'"{name}"' not in file.read_text(), file


def test_the_other_package_named_pynvml_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that shadows nvidia-ml-py is named, instead of failing somewhere deep."""
    monkeypatch.delattr(pynvml, "_nvmlGetFunctionPointer")
    with pytest.raises(RuntimeError, match="uninstall the package named pynvml"):
        Nvml()


@pytest.mark.parametrize(
    ("name", "trouble"),
    [
        ("NOT_SUPPORTED", Trouble.ABSENT),
        ("FUNCTION_NOT_FOUND", Trouble.ABSENT),
        ("ARGUMENT_VERSION_MISMATCH", Trouble.ABSENT),
        ("DEPRECATED", Trouble.ABSENT),
        ("INVALID_ARGUMENT", Trouble.ABSENT),
        ("NO_PERMISSION", Trouble.DENIED),
        ("GPU_IS_LOST", Trouble.GONE),
        ("UNINITIALIZED", Trouble.GONE),
        ("DRIVER_NOT_LOADED", Trouble.GONE),
        ("LIB_RM_VERSION_MISMATCH", Trouble.GONE),
        ("RESET_REQUIRED", Trouble.GONE),
        ("GPU_NOT_FOUND", Trouble.GONE),
        ("NOT_READY", Trouble.OTHER),
        ("TIMEOUT", Trouble.OTHER),
        ("UNKNOWN", Trouble.OTHER),
        ("MEMORY", Trouble.OTHER),
        ("IN_USE", Trouble.OTHER),
    ],
)
def test_errors_are_sorted_into_four_classes(name: str, trouble: Trouble) -> None:
    """What a return value means for a reading is decided in one place."""
    assert trouble_of(constant(f"NVML_ERROR_{name}")) is trouble


def test_an_error_the_binding_does_not_know_is_only_for_this_time() -> None:
    """A code of a newer driver is counted under its number and asked again."""
    with Node("h100x1") as node:
        node.library.fail("nvmlDeviceGetPerformanceState", 12345, device=0, times=1)
        assert first(node, 1)["performance_state"] is None
        assert node.nvml.errors == {("nvmlDeviceGetPerformanceState", "12345"): 1}
        assert first(node, 1)["performance_state"] is not None


def test_a_driver_that_is_not_ready_is_asked_again() -> None:
    """NOT_READY passes: it neither crashes the exporter nor marks the reading as unsupported."""
    with Node("h100x1") as node:
        node.library.fail("nvmlDeviceGetUtilizationRates", pynvml.NVML_ERROR_NOT_READY, times=2)
        assert first(node, 1)["utilization_gpu"] is None
        assert support(node.tick()).get("gpumon_gpu_utilization_percent") is None
        assert first(node, 1)["utilization_gpu"] is not None


# Versioned calls.


@pytest.mark.parametrize(
    ("missing", "column"),
    [
        ("nvmlDeviceGetMemoryInfo_v2", "memory_used"),
        ("nvmlDeviceGetMemoryInfo_v2", "memory_total"),
        ("nvmlDeviceGetTemperatureV", "temperature"),
        ("nvmlDeviceGetCurrentClocksEventReasons", "throttle_active_sw_power_cap"),
        ("nvmlDeviceGetRemappedRows", "remapped_rows_uncorrected_total"),
        ("nvmlDeviceGetEnforcedPowerLimit", "power_limit_enforced_watts"),
    ],
)
def test_an_older_driver_is_read_by_the_older_call(missing: str, column: str) -> None:
    """Where the newest function is missing, the reading comes from the one before it, in the same tick."""
    with Node("h100x1") as node:
        healthy = first(node, 1)[column]
    with Node("h100x1") as node:
        node.library.remove(missing)
        assert first(node, 1)[column] == pytest.approx(healthy, rel=0.05)
        assert column not in support(node.tick())


def test_what_only_the_newest_call_tells_is_absent_with_the_reason() -> None:
    """Reserved memory is not 0 on a driver that cannot tell it."""
    with Node("h100x1") as node:
        node.library.remove("nvmlDeviceGetMemoryInfo_v2")
        assert first(node)["memory_reserved_bytes"] is None
        assert support(node.tick())["gpumon_gpu_memory_reserved_bytes"] == ("FUNCTION_NOT_FOUND", 0)


def test_the_fabric_is_read_in_its_older_version_too() -> None:
    """A driver that knows only version 2 of the structure is asked for that."""
    with Node("h100x1") as node:
        healthy = first(node)
        assert healthy["fabric_state"] == 3
    calls = []

    class OnlyVersion2(SimulatedLibrary):
        def __getattr__(self, name: str) -> object:
            function = super().__getattr__(name)
            if name != "nvmlDeviceGetGpuFabricInfoV":
                return function

            def answer(handle: object, info: object) -> int:
                calls.append(type(info._obj).__name__)  # type: ignore[attr-defined]
                if isinstance(info._obj, pynvml.c_nvmlGpuFabricInfo_v3_t):  # type: ignore[attr-defined]
                    return int(pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
                return int(function(handle, info))

            return answer

    with Node(library=OnlyVersion2(parse_profile("h100x1"), clock=lambda: 1.7e9)) as node:
        assert first(node)["fabric_state"] == 3
    assert calls[:2] == ["c_nvmlGpuFabricInfo_v3_t", "c_nvmlGpuFabricInfo_v2_t"]


# Values.


@pytest.mark.parametrize(
    ("value_type", "raw", "expected"),
    [
        (1, 0xFFFFFFFF, None),
        (3, 0xFFFFFFFFFFFFFFFF, None),
        (1, 0xABCD0000_00000007, 7),  # what lies beyond the union's member is undefined
        (6, 0xFFFF0000_00000009, 9),
        (5, 0x00000000_FFFFFFF8, -8),
        (4, 0xFFFFFFFFFFFFFFFE, -2),
        (0, 0x4009_21FB_5444_2D18, 3.141592653589793),
        (0, 0x7FF8_0000_0000_0000, None),
        (2, 5, 5),
    ],
)
def test_a_field_value_is_read_by_its_type(value_type: int, raw: int, expected: float | None) -> None:
    """Each member of the union is read as what it is; "not available" and NaN are no numbers."""
    assert number(value_type, raw) == expected


def test_the_memory_temperature_is_read_as_unsigned_whatever_the_driver_says() -> None:
    """Drivers of branch 545 name a wrong type for it."""
    (column,) = (column for column in GPU.columns if column.name == "memory_temperature_celsius")
    (source,) = column.sources
    assert isinstance(source, Field)
    assert source.value_type == "NVML_VALUE_TYPE_UNSIGNED_INT"


def test_each_field_is_judged_by_its_own_return_value() -> None:
    """One field that fails takes no other with it, though all are read by one call."""
    with Node("h100x1") as node:
        healthy = first(node)
    with Node("h100x1") as node:
        node.library.fail(
            "nvmlDeviceGetFieldValues", pynvml.NVML_ERROR_NOT_SUPPORTED, field=pynvml.NVML_FI_DEV_POWER_INSTANT
        )
        found = first(node)
    assert found["power_instant_watts"] is None
    assert {**found, "power_instant_watts": healthy["power_instant_watts"]} == healthy


@pytest.mark.parametrize("bits", [32, 64])
def test_a_pcie_counter_that_wraps_goes_on(bits: int) -> None:
    """The bytes sent go on growing where the register starts again from 0."""
    field = pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES
    with Node("h100x1") as node:
        node.library.set_counter(0, field, (1 << 64) - 1000)
        before = first(node, 1)["pcie_transmit_bytes_total"]
        after = first(node, 1)["pcie_transmit_bytes_total"]
        assert before is not None
        assert after is not None
        assert 0 < after - before < 1e12


def test_power_is_given_as_average_and_as_instant() -> None:
    """Both are there, each under its own name, and are not the same number."""
    with Node("h100x1") as node:
        found = first(node, 5)
    assert found["power"] is not None
    assert found["power_instant_watts"] is not None
    assert found["power"] != found["power_instant_watts"]


def test_energy_without_a_counter_is_integrated_and_marked() -> None:
    """A device that does not count its energy has it from power, under another method, said to be an estimate."""
    with Node("h100x1") as node, capture_logs():
        node.library.remove("nvmlDeviceGetTotalEnergyConsumption")
        node.library.fail(
            "nvmlDeviceGetFieldValues",
            pynvml.NVML_ERROR_NOT_SUPPORTED,
            field=pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION,
        )
        start = first(node, 2)["energy_integrated_joules_total"] or 0.0
        watts = []
        for _ in range(50):
            found = first(node, 1)
            watts.append(found["power"] or 0.0)
        assert found["energy_driver_joules_total"] is None
        joules = (found["energy_integrated_joules_total"] or 0.0) - start
        assert joules == pytest.approx(sum(watts) * 2.0, rel=0.02)
        said = support(node.tick())
    assert said["gpumon_gpu_energy_joules_total{method=driver}"][1] == 0
    assert said["gpumon_gpu_energy_joules_total{method=integrated}"] == ("estimated: gpumon_gpu_power_watts", 1)


def test_a_unified_memory_device_shows_the_systems_memory_and_says_so() -> None:
    """A GB10 refuses to tell its memory: the system's is shown, marked as a stand-in, and the kind is named."""
    with Node("gb10x1") as node:
        snapshot = node.tick(2)
        gpu = gpus(snapshot)[0]
        assert (gpu["memory_total"] or 0) > 1e8
        assert support(snapshot)["gpumon_gpu_memory_total_bytes"][1] == 1
        assert snapshot.of(GPU_INFO)[0].label("memory_kind") == "unified"
    with Node("h100x1") as node:
        assert node.tick().of(GPU_INFO)[0].label("memory_kind") == "dedicated"


# Samples.


class FakeSamples:
    """A library that knows one function: nvmlDeviceGetSamples, answering from a script of (code, samples)."""

    def __init__(self, *answers: tuple[int, list[tuple[int, int]]]) -> None:
        self.answers = list(answers)
        self.sizes = 0
        self.last_seen: list[int] = []

    def nvmlDeviceGetSamples(
        self,
        handle: object,
        kind: object,
        last_seen: ctypes.c_ulonglong,
        value_type: object,
        count: object,
        out: object,
    ) -> int:
        if out is None:
            self.sizes += 1
            count._obj.value = 4  # type: ignore[attr-defined]
            return 0
        self.last_seen.append(last_seen.value)
        code, samples = self.answers.pop(0)
        for i, (time, value) in enumerate(samples):
            out[i].timeStamp = time  # type: ignore[index]
            out[i].sampleValue.uiVal = value  # type: ignore[index]
        count._obj.value = len(samples)  # type: ignore[attr-defined]
        return code


def test_samples_seen_already_are_not_taken_again(install_library: Install) -> None:
    """Drivers repeat old samples; only those newer than the last one count, and time stamps are microseconds."""
    library = FakeSamples((0, [(10, 50), (20, 60)]), (0, [(20, 60), (30, 70)]), (0, [(20, 60)]))
    install_library(library)
    nvml, buffer = Nvml(), SampleBuffer(1)
    assert buffer.read(nvml, None) == [(10, 50), (20, 60)]
    assert buffer.read(nvml, None) == [(30, 70)]
    assert buffer.read(nvml, None) == []
    assert library.last_seen == [0, 20, 30]
    assert library.sizes == 1


def test_samples_stamped_by_a_clock_that_was_set_back_are_taken_again(install_library: Install) -> None:
    """After a while without anything newer the buffer is read from its beginning, as if it were new."""
    old, new = (0, [(5_000_000, 50)]), (0, [(1_000_000, 60)])
    install_library(FakeSamples(old, *[new] * 20))
    nvml, buffer = Nvml(), SampleBuffer(1)
    assert buffer.read(nvml, None) == [(5_000_000, 50)]
    found = [buffer.read(nvml, None) for _ in range(SampleBuffer.EMPTY_READINGS + 1)]
    assert found[:-1] == [[]] * SampleBuffer.EMPTY_READINGS
    assert found[-1] == [(1_000_000, 60)]


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_SUCCESS])
def test_no_samples_are_none_and_not_an_error(install_library: Install, code: int) -> None:
    """NOT_FOUND, and success with nothing in it, both mean that there was nothing new."""
    install_library(FakeSamples((code, [])))
    assert SampleBuffer(1).read(Nvml(), None) == []


def test_a_sample_buffer_that_grew_is_read_in_its_new_size(install_library: Install) -> None:
    """INSUFFICIENT_SIZE between asking for the size and reading is tried once more."""
    library = FakeSamples((pynvml.NVML_ERROR_INSUFFICIENT_SIZE, []), (0, [(10, 50)]))
    install_library(library)
    assert SampleBuffer(1).read(Nvml(), None) == [(10, 50)]
    assert library.sizes == 2


def test_a_buffer_that_never_fits_gives_up(install_library: Install) -> None:
    """A driver that keeps saying so is not asked for ever."""
    install_library(FakeSamples(*[(pynvml.NVML_ERROR_INSUFFICIENT_SIZE, [])] * 9))
    assert SampleBuffer(1).read(Nvml(), None) == []


def test_busy_seconds_are_the_integral_of_the_drivers_samples() -> None:
    """The counter's rate over a minute is the mean of the utilisation the device had."""
    with Node("h100x1") as node:
        node.library.set_load(0, "training")
        start = first(node, 3)
        percents = []
        for _ in range(60):
            found = first(node, 1)
            percents.append(found["utilization_gpu"] or 0.0)
        busy = (found["busy_samples_seconds_total"] or 0.0) - (start["busy_samples_seconds_total"] or 0.0)
        assert found["busy_polled_seconds_total"] is None
    assert busy / 120 == pytest.approx(sum(percents) / len(percents) / 100, abs=0.05)


def test_without_a_sample_buffer_busy_seconds_are_polled_and_marked() -> None:
    """A device without the buffer has them from one reading per tick, under another method."""
    with Node("h100x1") as node:
        node.library.fail("nvmlDeviceGetSamples", pynvml.NVML_ERROR_NOT_SUPPORTED)
        found = first(node, 5)
        assert found["busy_samples_seconds_total"] is None
        assert found["busy_polled_seconds_total"] is not None
        said = support(node.tick())
    assert said["gpumon_gpu_busy_seconds_total{method=polled}"][1] == 1
    assert said["gpumon_gpu_busy_seconds_total{method=samples}"] == ("NOT_SUPPORTED", 0)


# Links, MIG, profiling.


def test_a_link_that_comes_up_later_is_counted_then() -> None:
    """A link that is down refuses its counters; that is no reason not to ask it again once it is up."""
    with Node("h100x1") as node:
        names = ("nvmlDeviceGetNvLinkState",)
        node.library.fail(names[0], pynvml.NVML_ERROR_NOT_READY, device=0)
        for field in (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, pynvml.NVML_FI_DEV_NVLINK_COUNT_XMIT_BYTES):
            node.library.fail("nvmlDeviceGetFieldValues", pynvml.NVML_ERROR_NOT_SUPPORTED, device=0, field=field)
        assert node.tick(2).of(NVLINK)[0]["nvlink_transmit_bytes_total"] is None
        node.library.heal()
        node.tick(16)
        assert node.tick().of(NVLINK)[0]["nvlink_transmit_bytes_total"] is not None


def test_mig_without_permission_is_absent_with_that_reason() -> None:
    """An unprivileged container may not read MIG memory: the readings are absent, and the reason says what to mend."""
    with Node("h100x1-mig") as node:
        for function in ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"):
            node.library.fail(function, pynvml.NVML_ERROR_NO_PERMISSION)
        snapshot = node.tick(2)
        assert all(mig["memory_used_bytes"] is None for mig in snapshot.of(MIG))
        assert support(snapshot)["gpumon_mig_memory_used_bytes"] == ("NO_PERMISSION", 0)
        assert up(snapshot) == {0: True}


def test_a_gpu_instance_is_profiled_once() -> None:
    """GPM measures GPU instances: only the first compute instance of each shows it, so that sums are right."""

    class OneInstance(SimulatedLibrary):
        """All MIG devices are compute instances of the first one's GPU instance."""

        instance = 0

        def __getattr__(self, name: str) -> object:
            function = super().__getattr__(name)
            if name != "nvmlDeviceGetGpuInstanceId":
                return function

            def answer(handle: object, out: object) -> int:
                code = int(function(handle, out))
                self.instance = self.instance or out._obj.value  # type: ignore[attr-defined]
                out._obj.value = self.instance  # type: ignore[attr-defined]
                return code

            return answer

    now = [1.7e9]
    with Node(library=OneInstance(parse_profile("h100x1-mig"), clock=lambda: now[0])) as node:
        for _ in range(3):
            snapshot = node.tick()
            now[0] += 2
    assert len(snapshot.of(MIG)) > 1
    assert len([mig for mig in snapshot.of(MIG) if mig["sm_active_ratio"] is not None]) == 1
    assert all(mig["memory_used_bytes"] is not None for mig in snapshot.of(MIG))


def test_profiling_begins_with_the_second_sample() -> None:
    """A mean needs two samples: at the first tick it is absent, and not said to be unsupported."""
    with Node("h100x1") as node:
        snapshot = node.tick()
        assert gpus(snapshot)[0]["sm_active_ratio"] is None
        assert "gpumon_gpu_sm_active_ratio" not in support(snapshot)
        assert gpus(node.tick())[0]["sm_active_ratio"] is not None


def test_profiling_samples_are_freed_before_the_driver_is_closed() -> None:
    """What the driver allocated for gpumon is given back."""
    with Node("h100x2-mig") as node, capture_logs():
        node.tick(3)
        taken = node.library.calls["nvmlGpmSampleAlloc"]
        assert taken > 0
        node.run(node.source.release())
        assert node.library.calls["nvmlGpmSampleFree"] == taken


def test_the_profile_of_a_mig_device_is_named_without_its_name() -> None:
    """Drivers that name only the GPU still tell the sizes, which NVIDIA's profile names are made of."""
    with Node("h100x1-mig") as node:
        named = {info.label("profile") for info in node.tick().of(MIG_INFO)}

    class NamesTheGpu(SimulatedLibrary):
        def __getattr__(self, name: str) -> object:
            function = super().__getattr__(name)
            if name != "nvmlDeviceGetName":
                return function

            def answer(handle: object, out: ctypes.Array[ctypes.c_char], size: object) -> int:
                code = int(function(handle, out, size))
                out.value = out.value.partition(b" MIG ")[0]
                return code

            return answer

    with Node(library=NamesTheGpu(parse_profile("h100x1-mig"), clock=lambda: 1.7e9)) as node:
        assert {info.label("profile") for info in node.tick().of(MIG_INFO)} == named


def test_profiling_samples_of_a_lost_device_are_freed() -> None:
    """A GPU that is lost and opened anew a hundred times leaves no samples behind in the driver."""
    with Node("h100x2") as node, capture_logs():
        node.tick(3)
        for _ in range(100):
            node.library.lose(0)
            node.tick()
            node.library.restore(0)
            node.wait(30)
            node.tick(2)
        alive = node.library.calls["nvmlGpmSampleAlloc"] - node.library.calls["nvmlGpmSampleFree"]
        assert alive == 2 * 2


def test_protected_memory_without_confidential_computing_is_absent() -> None:
    """A GPU without it answers 0 of 0 bytes: that is no reading, and the reason says so."""
    with Node("h100x1") as node:
        assert first(node)["protected_memory_used_bytes"] is None
        assert support(node.tick())["gpumon_gpu_protected_memory_used_bytes"] == ("NOT_SUPPORTED", 0)
