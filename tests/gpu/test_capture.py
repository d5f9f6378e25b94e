"""What a driver answered can be kept, masked, and answered again."""

from __future__ import annotations

import asyncio
import ctypes
import json
import re
from dataclasses import replace

import pynvml
import pytest
from tests import stub

from gpumon.catalog import GPU_KINDS, Call, Field
from gpumon.gpu.capture import (
    CaptureError,
    RecordingLibrary,
    ReplayLibrary,
    capture,
    dump,
    load,
    mask,
    read_file,
    record,
)
from gpumon.gpu.nvml import constant
from gpumon.gpu.simulate import SimulatedLibrary, SimulatedProcess, parse_profile
from gpumon.gpu.standin import stand_in
from gpumon.settings import SettingsError

PROFILES = ("h100x2", "h100x1-mig", "rtx4090x1", "l40sx2", "t4x1", "gb10x1", "b200x1")

# Texts that identify a device.
TEXTS = ("UUID", "Serial", "BoardPartNumber")


class Clock:
    """A clock that moves when someone pauses."""

    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now

    async def pause(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def recorded(install_library, clock):
    """Give a function that records a simulated node as `gpumon capture` does."""
    install_library(None)

    def run(profile, **options):
        library = SimulatedLibrary(parse_profile(profile), clock=clock, **options)
        return library, asyncio.run(record(library, clock=clock, pause=clock.pause))

    return run


def outcome(function, *arguments):
    """Give what a function of nvidia-ml-py gives, in comparable form, or its error code."""
    try:
        return plain(function(*arguments))
    except pynvml.NVMLError as error:
        return ("refused", error.value)


def plain(value):
    """Give the numbers and texts of an answer."""
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, ctypes.Structure):
        return {name: plain(getattr(value, name)) for name, *_ in value._fields_}
    if isinstance(value, ctypes.Union):
        return value.ullVal
    return getattr(value, "__dict__", value)


def readings(library):
    """Ask a library what does not change from call to call, through nvidia-ml-py: identity, limits, states, lists."""
    pynvml.nvmlLib = library
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml.nvmlInit()
    found = {("driver",): pynvml.nvmlSystemGetDriverVersion()}
    sources = [source for kind in GPU_KINDS for column in kind.columns for source in column.sources]
    calls = {(source.function, source.args) for source in sources if isinstance(source, Call)}
    fields = sorted({constant(source.id) for source in sources if isinstance(source, Field)})
    for index in range(pynvml.nvmlDeviceGetCount()):
        device = pynvml.nvmlDeviceGetHandleByIndex(index)
        for function in (
            "Name",
            "UUID",
            "Serial",
            "BoardPartNumber",
            "VbiosVersion",
            "PciInfo",
            "Architecture",
            "MigMode",
            "EccMode",
        ):
            found[index, function] = outcome(getattr(pynvml, f"nvmlDeviceGet{function}"), device)
        for function, arguments in sorted(calls, key=str):
            if function.startswith("nvml"):
                given = [
                    constant(one) if isinstance(one, str) and one not in ("link", "fan") else 0 for one in arguments
                ]
                found[index, function, arguments] = outcome(getattr(pynvml, function), device, *given)
        for field, value in zip(fields, pynvml.nvmlDeviceGetFieldValues(device, fields), strict=True):
            found[index, field] = (value.nvmlReturn, value.valueType, value.value.ullVal)
        for kind in ("Compute", "Graphics"):
            name = f"nvmlDeviceGet{kind}RunningProcesses_v3"
            found[index, name] = outcome(getattr(pynvml, name), device)
        found[index, "samples"] = outcome(pynvml.nvmlDeviceGetSamples, device, 1, 0)
        for slot in range(outcome(pynvml.nvmlDeviceGetMaxMigDeviceCount, device)):
            try:
                part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(device, slot)
            except pynvml.NVMLError as error:
                found[index, slot] = error.value
                continue
            for function in ("Name", "UUID", "MemoryInfo", "GpuInstanceId", "Attributes_v2"):
                found[index, slot, function] = outcome(getattr(pynvml, f"nvmlDeviceGet{function}"), part)
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_a_replayed_capture_answers_as_the_driver_did(profile, install_library, clock):
    """Recorded, written, read and replayed: nvidia-ml-py gives the same as over the driver itself."""
    install_library(None)
    recorder = RecordingLibrary(SimulatedLibrary(parse_profile(profile), clock=clock))
    truth = readings(recorder)
    assert readings(ReplayLibrary(load(dump(recorder.capture)))) == truth


@pytest.mark.parametrize("profile", PROFILES)
def test_masking_changes_identifiers_and_nothing_else(profile, install_library, clock):
    """Every other value is the same; identifiers keep their length and differ, and none is left in the file."""
    install_library(None)
    recorder = RecordingLibrary(SimulatedLibrary(parse_profile(profile), clock=clock))
    truth = readings(recorder)
    text = dump(mask(recorder.capture))
    masked = readings(ReplayLibrary(load(text)))
    identifiers = {value for key, value in truth.items() if key[-1] in TEXTS and isinstance(value, str)}
    for index in {key[0] for key in truth if isinstance(key[0], int)}:
        identifiers |= {truth[index, "PciInfo"]["busId"], truth[index, "PciInfo"]["busIdLegacy"]}
    for identifier in identifiers:
        assert identifier not in text
        assert identifier.encode().hex() not in text
    changed = {key for key in truth if masked[key] != truth[key]}
    texts = {key for key, value in truth.items() if key[-1] in TEXTS and isinstance(value, str)}
    lists = {"nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3"}
    assert texts <= changed <= texts | {key for key in truth if key[-1] in {"PciInfo", *lists}}
    for key in changed:
        if key[-1] in TEXTS:
            assert re.sub(r"\w", "x", masked[key]) == re.sub(r"\w", "x", truth[key])
        elif key[-1] != "PciInfo":
            for process, original in zip(masked[key], truth[key], strict=True):
                assert {**process, "pid": 0} == {**original, "pid": 0}
                assert process["pid"] > 2**22


def test_masked_identifiers_stay_consistent(install_library, clock):
    """The same UUID, PCI address or pid is the same everywhere, and two are never made one."""
    install_library(None)
    library = SimulatedLibrary(parse_profile("h100x8"), clock=clock)
    for index in range(8):
        library.set_processes(index, [SimulatedProcess(pid=100 + index % 3, name="/home/ada/train")])
    recorder = RecordingLibrary(library)

    def identities(library):
        pynvml.nvmlLib = library
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml.nvmlInit()
        devices = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(8)]
        pids = [pynvml.nvmlDeviceGetComputeRunningProcesses(device)[0].pid for device in devices]
        names = [pynvml.nvmlSystemGetProcessName(pid) for pid in pids]
        infos = [pynvml.nvmlDeviceGetPciInfo(device) for device in devices]
        assert all(f":{info.bus:02X}:" in info.busId and info.busId.endswith(info.busIdLegacy[4:]) for info in infos)
        for device, info in zip(devices, infos, strict=True):
            identifier = pynvml.nvmlDeviceGetUUID(device)
            assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByUUID(identifier)) == identifier
            assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByPciBusId(info.busId)) == identifier
        return [pynvml.nvmlDeviceGetUUID(device) for device in devices], [info.busId for info in infos], pids, names

    truth = identities(recorder)
    masked = identities(ReplayLibrary(load(dump(mask(recorder.capture)))))
    for original, fake in zip(truth, masked, strict=True):
        assert not set(original) & set(fake)
        assert [original.index(one) for one in original] == [fake.index(one) for one in fake]
    assert set(masked[3]) == {"/0000/000/00001"}


def test_answers_come_in_the_order_of_time_and_the_last_repeats(install_library, clock):
    """What changed while it was recorded changes in the same way when it is replayed."""
    recorder = RecordingLibrary(SimulatedLibrary(parse_profile("h100x1"), clock=clock))
    install_library(recorder)
    pynvml.nvmlInit()
    device, seen = pynvml.nvmlDeviceGetHandleByIndex(0), []
    for _ in range(20):
        seen.append(
            (pynvml.nvmlDeviceGetPowerUsage(device), pynvml.nvmlDeviceGetFieldValues(device, [83])[0].value.ullVal)
        )
        clock.now += 1
    install_library(ReplayLibrary(recorder.capture))
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    again = [
        (pynvml.nvmlDeviceGetPowerUsage(device), pynvml.nvmlDeviceGetFieldValues(device, [83])[0].value.ullVal)
        for _ in range(25)
    ]
    assert again == seen + [seen[-1]] * 5


def test_field_values_are_kept_one_by_one(install_library, clock):
    """Fields recorded together are answered in any other company; one that was not recorded is NOT_SUPPORTED."""
    recorder = RecordingLibrary(SimulatedLibrary(parse_profile("h100x1"), clock=clock))
    install_library(recorder)
    pynvml.nvmlInit()
    wanted = [(83, 0), (138, 1), (138, 2), (29, 0)]
    truth = [
        (value.nvmlReturn, value.value.ullVal)
        for value in pynvml.nvmlDeviceGetFieldValues(pynvml.nvmlDeviceGetHandleByIndex(0), wanted)
    ]
    install_library(ReplayLibrary(recorder.capture))
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    values = pynvml.nvmlDeviceGetFieldValues(device, [(29, 0), (138, 2), (185, 0), (83, 0)])
    assert [(value.nvmlReturn, value.value.ullVal) for value in values] == [
        truth[3],
        truth[2],
        (pynvml.NVML_ERROR_NOT_SUPPORTED, 0),
        truth[0],
    ]


def test_gpm_is_replayed_per_device_and_instance(install_library, clock):
    """The metrics of two samples belong to what they were taken of, whatever buffers are used."""
    recorder = RecordingLibrary(SimulatedLibrary(parse_profile("h100x1-mig"), clock=clock))

    def ratios(library):
        install_library(library)
        pynvml.nvmlInit()
        device, found = pynvml.nvmlDeviceGetHandleByIndex(0), {}
        for instance in (None, 1, 2):
            samples = [pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()]
            for sample in samples:
                clock.now += 1
                if instance is None:
                    pynvml.nvmlGpmSampleGet(device, sample)
                else:
                    pynvml.nvmlGpmMigSampleGet(device, instance, sample)
            request = pynvml.c_nvmlGpmMetricsGet_t(version=1, numMetrics=2, sample1=samples[0], sample2=samples[1])
            request.metrics[0].metricId, request.metrics[1].metricId = 2, 10
            metrics = pynvml.nvmlGpmMetricsGet(request).metrics
            found[instance] = [(metrics[place].nvmlReturn, metrics[place].value) for place in (0, 1)]
            for sample in samples:
                pynvml.nvmlGpmSampleFree(sample)
        return found

    truth = ratios(recorder)
    assert len({str(one) for one in truth.values()}) == 3
    assert ratios(ReplayLibrary(load(dump(recorder.capture)))) == truth


def test_events_are_replayed_with_their_device(install_library, clock):
    """An XID that was seen while recording is told again, then the wait times out."""
    library = SimulatedLibrary(parse_profile("h100x2"), clock=clock)
    recorder = RecordingLibrary(library)

    def watch(library, happen):
        install_library(library)
        pynvml.nvmlInit()
        devices = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in (0, 1)]
        events = pynvml.nvmlEventSetCreate()
        pynvml.nvmlDeviceRegisterEvents(devices[1], pynvml.nvmlEventTypeXidCriticalError, events)
        happen()
        data = pynvml.nvmlEventSetWait_v2(events, 1)
        with pytest.raises(pynvml.NVMLError_Timeout):
            pynvml.nvmlEventSetWait_v2(events, 1)
        return pynvml.nvmlDeviceGetUUID(data.device) == pynvml.nvmlDeviceGetUUID(devices[1]), data.eventData

    assert watch(recorder, lambda: library.xid(1, 48)) == (True, 48)
    assert watch(ReplayLibrary(load(dump(recorder.capture))), lambda: None) == (True, 48)


def test_what_was_not_recorded_is_not_supported_and_what_was_missing_is_missing(install_library, clock):
    """A replayed driver has no answers of its own."""
    library = SimulatedLibrary(parse_profile("h100x1"), clock=clock)
    library.remove("nvmlDeviceGetMemoryInfo_v2")
    recorder = RecordingLibrary(library)
    install_library(recorder)
    pynvml.nvmlInit()
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0), pynvml.nvmlMemory_v2)
    install_library(ReplayLibrary(recorder.capture))
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetMemoryInfo(device, pynvml.nvmlMemory_v2)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetPowerUsage(device)
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlEventSetWait_v2(pynvml.c_nvmlEventSet_t(), 1)
    pynvml.nvmlShutdown()


def test_bytes_of_unknown_layout_are_dropped_by_masking(install_library, clock):
    """A structure that nobody can read cannot be masked, so it is left out."""

    class Odd(ctypes.Structure):
        _fields_ = (("pid", ctypes.c_uint), ("memory", ctypes.c_ulonglong))

    library = SimulatedLibrary(parse_profile("h100x1"), clock=clock)
    library.set_processes(0, [SimulatedProcess(pid=0x4711, used_memory_bytes=1 << 30)])
    recorder = RecordingLibrary(library)
    install_library(recorder)
    pynvml.nvmlInit()
    count, entries = ctypes.c_uint(1), (Odd * 1)()
    recorder.nvmlDeviceGetComputeRunningProcesses(
        pynvml.nvmlDeviceGetHandleByIndex(0), ctypes.byref(count), ctypes.byref(entries)
    )
    assert "11470000" in dump(recorder.capture)
    assert "11470000" not in dump(mask(recorder.capture))


@pytest.mark.parametrize("profile", PROFILES)
def test_the_command_records_every_source_of_the_catalogue(profile, recorded):
    """Whatever row gpumon reads by, its answer is in the capture, also where an earlier row was answered."""
    library, found = recorded(profile)
    functions = {key.partition("(")[0] for key in found.answers}
    fields = {
        int(key.partition("[")[2].partition(",")[0])
        for key in found.answers
        if key.startswith("nvmlDeviceGetField") and "[" in key
    }
    sources = [source for kind in GPU_KINDS for column in kind.columns for source in column.sources]
    for source in sources:
        if isinstance(source, Field):
            assert constant(source.id) in fields, source
    assert {name for name, calls in library.calls.items() if calls and name != "nvmlErrorString"} <= functions
    assert found.driver == library.profile.driver_version


def test_a_masked_recording_runs_the_real_code_again(recorded, install_library, clock):
    """gpumon reads over a replayed, masked capture what it read over the driver, but for what is masked."""
    _, first = recorded("h100x2")
    clock.now = 1_700_000_000.0
    again = asyncio.run(record(ReplayLibrary(load(dump(mask(first)))), clock=clock, pause=clock.pause))
    truth, replayed = mask(first), mask(again)
    unasked = {key for key in truth.answers if key not in replayed.answers}
    assert {key.partition("(")[0] for key in unasked} <= {"nvmlEventSetWait_v2"}
    static = [key for key, rows in truth.answers.items() if len(rows) == 1 and key in replayed.answers]
    assert len(static) > 300
    for key in static:
        assert replayed.answers[key][0].code == truth.answers[key][0].code, key
        assert replayed.answers[key][0].outs == truth.answers[key][0].outs, key


def test_the_command_says_why_it_cannot(tmp_path, install_library):
    """No driver, or a file that is there already: one sentence, and no file is left or lost."""
    install_library(None)
    file = tmp_path / "capture.json"
    with pytest.raises(SettingsError, match="no NVIDIA driver"):
        capture(file)
    assert not file.exists()
    file.write_text("precious")
    with pytest.raises(FileExistsError):
        capture(file)
    assert file.read_text() == "precious"
    with pytest.raises(FileNotFoundError):
        capture(tmp_path / "nowhere" / "capture.json")


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "7", '{"format": 2}', '{"format": 1, "gpumon": "", "driver": "", "masked": true, "missing": 3}'],
)
def test_a_file_that_is_no_capture_is_refused(text, tmp_path):
    """One sentence says which file, and what is wrong with it."""
    file = tmp_path / "odd.json"
    file.write_text(text)
    with pytest.raises(CaptureError, match=r"odd\.json"):
        read_file(file)
    with pytest.raises(CaptureError, match=r"none\.json"):
        read_file(tmp_path / "none.json")


def test_a_capture_survives_its_file(recorded):
    """Written and read, a capture is the same."""
    _, found = recorded("h100x1-mig")
    assert load(dump(found)) == found
    assert json.loads(dump(found))["format"] == 1
    assert replace(load(dump(found)), masked=True) == replace(found, masked=True)


def test_a_capture_stands_in_for_the_driver_as_a_profile_does(recorded, tmp_path, install_library):
    """`--simulate` takes a capture's file as well; what is wrong with one is said in one sentence."""
    _, found = recorded("t4x1")
    file = tmp_path / "t4.json"
    file.write_text(dump(mask(found)))
    for text, name in ((str(file), "Tesla T4"), ("l40sx1", "NVIDIA L40S")):
        install_library(stand_in(text))
        pynvml.nvmlInit()
        assert pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)) == name
    for text in (str(tmp_path / "none.json"), "voodoo2x1"):
        with pytest.raises(ValueError, match=re.escape(text)):
            stand_in(text)


def test_a_library_in_c_is_recorded_as_well(tmp_path, monkeypatch, install_library):
    """Over ctypes and real structures, the replay gives what the library gave, and its restype can be set."""
    install_library(None)
    for name, value in stub.environment(tmp_path, gpus=2, mig=True, pids=(4711,), clock=1_740_000_000.0).items():
        if name.startswith("NVML_STUB"):
            monkeypatch.setenv(name, value)
    try:
        library = ctypes.CDLL(str(stub.build(tmp_path) / stub.LIBRARY))
    except stub.UnbuildableError as missing:
        pytest.skip(str(missing))
    recorder = RecordingLibrary(library)
    truth = readings(recorder)
    assert pynvml.nvmlErrorString(pynvml.NVML_ERROR_NOT_SUPPORTED)
    assert readings(ReplayLibrary(load(dump(recorder.capture)))) == truth
    pid = (4711).to_bytes(4, "little").hex()
    assert pid in dump(recorder.capture)
    assert pid not in dump(mask(recorder.capture))
