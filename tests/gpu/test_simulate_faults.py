"""Everything that can be made to go wrong with the simulated driver does, and only where it is meant to."""

from __future__ import annotations

import ctypes
import threading

import pynvml
import pytest

from gpumon.gpu.simulate import SimulatedLibrary, SimulatedProcess, parse_profile

CODES = sorted({code for name, code in vars(pynvml).items() if name.startswith("NVML_ERROR_")})
# How long a test waits for another thread before it gives up; never waited for when all is well.
PATIENCE_SECONDS = 10


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def start(install_library, clock):
    """Give a function that starts NVML over a simulated node."""

    def begin(profile="h100x8", **options):
        library = SimulatedLibrary(parse_profile(profile), clock=clock, **options)
        install_library(library)
        pynvml.nvmlInit()
        return library

    return begin


def handle(index=0):
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def code_of(function, *arguments):
    """Give the NVML code a call was answered with."""
    try:
        function(*arguments)
    except pynvml.NVMLError as error:
        return error.value
    return pynvml.NVML_SUCCESS


def temperature(device):
    return pynvml.nvmlDeviceGetTemperatureV(device, 0)


@pytest.mark.parametrize("code", CODES)
def test_any_call_fails_with_any_code_on_one_device(code, start):
    """A fault has its code, stays on its device and its function, and ends when it is healed."""
    library = start()
    first, second = handle(0), handle(1)
    library.fail("nvmlDeviceGetTemperatureV", code, device=0)
    assert code_of(temperature, first) == code
    assert code_of(temperature, second) == pynvml.NVML_SUCCESS
    assert code_of(pynvml.nvmlDeviceGetPowerUsage, first) == pynvml.NVML_SUCCESS
    library.heal()
    assert code_of(temperature, first) == pynvml.NVML_SUCCESS


def test_every_symbol_can_fail(start):
    """Each function of the library answers the code it is told to, before it looks at its other arguments."""
    library = start()
    device = handle()
    for name in library.symbols():
        if name != "nvmlErrorString":
            library.fail(name, pynvml.NVML_ERROR_UNKNOWN)
            assert getattr(library, name)(device) == pynvml.NVML_ERROR_UNKNOWN, name


def test_a_fault_can_last_for_a_number_of_calls(start):
    """After so many calls the truth is back."""
    library = start()
    library.fail("nvmlDeviceGetPowerUsage", pynvml.NVML_ERROR_TIMEOUT, times=2)
    device = handle()
    codes = [code_of(pynvml.nvmlDeviceGetPowerUsage, device) for _ in range(3)]
    assert codes == [pynvml.NVML_ERROR_TIMEOUT, pynvml.NVML_ERROR_TIMEOUT, pynvml.NVML_SUCCESS]


def test_a_fault_wants_a_function_that_exists(start):
    """A misspelt function is an error at once, not a fault that never happens."""
    with pytest.raises(ValueError, match="nvmlDeviceGetTemprature"):
        start().fail("nvmlDeviceGetTemprature", pynvml.NVML_ERROR_UNKNOWN)


def test_one_field_can_fail_alone(start):
    """The other fields of the same call are answered."""
    library = start()
    library.fail(
        "nvmlDeviceGetFieldValues", pynvml.NVML_ERROR_UNKNOWN, device=0, field=pynvml.NVML_FI_DEV_POWER_INSTANT
    )
    wanted = [pynvml.NVML_FI_DEV_POWER_INSTANT, pynvml.NVML_FI_DEV_POWER_AVERAGE]
    codes = [[value.nvmlReturn for value in pynvml.nvmlDeviceGetFieldValues(handle(index), wanted)] for index in (0, 1)]
    assert codes == [[pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_SUCCESS], [pynvml.NVML_SUCCESS] * 2]


def test_one_gpm_metric_can_fail_alone(start, clock):
    """The other metrics of the same call are answered."""
    library = start()
    library.fail("nvmlGpmMetricsGet", pynvml.NVML_ERROR_NOT_SUPPORTED, field=pynvml.NVML_GPM_METRIC_FP64_UTIL)
    request = pynvml.c_nvmlGpmMetricsGet_t(version=1, numMetrics=2)
    request.sample1, request.sample2 = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
    for position, metric in enumerate((pynvml.NVML_GPM_METRIC_FP64_UTIL, pynvml.NVML_GPM_METRIC_FP32_UTIL)):
        request.metrics[position].metricId = metric
    for sample in (request.sample1, request.sample2):
        pynvml.nvmlGpmSampleGet(handle(), sample)
        clock.now += 1
    pynvml.nvmlGpmMetricsGet(request)
    assert [request.metrics[position].nvmlReturn for position in range(2)] == [pynvml.NVML_ERROR_NOT_SUPPORTED, 0]


def test_a_missing_symbol_is_missing(start):
    """nvidia-ml-py reports FUNCTION_NOT_FOUND, for a pointer it already holds as well."""
    library = start()
    pynvml.nvmlDeviceGetMemoryInfo(handle(), pynvml.nvmlMemory_v2)
    library.remove("nvmlDeviceGetMemoryInfo_v2")
    library.remove("nvmlDeviceGetComputeRunningProcesses_v3")
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetMemoryInfo(handle(), pynvml.nvmlMemory_v2)
    with pytest.raises(pynvml.NVMLLibraryMismatchError):
        pynvml.nvmlDeviceGetComputeRunningProcesses(handle())
    with pytest.raises(AttributeError, match="nvmlNoSuchThing"):
        _ = library.nvmlNoSuchThing


@pytest.mark.parametrize("function", [None, "nvmlDeviceGetTemperatureV"])
def test_a_hanging_device_holds_nobody_else_up(function, start):
    """Calls for it wait until they are let go, then answer; other devices answer meanwhile."""
    library = start()
    first, second, answered = handle(0), handle(1), threading.Event()
    release = library.hang(0, function)

    def ask():
        temperature(first)
        answered.set()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert temperature(second) > 0
        assert not answered.is_set()
    finally:
        release()
        thread.join(PATIENCE_SECONDS)
    assert answered.is_set()


def test_only_the_function_that_hangs_does(start):
    """The same device's other functions answer."""
    library = start()
    release = library.hang(0, "nvmlDeviceGetPowerUsage")
    assert temperature(handle()) > 0
    release()


def test_a_lost_device_is_lost_alone_and_returns(start):
    """Every call with its handle answers GPU_IS_LOST, and none of another device; then all is as before."""
    library = start()
    first, second = handle(0), handle(1)
    library.lose(0)
    for call in (temperature, pynvml.nvmlDeviceGetUUID, pynvml.nvmlDeviceGetPowerUsage):
        assert code_of(call, first) == pynvml.NVML_ERROR_GPU_IS_LOST
        assert code_of(call, second) == pynvml.NVML_SUCCESS
    assert code_of(handle, 0) == pynvml.NVML_ERROR_GPU_IS_LOST
    assert pynvml.nvmlDeviceGetCount() == 8
    library.restore(0)
    assert code_of(temperature, first) == pynvml.NVML_SUCCESS


def test_a_device_that_was_reset_wants_a_new_handle(start):
    """Restored, it stays lost until NVML is initialised again; old handles never work again."""
    library = start()
    first, identifier = handle(0), pynvml.nvmlDeviceGetUUID(handle(0))
    library.lose(0, stale=True)
    library.restore(0)
    assert code_of(temperature, first) == pynvml.NVML_ERROR_GPU_IS_LOST
    assert code_of(handle, 0) == pynvml.NVML_ERROR_GPU_IS_LOST
    pynvml.nvmlShutdown()
    pynvml.nvmlInit()
    assert code_of(temperature, first) == pynvml.NVML_ERROR_GPU_IS_LOST
    assert pynvml.nvmlDeviceGetUUID(handle(0)) == identifier


def watch(*indexes):
    """Give an event set that watches devices for XID errors."""
    events = pynvml.nvmlEventSetCreate()
    for index in indexes:
        pynvml.nvmlDeviceRegisterEvents(handle(index), pynvml.nvmlEventTypeXidCriticalError, events)
    return events


def test_an_xid_reaches_those_who_wait_for_it(start):
    """A waiting thread is woken with the device and the code; each event is delivered once; others time out."""
    library = start()
    events, elsewhere, seen = watch(0, 1), watch(2), []

    def wait():
        data = pynvml.nvmlEventSetWait_v2(events, PATIENCE_SECONDS * 1000)
        seen.append((pynvml.nvmlDeviceGetIndex(data.device), data.eventType, data.eventData))

    thread = threading.Thread(target=wait)
    thread.start()
    library.xid(1, 79)
    thread.join(PATIENCE_SECONDS)
    assert seen == [(1, pynvml.nvmlEventTypeXidCriticalError, 79)]
    assert code_of(pynvml.nvmlEventSetWait_v2, events, 0) == pynvml.NVML_ERROR_TIMEOUT
    assert code_of(pynvml.nvmlEventSetWait_v2, elsewhere, 1) == pynvml.NVML_ERROR_TIMEOUT


def test_events_before_registration_are_not_told(start):
    """What happened before a set watched is not replayed; what happens before it waits is kept, in order."""
    library = start()
    library.xid(0, 13)
    events = watch(0)
    library.xid(0, 31)
    library.xid(0, 45, gpu_instance=2)
    first, second = (pynvml.nvmlEventSetWait_v2(events, 0) for _ in range(2))
    assert [first.eventData, second.eventData, second.gpuInstanceId] == [31, 45, 2]
    pynvml.nvmlEventSetFree(events)
    assert code_of(pynvml.nvmlEventSetWait_v2, events, 0) == pynvml.NVML_ERROR_INVALID_ARGUMENT


def test_a_lost_device_is_told_to_its_watchers(start):
    """The next wait answers GPU_IS_LOST, once."""
    library = start()
    events = watch(0)
    library.lose(0)
    codes = [code_of(pynvml.nvmlEventSetWait_v2, events, 0) for _ in range(2)]
    assert codes == [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_TIMEOUT]


def test_unregistered_event_types_are_refused(start):
    """A device without ECC cannot be watched for ECC errors, and the set stays as it was."""
    start("rtx4090x1")
    events = pynvml.nvmlEventSetCreate()
    kinds = pynvml.nvmlEventTypeXidCriticalError | pynvml.nvmlEventTypeDoubleBitEccError
    assert code_of(pynvml.nvmlDeviceRegisterEvents, handle(), kinds, events) == pynvml.NVML_ERROR_NOT_SUPPORTED
    assert not pynvml.nvmlDeviceGetSupportedEventTypes(handle()) & pynvml.nvmlEventTypeDoubleBitEccError


def test_waiting_ends_when_the_driver_goes(start):
    """A thread that waits for events is let go when the driver is unloaded."""
    library = start()
    events, codes = watch(0), []
    thread = threading.Thread(
        target=lambda: codes.append(code_of(pynvml.nvmlEventSetWait_v2, events, PATIENCE_SECONDS * 1000))
    )
    thread.start()
    library.unload()
    thread.join(PATIENCE_SECONDS)
    assert codes[0] in (
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_INVALID_ARGUMENT,
    )


def test_a_reloaded_driver_wants_nvml_initialised_and_counts_anew(start, clock):
    """Unloaded, nothing answers; loaded again, counters since the load start at 0 and the board's stay."""
    library = start()
    device = handle()
    library.set_counter(0, pynvml.NVML_FI_DEV_ECC_SBE_VOL_TOTAL, 5)
    library.set_counter(0, pynvml.NVML_FI_DEV_ECC_SBE_AGG_TOTAL, 7)
    library.unload()
    assert code_of(temperature, device) == pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    assert code_of(pynvml.nvmlInit) == pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    library.load()
    assert code_of(temperature, device) == pynvml.NVML_ERROR_UNINITIALIZED
    assert code_of(pynvml.nvmlShutdown) == pynvml.NVML_ERROR_UNINITIALIZED
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle()) == 0
    volatile, aggregate = (pynvml.nvmlDeviceGetTotalEccErrors(handle(), 0, counter) for counter in (0, 1))
    assert (volatile, aggregate) == (0, 7)
    clock.now += 10
    assert pynvml.nvmlDeviceGetTotalEnergyConsumption(handle()) > 0


def test_a_version_mismatch_does_not_heal(start):
    """Every new initialisation is refused."""
    library = start()
    library.version_mismatch()
    assert [code_of(pynvml.nvmlInit) for _ in range(2)] == [pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH] * 2


def test_plugged_and_unplugged_devices_show_when_nvml_is_initialised(start):
    """Until then the list stays, and the one that is gone is lost; then the others move up."""
    library = start("l40sx4")
    identifiers = [pynvml.nvmlDeviceGetUUID(handle(index)) for index in range(4)]
    library.plug("h100", "training")
    library.unplug(1)
    assert pynvml.nvmlDeviceGetCount() == 4
    assert code_of(handle, 1) == pynvml.NVML_ERROR_GPU_IS_LOST
    pynvml.nvmlShutdown()
    pynvml.nvmlInit()
    now = [pynvml.nvmlDeviceGetUUID(handle(index)) for index in range(pynvml.nvmlDeviceGetCount())]
    assert now[:3] == [identifiers[0], identifiers[2], identifiers[3]]
    assert pynvml.nvmlDeviceGetName(handle(3)) == "NVIDIA H100 80GB HBM3"
    assert [pynvml.nvmlDeviceGetIndex(handle(index)) for index in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("field", "scope"),
    [
        (pynvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION, 0),
        (pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES, 0),
        (pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, 3),
        (pynvml.NVML_FI_DEV_PCIE_REPLAY_COUNTER, 0),
        (pynvml.NVML_FI_DEV_ECC_DBE_VOL_TOTAL, 0),
    ],
)
def test_a_counter_can_be_set_and_counts_on(field, scope, start, clock):
    """It reads what it was set to, and later no less."""
    library = start()
    library.set_load(0, "training")
    library.set_counter(0, field, 123_456_789, scope=scope)

    def read():
        return pynvml.nvmlDeviceGetFieldValues(handle(), [(field, scope)])[0].value.ullVal

    assert read() == 123_456_789
    clock.now += 60
    assert read() >= 123_456_789


def test_a_counter_wraps_where_it_is_told_to(start, clock):
    """Set close to its width, it starts over and the difference modulo the width is what was counted."""
    library = start()
    library.set_load(0, "training")
    field = pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES

    def read():
        return pynvml.nvmlDeviceGetFieldValues(handle(), [field])[0].value.ullVal

    begin = read()
    clock.now += 5
    moved = read() - begin
    clock.now -= 5
    library.set_counter(0, field, 2**32 - 1000, bits=32)
    assert read() == 2**32 - 1000
    clock.now += 5
    assert read() < 2**32
    assert (read() - (2**32 - 1000)) % 2**32 == moved % 2**32


def test_a_reading_is_no_counter(start):
    """Only counters can be set."""
    with pytest.raises(ValueError, match="counter"):
        start().set_counter(0, pynvml.NVML_FI_DEV_POWER_INSTANT, 1)


def parts(device):
    """Give a device's MIG devices by their number, empty slots left out."""
    found = {}
    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(device)):
        try:
            found[number] = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(device, number)
        except pynvml.NVMLError_NotFound:
            continue
    return found


def test_mig_devices_are_devices(start, clock):
    """They have a parent, identifiers, memory, processes and profiling of their own; empty slots are NOT_FOUND."""
    start("h100x2-mig")
    device = handle()
    found = parts(device)
    assert list(found) == [0, 1, 2, 3]
    assert pynvml.nvmlDeviceGetMigMode(device) == [1, 1]
    held = 0
    for part in found.values():
        assert pynvml.nvmlDeviceIsMigDeviceHandle(part).value == 1
        assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part)) == (
            pynvml.nvmlDeviceGetUUID(device)
        )
        assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByUUID(pynvml.nvmlDeviceGetUUID(part))).startswith(
            "MIG-"
        )
        memory = pynvml.nvmlDeviceGetMemoryInfo(part, pynvml.nvmlMemory_v2)
        size = pynvml.nvmlDeviceGetAttributes(part)
        assert memory.total == size.memorySizeMB * 2**20
        own = pynvml.nvmlDeviceGetComputeRunningProcesses(part)
        assert memory.used == sum(process.usedGpuMemory for process in own)
        assert {process.gpuInstanceId for process in own} <= {pynvml.nvmlDeviceGetGpuInstanceId(part)}
        held += len(own)
    assert held == len(pynvml.nvmlDeviceGetComputeRunningProcesses(device))


def test_a_divided_gpu_does_not_say_how_busy_it_is(start):
    """Utilisation, its samples and the processes' shares are NOT_SUPPORTED while MIG mode is on; the rest answers."""
    start("h100x1-mig")
    device = handle()
    for call, arguments in (
        (pynvml.nvmlDeviceGetUtilizationRates, ()),
        (pynvml.nvmlDeviceGetEncoderUtilization, ()),
        (pynvml.nvmlDeviceGetSamples, (pynvml.NVML_GPU_UTILIZATION_SAMPLES, 0)),
        (pynvml.nvmlDeviceGetProcessUtilization, (0,)),
        (pynvml.nvmlDeviceGetRemappedRows, ()),
    ):
        assert code_of(call, device, *arguments) == pynvml.NVML_ERROR_NOT_SUPPORTED
    assert code_of(temperature, device) == pynvml.NVML_SUCCESS
    assert code_of(pynvml.nvmlDeviceGetSamples, device, pynvml.NVML_TOTAL_POWER_SAMPLES, 0) == pynvml.NVML_SUCCESS
    assert code_of(temperature, parts(device)[0]) == pynvml.NVML_ERROR_INVALID_ARGUMENT


def test_repartitioning_ends_the_old_mig_devices(start):
    """Their handles are invalid, the new ones have new identifiers, and MIG mode can be turned off."""
    library = start("h100x1-mig")
    device = handle()
    before = parts(device)
    identifiers = {pynvml.nvmlDeviceGetUUID(part) for part in before.values()}
    library.repartition(0, ["7g.80gb"])
    assert code_of(pynvml.nvmlDeviceGetUUID, before[0]) == pynvml.NVML_ERROR_INVALID_ARGUMENT
    after = parts(device)
    assert [pynvml.nvmlDeviceGetName(part) for part in after.values()] == ["NVIDIA H100 80GB HBM3 MIG 7g.80gb"]
    assert pynvml.nvmlDeviceGetUUID(after[0]) not in identifiers
    library.repartition(0, None)
    assert parts(device) == {}
    assert code_of(pynvml.nvmlDeviceGetUtilizationRates, device) == pynvml.NVML_SUCCESS


def test_gpm_is_answered_per_mig_device(start, clock):
    """A divided GPU's own figures are those of its MIG devices, weighted by their slices."""
    library = start("h100x1-mig")
    library.set_load(0, "training")
    device = handle()
    targets = {None: 1.0} | {
        pynvml.nvmlDeviceGetGpuInstanceId(part): pynvml.nvmlDeviceGetAttributes(part).gpuInstanceSliceCount / 7
        for part in parts(device).values()
    }
    samples = {key: (pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()) for key in targets}
    for turn in (0, 1):
        for key, pair in samples.items():
            if key is None:
                pynvml.nvmlGpmSampleGet(device, pair[turn])
            else:
                pynvml.nvmlGpmMigSampleGet(device, key, pair[turn])
        clock.now += 20
    values = {}
    for key, (first, second) in samples.items():
        request = pynvml.c_nvmlGpmMetricsGet_t(version=1, numMetrics=1, sample1=first, sample2=second)
        request.metrics[0].metricId = pynvml.NVML_GPM_METRIC_SM_UTIL
        values[key] = pynvml.nvmlGpmMetricsGet(request).metrics[0].value
    assert len(set(values.values())) == len(values)
    weighted = sum(values[key] * share for key, share in targets.items() if key is not None)
    assert values[None] == pytest.approx(weighted)
    assert code_of(pynvml.nvmlGpmMigSampleGet, device, 6, samples[None][0]) == pynvml.NVML_ERROR_INVALID_ARGUMENT


def test_gpm_samples_are_given_back(start):
    """A freed sample is gone, and cannot be freed again."""
    start()
    sample = pynvml.nvmlGpmSampleAlloc()
    pynvml.nvmlGpmSampleFree(sample)
    assert code_of(pynvml.nvmlGpmSampleFree, sample) == pynvml.NVML_ERROR_INVALID_ARGUMENT


def test_nothing_answers_before_nvml_is_initialised(install_library):
    """Calls want nvmlInit, and as many nvmlShutdown as there were nvmlInit end it."""
    install_library(SimulatedLibrary(parse_profile("t4x1")))
    assert code_of(pynvml.nvmlDeviceGetCount) == pynvml.NVML_ERROR_UNINITIALIZED
    pynvml.nvmlInit()
    pynvml.nvmlInit()
    pynvml.nvmlShutdown()
    assert pynvml.nvmlDeviceGetCount() == 1
    pynvml.nvmlShutdown()
    assert code_of(pynvml.nvmlDeviceGetCount) == pynvml.NVML_ERROR_UNINITIALIZED


def test_bad_arguments_are_refused_not_raised(start):
    """Null pointers, wrong handles, wrong versions and short buffers get NVML's codes."""
    library = start()
    assert library.nvmlDeviceGetPowerUsage(None, ctypes.byref(ctypes.c_uint())) == pynvml.NVML_ERROR_INVALID_ARGUMENT
    assert library.nvmlDeviceGetPowerUsage(handle(), None) == pynvml.NVML_ERROR_INVALID_ARGUMENT
    assert code_of(pynvml.nvmlDeviceGetMemoryInfo, handle(), 0x99) == pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH
    short = ctypes.create_string_buffer(4)
    assert library.nvmlDeviceGetName(handle(), short, ctypes.c_uint(4)) == pynvml.NVML_ERROR_INSUFFICIENT_SIZE
    assert code_of(handle, 99) == pynvml.NVML_ERROR_INVALID_ARGUMENT
    assert code_of(pynvml.nvmlDeviceGetHandleByUUID, "GPU-none") == pynvml.NVML_ERROR_NOT_FOUND
    assert code_of(pynvml.nvmlDeviceGetNvLinkState, handle(), 18) == pynvml.NVML_ERROR_INVALID_ARGUMENT
    assert pynvml.nvmlErrorString(pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_handles_are_found_by_every_identifier(start):
    """Index, UUID and PCI address lead to the same device."""
    start()
    for index in range(8):
        device = handle(index)
        for found in (
            pynvml.nvmlDeviceGetHandleByUUID(pynvml.nvmlDeviceGetUUID(device)),
            pynvml.nvmlDeviceGetHandleByPciBusId(pynvml.nvmlDeviceGetPciInfo(device).busId),
        ):
            assert pynvml.nvmlDeviceGetIndex(found) == index


def test_devices_are_read_from_many_threads_at_once(start, clock):
    """Eight threads read, change and count without an error, and no call goes uncounted."""
    library = start()
    rounds, failures = 200, []

    def read(index):
        try:
            device = handle(index)
            for turn in range(rounds):
                temperature(device)
                pynvml.nvmlDeviceGetFieldValues(device, [83, 185, (138, 0)])
                library.set_processes(index, [SimulatedProcess(pid=turn + 1, used_memory_bytes=turn << 20)])
                pynvml.nvmlDeviceGetComputeRunningProcesses(device)
        except Exception as error:  # noqa: BLE001 - handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=read, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert failures == []
    assert library.calls["nvmlDeviceGetTemperatureV"] == 8 * rounds
