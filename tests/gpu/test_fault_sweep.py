"""For every row of the catalogue and every class of error: only that row, or that device, may change."""

from __future__ import annotations

from collections.abc import Iterator

import pynvml
import pytest
from structlog.testing import capture_logs
from tests.node import Node, down_reasons, flat, up

from gpumon.catalog import (
    FAN,
    GPU,
    GPU_HEALTH,
    GPU_KINDS,
    MIG,
    NVLINK,
    NVML_ERRORS,
    Call,
    Computed,
    EntityKind,
    Field,
    Gpm,
    Source,
)
from gpumon.gpu.nvml import Trouble, constant, trouble_of

READ = (GPU, NVLINK, FAN, MIG)
CODES = {
    Trouble.ABSENT: "NVML_ERROR_NOT_SUPPORTED",
    Trouble.DENIED: "NVML_ERROR_NO_PERMISSION",
    Trouble.OTHER: "NVML_ERROR_NOT_READY",
    Trouble.GONE: "NVML_ERROR_GPU_IS_LOST",
}
# Functions of the library behind what is composed from several, or read by buffers of ours.
BEHIND = {"fabric_info": "nvmlDeviceGetGpuFabricInfoV"}
# What gpumon works out from another reading changes with it.
FOLLOWERS = {
    "nvmlDeviceGetUtilizationRates": {"busy_polled_seconds_total"},
    "nvmlDeviceGetSamples": {"busy_samples_seconds_total", "busy_polled_seconds_total"},
}


def faults() -> Iterator[tuple[str, int | None]]:
    """Give every (function, field) that some row reads."""
    seen = set()
    for kind in READ:
        for column in kind.columns:
            for source in column.sources:
                fault = fault_of(source)
                if fault is not None and fault not in seen:
                    seen.add(fault)
                    yield fault
    yield "nvmlDeviceGetSamples", None


def fault_of(source: Source) -> tuple[str, int | None] | None:
    """Give the (function, field) behind a source."""
    if isinstance(source, Field):
        return "nvmlDeviceGetFieldValues", constant(source.id)
    if isinstance(source, Gpm):
        return "nvmlGpmMetricsGet", None
    if isinstance(source, Call):
        return BEHIND.get(source.function, source.function), None
    return None


def may_change(fault: tuple[str, int | None]) -> set[str]:
    """Give the columns whose value may differ when this function or field fails."""
    touched = {
        column.name
        for kind in READ
        for column in kind.columns
        if any(fault_of(source) == fault for source in column.sources)
    }
    readings = {column.reading.name for kind in READ for column in kind.columns if column.name in touched}
    # An estimate of the same reading may step in, and what is integrated from a reading follows it.
    estimates = {
        column.name
        for column in GPU.columns
        if column.reading.name in readings and any(isinstance(s, Computed) for s in column.sources)
    }
    return touched | estimates | FOLLOWERS.get(fault[0], set())


# The other profiles answer by the same code from other rows; they are swept by `make slow`.
PROFILES = ("h100x2", *(pytest.param(profile, marks=pytest.mark.slow) for profile in ("h100x2-mig", "rtx4090x2")))


@pytest.mark.parametrize("trouble", CODES, ids=lambda trouble: trouble.value)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_fault_costs_only_what_it_is_about(profile: str, trouble: Trouble) -> None:
    """With each driver function failing in turn on GPU 0, every other reading of the node stays as it was."""
    code = constant(CODES[trouble])
    assert trouble_of(code) is trouble
    with Node(profile) as node:
        healthy = flat(node.tick(3), READ)
    for function, field in faults():
        with Node(profile) as node, capture_logs():
            node.library.fail(function, code, device=0, field=field)
            snapshot = node.tick(3)
            called = bool(node.library.calls[function])
            found = flat(snapshot, READ)
        context = f"{function} {field or ''} {trouble.value}"
        on_other_gpus = {key: value for key, value in healthy.items() if key[1][0] != "0"}
        assert {key: value for key, value in found.items() if key[1][0] != "0"} == on_other_gpus, context
        if not called:
            continue
        if trouble is Trouble.GONE:
            # It may be back already: not every call is made at the first tick after a device is opened anew.
            # A field that is only a row's second source is not asked for at all.
            assert snapshot.of(GPU_HEALTH)[0]["lost_total"] or found == healthy, context
            if not up(snapshot)[0]:
                assert down_reasons(snapshot) == {0: "GPU_IS_LOST"}, context
                assert not [key for key in found if key[1][0] == "0"], context
            continue
        allowed = may_change((function, field))
        changed = {key[2] for key in healthy if key not in found or found[key] != healthy[key]}
        assert changed <= allowed, context
        for key, value in found.items():
            # A value is right or absent, never made up.
            if key[2] in changed and value is not None and "polled" not in key[2] and "integrated" not in key[2]:
                assert value == pytest.approx(healthy[key], rel=0.2), (context, key)
        unexpected = {entity.labels[0] for entity in snapshot.of(NVML_ERRORS)}
        if trouble is Trouble.OTHER and (changed - {"busy_polled_seconds_total"}):
            assert unexpected, context
        else:
            assert not unexpected or trouble is Trouble.OTHER, context


def test_every_row_is_swept() -> None:
    """No row of the catalogue escapes the sweep: each has a source that can be made to fail, or is worked out here."""
    swept = set(faults())
    for kind in READ:
        for column in kind.columns:
            assert any(fault_of(s) in swept or isinstance(s, Computed) for s in column.sources), column.name


def test_the_swept_kinds_are_all_that_are_read() -> None:
    """A new kind of part must be added to the sweep."""
    read: set[EntityKind] = {kind for kind in GPU_KINDS if any(column.sources for column in kind.columns)}
    assert read == set(READ)
    assert pynvml.NVML_SUCCESS == 0
