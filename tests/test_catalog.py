"""The catalogue holds what DESIGN promises, in the form it promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

import pynvml
import pytest

from gpumon.catalog import GPU, KINDS, MIG, Call, Column, Computed, EntityKind, Field, Gpm, Label, Reading, Source
from gpumon.catalog.model import UNITS
from gpumon.gpu.computed import COMPUTED
from gpumon.gpu.nvml import _COMPOSED as COMPOSED

READINGS = [(kind, reading) for kind in KINDS for reading in (*kind.readings, *kind.histograms)]

# What DESIGN 4.3 promises for a GPU and for gpumon's health (prefix gpumon_), with the labels it names.
PROMISED = """
up  gpu_count  gpu_up  build_info  snapshot_age_seconds  nvml_errors_total{function,code}
gpu_info{driver_version,cuda_version,pci_bus_id,serial,vbios_version,architecture}
gpu_reading_supported{reading,reason}  source_success{source}  source_duration_seconds{source}
gpu_utilization_percent  gpu_busy_seconds_total  gpu_memory_utilization_percent
gpu_encoder_utilization_percent  gpu_decoder_utilization_percent  gpu_jpeg_utilization_percent
gpu_ofa_utilization_percent
gpu_memory_used_bytes  gpu_memory_total_bytes  gpu_memory_free_bytes  gpu_memory_reserved_bytes
gpu_bar1_used_bytes  gpu_bar1_total_bytes  gpu_protected_memory_used_bytes
gpu_temperature_celsius  gpu_memory_temperature_celsius  gpu_temperature_threshold_celsius{threshold}
gpu_temperature_margin_celsius  gpu_fan_speed_percent{fan}
gpu_power_watts  gpu_power_instant_watts  gpu_power_limit_watts{limit}  gpu_energy_joules_total
gpu_clock_hertz{clock}  gpu_clock_max_hertz{clock}  gpu_performance_state
gpu_throttle_active{reason}  gpu_throttle_seconds_total{reason}
gpu_pcie_transmit_bytes_total  gpu_pcie_receive_bytes_total  gpu_pcie_replays_total
gpu_pcie_link_generation{kind}  gpu_pcie_link_width{kind}
gpu_nvlink_up{link}  gpu_nvlink_transmit_bytes_total{link}  gpu_nvlink_receive_bytes_total{link}
gpu_nvlink_errors_total{kind}  gpu_fabric_state  gpu_fabric_health
gpu_ecc_errors_total{severity,scope}  gpu_retired_pages{cause}  gpu_remapped_rows_total{severity}
gpu_row_remap_pending  gpu_row_remap_failure  gpu_xid_errors_total{xid}  gpu_xid_last_timestamp_seconds
gpu_recovery_action
gpu_sm_active_ratio  gpu_sm_occupancy_ratio  gpu_tensor_active_ratio  gpu_dram_active_ratio
gpu_fp64_active_ratio  gpu_fp32_active_ratio  gpu_fp16_active_ratio  gpu_integer_active_ratio
mig_memory_used_bytes  mig_memory_total_bytes  mig_info{profile}
mig_sm_active_ratio  mig_sm_occupancy_ratio  mig_tensor_active_ratio  mig_dram_active_ratio
process_count{category}  process_gpu_memory_bytes{category}  process_attribution{mode}
workload_memory_used_bytes{gpu_id,gpu_uuid,category,namespace,pod,container}
workload_processes{gpu_id,gpu_uuid,category,namespace,pod,container}
workload_busy_seconds_total{gpu_id,gpu_uuid,category,namespace,pod,container}
workload_energy_joules_total{gpu_id,gpu_uuid,category,namespace,pod,container}
mig_fp64_active_ratio  mig_fp32_active_ratio  mig_fp16_active_ratio  mig_integer_active_ratio
llm_tokens_per_second{model,server,source}  llm_time_to_first_token_ms{model,server,source}
llm_session_count{model,server,source}  llm_prompt_tokens_total{model}  llm_generated_tokens_total{model}
llm_time_to_first_token_seconds{model}  llm_time_per_output_token_seconds{model}
llm_request_duration_seconds{model}  llm_requests_total{outcome}  llm_requests_running{model}
llm_requests_waiting{model}  llm_kv_cache_usage_ratio{model}  llm_model_memory_bytes{model}
llm_joules_per_token{model}  llm_energy_joules_total{model}
"""

# Readings without a unit, by the last word of their name: states, counts of things, and levels.
PLAIN = {
    *("active", "failure", "health", "hung", "info", "pending", "state", "success", "supported", "up"),
    *("banks", "count", "cpus", "errors", "failures", "fds", "lost", "pages", "replays", "rows", "threads", "ticks"),
    *("action", "attribution", "denied", "dropped", "limit", "out", "processes", "generation", "load1", "width"),
    "files",
    *("loaded", "loads", "renamed", "requests", "running", "tokens", "unloads", "waiting"),
    *("connections", "refused", "unreachable", "unreadable"),
    *("firing", "sent", "started", "threshold", "value"),
}

# Names that DESIGN fixes and that end in no base unit.
CONTRACTED = {"tokens_per_second", "time_to_first_token_ms", "joules_per_token"}

# Sources that only count up; their readings must be counters.
CUMULATIVE = re.compile(
    r"ENERGY|_REASON_|_BYTES$|REPLAY_COUNT|ERROR_COUNT|_COUNT_|REMAPPED_(COR|UNC)|THROUGHPUT"
    r"|nvmlDeviceGetTotal|ReplayCounter"
)


def sources() -> Iterator[tuple[EntityKind, Label | Column, Source]]:
    """Give every source in the catalogue, with what it is for."""
    for kind in KINDS:
        things: list[Label | Column] = [*kind.labels, *kind.columns]
        for thing in things:
            for source in thing.sources:
                yield kind, thing, source


@pytest.mark.parametrize("promise", PROMISED.split())
def test_what_design_promises_is_declared(promise: str) -> None:
    """Each name of DESIGN 4.3 is in the catalogue with the labels it gives; GPU series carry id, name and UUID."""
    name, _, labels = promise.rstrip("}").partition("{")
    found = [(kind, reading) for kind, reading in READINGS if kind.metric(reading) == f"gpumon_{name}"]
    assert found
    for kind, reading in found:
        declared = {label.name for label in kind.labels} | set(reading.labels)
        assert set(labels.split(",")) - {""} <= declared
        if name.startswith(("gpu_", "mig_")) and name != "gpu_count":
            assert {"gpu_id", "gpu_name", "gpu_uuid"} <= declared


@pytest.mark.parametrize(("kind", "reading"), READINGS, ids=[kind.metric(reading) for kind, reading in READINGS])
def test_a_name_says_its_unit_and_a_help_is_a_sentence(kind: EntityKind, reading: Reading) -> None:
    """The last word but _total is a base unit, or the reading is a known plain number."""
    assert re.fullmatch(r"[a-z][a-z0-9_]*", kind.metric(reading))
    assert reading.unit in UNITS or reading.stem.rsplit("_", 1)[-1] in PLAIN or reading.name in CONTRACTED
    assert reading.help.endswith(".")
    assert "\n" not in reading.help
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in reading.labels)


@pytest.mark.parametrize(("kind", "reading"), READINGS, ids=[kind.metric(reading) for kind, reading in READINGS])
def test_values_fit_the_labels(kind: EntityKind, reading: Reading) -> None:
    """A labelled reading has a value per key and each key a word per label; another has its sources directly."""
    if reading.labels:
        assert not reading.sources
        assert reading.values or kind.labels
        assert {len(key) for key in reading.values} <= {len(reading.labels)}
    else:
        assert not reading.values


def test_kinds_and_labels_are_described() -> None:
    """Each kind and each label has a help, and no label stands twice at one series."""
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    for kind in KINDS:
        assert kind.help.endswith(".")
        for label in kind.labels:
            assert label.help.endswith(".")
        for reading in (*kind.readings, *kind.histograms):
            names = [*(label.name for label in kind.labels), *reading.labels]
            assert len(names) == len(set(names))


def test_a_metric_is_declared_once() -> None:
    """Where two kinds share a family, a label tells their series apart; within one kind a name stands once."""
    for (kind, reading), (other, same) in product(READINGS, READINGS):
        if (kind, reading) != (other, same) and kind.metric(reading) == other.metric(same):
            assert kind is not other
            assert [label.name for label in kind.labels] != [label.name for label in other.labels]
            assert reading.help == same.help


def test_columns_are_unique() -> None:
    """No two values of a kind share a storage column, and kinds that share a table do not exist."""
    for kind in KINDS:
        names = [column.name for column in kind.columns]
        assert len(names) == len(set(names)) == len(kind.index)
        assert not set(names) & {label.name for label in kind.labels}
    tables = [kind.table for kind in KINDS if kind.table]
    assert len(tables) == len(set(tables))


def test_contracted_columns_are_there() -> None:
    """People's queries use these columns (DESIGN 4.4)."""
    assert {"utilization_gpu", "memory_used", "memory_total", "temperature", "power"} <= set(GPU.index)
    assert GPU.table == "gpu_metrics"


def test_every_name_of_nvml_exists() -> None:
    """Functions, constants, fields and profiling metrics are known to nvidia-ml-py; the rest is gpumon's own."""
    for kind, _thing, source in sources():
        match source:
            case Call(function, args):
                assert function in COMPOSED or callable(getattr(pynvml, function))
                for arg in args:
                    assert isinstance(arg, int) or arg == kind.parameter or hasattr(pynvml, arg), arg
            case Field(name, scope):
                assert isinstance(getattr(pynvml, name), int)
                assert isinstance(scope, int) or scope == kind.parameter
            case Gpm(name):
                assert isinstance(getattr(pynvml, name), int)
            case Computed(how):
                assert how in COMPUTED


def test_what_only_grows_is_a_counter() -> None:
    """A source that counts up belongs to a reading that ends in _total, so that its rate is what is asked for."""
    seen = 0
    for _kind, thing, source in sources():
        name = source.function if isinstance(source, Call) else source.id if isinstance(source, Field) else ""
        if isinstance(thing, Column) and CUMULATIVE.search(name):
            seen += 1
            assert thing.reading.counter, name
    assert seen > 20


def test_believable_limits_are_in_order() -> None:
    """A lower limit above the upper one would make every value unbelievable."""
    for _, reading in READINGS:
        if reading.limits is not None:
            assert reading.limits[0] < reading.limits[1]


def test_bounds_of_buckets_rise() -> None:
    """A histogram has no column of its name, is no counter, and its buckets, where gpumon fills them, are in order."""
    seen = 0
    for kind in KINDS:
        for reading in kind.histograms:
            seen += bool(reading.buckets)
            assert list(reading.buckets) == sorted(set(reading.buckets))
            assert not reading.counter
            assert reading.name not in kind.index
    assert seen > 4


def test_derived_otel_names_follow_the_metric_name() -> None:
    """A derived OpenTelemetry name and unit give back the metric name by the collector's Prometheus rules."""
    suffixes = {"By": "_bytes", "Cel": "_celsius", "s": "_seconds", "Hz": "_hertz", "W": "_watts", "J": "_joules"}
    suffixes |= {"%": "_percent", "1": "_ratio", "": ""}
    for kind in KINDS:
        for reading in (*kind.readings, *kind.histograms):
            if reading.otel is None and kind.prefix is not None:
                name = kind.otel_name(reading).replace(".", "_") + suffixes[reading.otel_unit]
                assert name + ("_total" if reading.counter else "") == kind.metric(reading)


def test_otel_series_are_unique() -> None:
    """No two values of a kind share an OpenTelemetry name and its attributes, and derived names are unique at all."""
    derived = [kind.otel_name(reading) for kind, reading in READINGS if reading.otel is None]
    assert len(derived) == len(set(derived))
    for kind in KINDS:
        series = [(kind.otel_name(column.reading), column.attributes) for column in kind.columns]
        assert len(series) == len(set(series))


def test_otel_names_as_documented() -> None:
    """The rule and the exceptions, by example."""
    readings = {reading.name: reading for reading in GPU.readings + MIG.readings}
    assert GPU.otel_name(readings["memory_free_bytes"]) == "gpumon.gpu.memory.free"
    assert readings["memory_free_bytes"].otel_unit == "By"
    assert GPU.otel_name(readings["memory_used_bytes"]) == "hw.gpu.memory.usage"
    assert GPU.otel_name(readings["throttle_seconds_total"]) == "gpumon.gpu.throttle"
    assert readings["performance_state"].otel_unit == ""
    assert MIG.otel_name(readings["sm_active_ratio"]) == "gpumon.mig.sm.active"
