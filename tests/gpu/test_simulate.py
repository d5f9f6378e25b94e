"""The simulated driver keeps its promises to the real nvidia-ml-py."""

from __future__ import annotations

import pynvml
import pytest

from gpumon.catalog import GPU, GPU_INFO, GPU_KINDS, Call, Field, Gpm
from gpumon.gpu.simulate import MODELS, SimulatedLibrary, parse_profile

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
