"""The simulated driver keeps its promises to the real nvidia-ml-py."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import pynvml
import pytest

from gpumon.catalog import GPU, GPU_INFO, GPU_KINDS, Call, Field, Gpm
from gpumon.gpu.simulate import MODELS, SimulatedLibrary, SimulatedProcess, parse_profile

PROFILES = [*(f"{model}x2" for model in MODELS), *(f"{key}x2-mig" for key, row in MODELS.items() if row.mig)]


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now=1_700_000_000.0):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def start(install_library, clock):
    """Give a function that starts NVML over a simulated node."""

    def begin(profile="h100x8", **options):
        library = SimulatedLibrary(
            parse_profile(profile) if isinstance(profile, str) else profile, clock=clock, **options
        )
        install_library(library)
        pynvml.nvmlInit()
        return library

    return begin


def handle(index=0):
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def sources(kinds, wanted):
    """Give every source of a type that labels and readings of some kinds name."""
    for kind in kinds:
        for label in kind.labels:
            yield from (source for source in label.sources if isinstance(source, wanted))
        for column in kind.columns:
            yield from (source for source in column.sources if isinstance(source, wanted))


COMPOSED = {
    "cuda_version": lambda _handle: pynvml.nvmlSystemGetCudaDriverVersion(),
    "architecture": pynvml.nvmlDeviceGetArchitecture,
    "memory_kind": pynvml.nvmlDeviceGetMemoryInfo,
    "mig_mode": pynvml.nvmlDeviceGetMigMode,
    "ecc_mode": pynvml.nvmlDeviceGetEccMode,
    "persistence_mode": pynvml.nvmlDeviceGetPersistenceMode,
    "fabric_info": lambda handle: pynvml.nvmlDeviceGetGpuFabricInfoV(
        handle, pynvml.byref(pynvml.c_nvmlGpuFabricInfo_v3_t())
    ),
    "mig_profile": pynvml.nvmlDeviceGetAttributes_v2,
}


def call(source, handle):
    """Make a catalogue's call, a part's number being 0; give the NVML code it was answered with."""
    arguments = [getattr(pynvml, name, 0) if isinstance(name, str) else name for name in source.args]
    function = COMPOSED.get(source.function) or getattr(pynvml, source.function)
    try:
        if source.function.startswith("nvmlSystem"):
            function(*arguments)
        else:
            function(handle, *arguments)
    except pynvml.NVMLError as error:
        return error.value
    return pynvml.NVML_SUCCESS


def field_codes(handle, wanted):
    pairs = [(getattr(pynvml, source.id), 0) for source in wanted]
    values = pynvml.nvmlDeviceGetFieldValues(handle, pairs)
    return {source.id: value.nvmlReturn for source, value in zip(wanted, values, strict=True)}


def gpm_codes(handle, wanted, clock, part=None):
    """Give the code of each metric between two samples a second apart."""
    request = pynvml.c_nvmlGpmMetricsGet_t()
    request.version, request.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, len(wanted)
    request.sample1, request.sample2 = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
    for position, source in enumerate(wanted):
        request.metrics[position].metricId = getattr(pynvml, source.id)
    for sample in (request.sample1, request.sample2):
        if part is None:
            pynvml.nvmlGpmSampleGet(handle, sample)
        else:
            pynvml.nvmlGpmMigSampleGet(handle, part, sample)
        clock.now += 1
    pynvml.nvmlGpmMetricsGet(request)
    return {source.id: request.metrics[position].nvmlReturn for position, source in enumerate(wanted)}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_catalogue_source_is_answered_or_unsupported(profile, start, clock):
    """No profile answers a catalogue's call with an error that means anything but "not on this device"."""
    start(profile)
    allowed = {pynvml.NVML_SUCCESS, pynvml.NVML_ERROR_NOT_SUPPORTED}
    kinds = [kind for kind in GPU_KINDS if kind.prefix == "gpu"]
    for source in sources(kinds, Call):
        assert call(source, handle()) in allowed, source
    assert set(field_codes(handle(), list(sources(kinds, Field))).values()) <= allowed
    wanted = list(sources(kinds, Gpm))
    if pynvml.nvmlGpmQueryDeviceSupport(handle()).isSupportedDevice:
        assert set(gpm_codes(handle(), wanted, clock).values()) == {pynvml.NVML_SUCCESS}


def test_an_h100_answers_nearly_every_catalogue_source(start, clock):
    """What a simulated H100 leaves unanswered is known, and has a reason."""
    start("h100x8")
    unanswered = {source.function for source in sources((GPU, GPU_INFO), Call) if call(source, handle())}
    wanted = list(sources((GPU, GPU_INFO), Field))
    unanswered |= {name for name, code in field_codes(handle(), wanted).items() if code}
    assert unanswered == {
        "nvmlDeviceGetNumaNodeId",  # only where GPU and CPU share an address space
        "NVML_FI_DEV_RETIRED_SBE",  # before Ampere
        "NVML_FI_DEV_RETIRED_DBE",
        "NVML_FI_DEV_RETIRED_PENDING",
    }
    assert set(gpm_codes(handle(), list(sources((GPU,), Gpm)), clock).values()) == {pynvml.NVML_SUCCESS}


def fields(device, *wanted):
    """Give raw values by field; None where the device does not answer one. A field is an id, or an id and a scope."""
    values = pynvml.nvmlDeviceGetFieldValues(device, list(wanted))
    members = {pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal", pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal"}
    return [None if one.nvmlReturn else getattr(one.value, members.get(one.valueType, "ullVal")) for one in values]


def test_profiles_of_the_contract_exist():
    """Every profile that DESIGN names gives that many GPUs of that model."""
    for text, name, count in (
        ("h100x8", "H100", 8),
        ("a100x8", "A100", 8),
        ("rtx4090x1", "RTX 4090", 1),
        ("l40sx4", "L40S", 4),
        ("h100x8-mig", "H100", 8),
    ):
        profile = parse_profile(text)
        assert len(profile.models) == count
        assert name in profile.models[0].name
        assert (profile.partition is not None) == text.endswith("-mig")


@pytest.mark.parametrize("text", ["", "h100", "h100x", "h100x0", "h100x65", "x8", "voodoo2x2", "l40sx4-mig", "H100x8"])
def test_an_unknown_profile_is_named_with_what_is_allowed(text):
    """A profile that is not one is refused in one sentence."""
    with pytest.raises(ValueError, match="h100x8") as refusal:
        parse_profile(text)
    assert repr(text) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def everything(library, clock, moments):
    """Give all numbers of the whole node at each moment."""
    seen = []
    for moment in moments:
        clock.now = moment
        for index in range(pynvml.nvmlDeviceGetCount()):
            device = handle(index)
            use = pynvml.nvmlDeviceGetUtilizationRates(device)
            seen += [moment, use.gpu, use.memory, pynvml.nvmlDeviceGetTemperatureV(device, 0)]
            seen += [pynvml.nvmlDeviceGetMemoryInfo(device).used, pynvml.nvmlDeviceGetClockInfo(device, 0)]
            seen += fields(device, 83, 185, 186, 197, 198, 74, 269, (138, 3), (139, 3))
    return seen


def test_the_same_seed_and_clock_answer_the_same(start, clock):
    """Two libraries with one seed agree in every number; another seed differs."""
    moments = [clock.now + second for second in range(10)]
    one = everything(start(seed=7), clock, moments)
    clock.now = moments[0]
    assert everything(start(seed=7), clock, moments) == one
    clock.now = moments[0]
    assert everything(start(seed=8), clock, moments) != one


def test_asking_more_often_changes_nothing(start, clock):
    """What is read at a moment does not depend on what was read before."""
    begin, end = clock.now, clock.now + 60
    often = everything(start(), clock, [begin + tenth / 10 for tenth in range(601)])
    clock.now = begin
    once = everything(start(), clock, [end])
    assert often[-len(once) :] == once


@pytest.mark.parametrize("profile", ["h100x8", "a100x8", "rtx4090x1", "l40sx4", "t4x1", "b200x8"])
def test_energy_is_the_integral_of_power(profile, start, clock):
    """Over five minutes, the energy counter grows by mean power times time, within 1 %."""
    start(profile)
    for index in range(pynvml.nvmlDeviceGetCount()):
        device, begin = handle(index), clock.now
        energy, joules = fields(device, 83)[0], 0.0
        while clock.now < begin + 300:
            clock.now += 0.25
            joules += fields(device, 186)[0] / 1000 * 0.25
        assert (fields(device, 83)[0] - energy) / 1000 == pytest.approx(joules, rel=0.01)


@pytest.mark.parametrize("load", ["idle", "training", "serving", "gaming"])
def test_busy_samples_have_the_mean_of_the_utilisation(load, start, clock):
    """The sample buffer and the utilisation read at every sample period are the same numbers."""
    start(replace(parse_profile("h100x1"), loads=(load,)))
    device = handle()
    seen, sampled, polled = int(clock.now * 1e6), [], []
    for _ in range(10):
        for _ in range(60):
            clock.now += 1 / 6
            polled.append(pynvml.nvmlDeviceGetUtilizationRates(device).gpu)
        _, rows = pynvml.nvmlDeviceGetSamples(device, pynvml.NVML_GPU_UTILIZATION_SAMPLES, seen)
        sampled += [row.sampleValue.uiVal for row in rows]
        seen = rows[-1].timeStamp
    assert sampled == polled


def test_samples_are_newer_than_the_time_stamp_given(start, clock):
    """The buffer holds 20 s; nothing newer is NOT_FOUND; time stamps are Unix microseconds."""
    start()
    device, kind = handle(), pynvml.NVML_GPU_UTILIZATION_SAMPLES
    _, rows = pynvml.nvmlDeviceGetSamples(device, kind, 0)
    assert len(rows) == 120
    assert rows[-1].timeStamp == int(clock.now * 1e6)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetSamples(device, kind, rows[-1].timeStamp)
    clock.now += 1
    assert len(pynvml.nvmlDeviceGetSamples(device, kind, rows[-1].timeStamp)[1]) == 6


def means(start, clock, load, seconds=240):
    """Give the mean of some readings of an H100 under a load."""
    start(replace(parse_profile("h100x1"), loads=(load,)))
    device, rows = handle(), []
    first, second = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
    pynvml.nvmlGpmSampleGet(device, first)
    for _ in range(seconds):
        clock.now += 1
        use = pynvml.nvmlDeviceGetUtilizationRates(device)
        rows.append((use.gpu, *fields(device, 186), pynvml.nvmlDeviceGetTemperatureV(device, 0)))
    pynvml.nvmlGpmSampleGet(device, second)
    request = pynvml.c_nvmlGpmMetricsGet_t(version=1, numMetrics=3, sample1=first, sample2=second)
    for position, metric in enumerate((5, 10, 12)):
        request.metrics[position].metricId = metric
    pynvml.nvmlGpmMetricsGet(request)
    busy, power, heat = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    tensor, dram, fp32 = (request.metrics[position].value for position in range(3))
    return {"busy": busy, "power": power / 1000, "heat": heat, "tensor": tensor, "dram": dram, "fp32": fp32}


def test_power_and_heat_follow_the_load(start, clock):
    """Busier patterns draw more and run hotter; an idle GPU does nothing."""
    idle, serving, training = (means(start, clock, load) for load in ("idle", "serving", "training"))
    assert idle["busy"] == 0
    assert idle["tensor"] == 0
    for reading in ("busy", "power", "heat", "tensor"):
        assert idle[reading] < serving[reading] < training[reading], reading


def test_profiling_fits_the_pattern(start, clock):
    """Training lives on tensor cores, serving on memory bandwidth, games on single precision."""
    training, serving, gaming = (means(start, clock, load) for load in ("training", "serving", "gaming"))
    assert training["tensor"] > 40
    assert serving["dram"] > 2 * serving["tensor"]
    assert gaming["fp32"] > gaming["tensor"]


def test_temperature_has_inertia(start, clock):
    """When work begins the die warms over tens of seconds, not at once, and cools the same way."""
    library = start(replace(parse_profile("h100x1"), loads=("idle",)))
    device = handle()
    cold = pynvml.nvmlDeviceGetTemperatureV(device, 0)
    library.set_load(0, "training")
    clock.now += 1
    assert pynvml.nvmlDeviceGetTemperatureV(device, 0) <= cold + 4
    clock.now += 120
    hot = pynvml.nvmlDeviceGetTemperatureV(device, 0)
    assert hot > cold + 20
    library.set_load(0, "idle")
    clock.now += 1
    assert pynvml.nvmlDeviceGetTemperatureV(device, 0) >= hot - 4
    clock.now += 120
    assert pynvml.nvmlDeviceGetTemperatureV(device, 0) <= cold + 1


def test_a_change_of_load_keeps_the_counters(start, clock):
    """Energy and traffic go on from where they were when a GPU is given other work."""
    library = start(replace(parse_profile("h100x1"), loads=("training",)))
    before = fields(handle(), 83, 197, 198, 74, (138, 5))
    library.set_load(0, "serving")
    after = fields(handle(), 83, 197, 198, 74, (138, 5))
    assert after == before
    clock.now += 60
    assert all(new >= old for new, old in zip(fields(handle(), 83, 197, 198, 74, (138, 5)), before, strict=True))


def test_throttling_holds_the_clock_down_and_is_timed(start, clock):
    """While a reason is active the clock is below its maximum, and the driver's counter adds that time up."""
    start(replace(parse_profile("l40sx1"), loads=("training",)))
    device, thermal, steps = handle(), 0, 6 * 120
    begin = fields(device, 269)[0]
    for _ in range(steps):
        if pynvml.nvmlDeviceGetCurrentClocksEventReasons(device) & pynvml.nvmlClocksEventReasonSwThermalSlowdown:
            thermal += 1
            assert pynvml.nvmlDeviceGetClockInfo(device, 0) < pynvml.nvmlDeviceGetMaxClockInfo(device, 0)
        clock.now += 1 / 6
    assert thermal > steps / 2
    assert fields(device, 269)[0] - begin == pytest.approx(thermal * 1e9 / 6, rel=0.001)


@pytest.mark.parametrize("profile", ["h100x8", "rtx4090x1", "l40sx4", "h100x2-mig"])
def test_memory_in_use_is_what_processes_hold(profile, start):
    """Used memory is the driver's 4 MiB and the processes', who fit in what there is."""
    start(profile)
    for index in range(pynvml.nvmlDeviceGetCount()):
        device = handle(index)
        held = pynvml.nvmlDeviceGetComputeRunningProcesses(device) + pynvml.nvmlDeviceGetGraphicsRunningProcesses(
            device
        )
        memory = pynvml.nvmlDeviceGetMemoryInfo(device, pynvml.nvmlMemory_v2)
        assert memory.used == 4 * 2**20 + sum(process.usedGpuMemory for process in held)
        assert memory.total == memory.used + memory.free + memory.reserved
        # Version 1 has no place for what is reserved, and counts it as used.
        assert pynvml.nvmlDeviceGetMemoryInfo(device).used == memory.used + memory.reserved


def test_traffic_adds_up(start, clock):
    """PCIe counters grow by their rates, and all links' bytes are the sum of each link's."""
    start(replace(parse_profile("h100x1"), loads=("training",)))
    device = handle()
    begin, moved = fields(device, 198)[0], 0
    for _ in range(6 * 61):
        moved += pynvml.nvmlDeviceGetPcieThroughput(device, pynvml.NVML_PCIE_UTIL_RX_BYTES) * 1024 / 6
        clock.now += 1 / 6
    assert fields(device, 198)[0] - begin == pytest.approx(moved, rel=0.01)
    links = fields(device, *((138, link) for link in range(18)))
    assert fields(device, (138, 0xFFFFFFFF))[0] == pytest.approx(sum(links), abs=18)
    assert fields(device, (138, 18)) == [None]


def test_simulated_pids_cannot_be_real(start):
    """Pids lie above what Linux gives; with real pids given, those are used first."""
    library = start()
    pids = [process.pid for index in range(8) for process in library.processes(index)]
    assert len(pids) == len(set(pids)) > 0
    assert min(pids) > 2**22
    library = start(real_pids=[41, 42, 43])
    assert {41, 42, 43} < {process.pid for index in range(8) for process in library.processes(index)}


def test_processes_are_listed_as_they_are_set(start):
    """Each kind is in its own list, in every version of it; memory that is not available says so."""
    library = start()
    library.set_processes(
        0,
        [
            SimulatedProcess(pid=11, name="/usr/bin/train", used_memory_bytes=7 << 30, sm=40, memory=20),
            SimulatedProcess(pid=12, used_memory_bytes=None),
            SimulatedProcess(pid=13, kind="graphics", used_memory_bytes=1 << 20, encoder=9),
            SimulatedProcess(pid=14, kind="mps", used_memory_bytes=2 << 20),
        ],
    )
    device = handle()
    for suffix in ("_v2", "_v3"):
        lists = {
            kind: getattr(pynvml, f"nvmlDeviceGet{kind}RunningProcesses{suffix}")(device)
            for kind in ("Compute", "Graphics", "MPSCompute")
        }
        pids = {kind: [process.pid for process in found] for kind, found in lists.items()}
        assert pids == {"Compute": [11, 12], "Graphics": [13], "MPSCompute": [14]}
        assert [process.usedGpuMemory for process in lists["Compute"]] == [7 << 30, None]
    # nvidia-ml-py raises TypeError on a detail without memory, so the list of kind 1 (graphics) is asked for.
    detail = pynvml.nvmlDeviceGetRunningProcessDetailList(device, pynvml.nvmlProcessDetailList_v1, 1)
    assert [(process.pid, process.usedGpuMemory) for process in detail] == [(13, 1 << 20)]
    shares = {sample.pid: sample for sample in pynvml.nvmlDeviceGetProcessUtilization(device, 0)}
    assert (shares[11].smUtil, shares[11].memUtil, shares[13].encUtil) == (40, 20, 9)
    assert {sample.pid for sample in pynvml.nvmlDeviceGetProcessesUtilizationInfo(device, 0)} == set(shares)
    assert pynvml.nvmlSystemGetProcessName(11) == "/usr/bin/train"
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlSystemGetProcessName(99)
    library.set_processes(0, [])
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(device) == []
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetProcessUtilization(device, 0)


def test_version_one_of_the_process_list_has_its_own_layout(start):
    """The unversioned symbol writes entries of 16 bytes: pid and memory."""
    library = start()
    library.set_processes(0, [SimulatedProcess(pid=pid, used_memory_bytes=pid << 20) for pid in (5, 6)])
    count, entries = ctypes.c_uint(2), (ctypes.c_ulonglong * 4)()
    code = library.nvmlDeviceGetComputeRunningProcesses(handle(), ctypes.byref(count), entries)
    assert (code, count.value, list(entries)) == (0, 2, [5, 5 << 20, 6, 6 << 20])


def test_drivers_535_43_to_86_write_process_lists_in_the_wrong_layout(start):
    """Version 3 gives garbage after the first entry there; version 2 is right; later drivers are right."""
    listed = [SimulatedProcess(pid=pid, used_memory_bytes=pid << 20) for pid in (101, 102, 103)]
    for version, broken in (("535.54.03", True), ("535.104.05", False), ("550.54.15", False)):
        library = start(replace(parse_profile("a100x1"), driver_version=version))
        library.set_processes(0, listed)
        found = [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle())]
        assert found[0] == 101
        assert (found != [101, 102, 103]) == broken, version
        second = [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses_v2(handle())]
        assert second == [101, 102, 103]
