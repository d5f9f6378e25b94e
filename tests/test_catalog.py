"""The catalogue holds what DESIGN promises, in the form it promises."""

from __future__ import annotations

from gpumon.catalog import GPU, KINDS, MIG


def test_derived_otel_names_follow_the_metric_name() -> None:
    """A derived OpenTelemetry name and unit give back the metric name by the collector's Prometheus rules."""
    suffixes = {"By": "_bytes", "Cel": "_celsius", "s": "_seconds", "Hz": "_hertz", "W": "_watts", "J": "_joules"}
    suffixes |= {"%": "_percent", "1": "_ratio", "": ""}
    for kind in KINDS:
        for reading in kind.readings:
            if reading.otel is None and kind.prefix is not None:
                name = kind.otel_name(reading).replace(".", "_") + suffixes[reading.otel_unit]
                assert name + ("_total" if reading.counter else "") == kind.metric(reading)


def test_otel_series_are_unique() -> None:
    """No two readings of a kind share an OpenTelemetry name and its attributes, and derived names are unique at all."""
    derived = [kind.otel_name(reading) for kind in KINDS for reading in kind.readings if reading.otel is None]
    assert len(derived) == len(set(derived))
    for kind in KINDS:
        named = [(kind.otel_name(column.reading), column.attributes) for column in kind.columns]
        assert len(named) == len(set(named))


def test_otel_names_as_documented() -> None:
    """The rule and the exceptions, by example."""
    readings = {reading.name: reading for reading in GPU.readings + MIG.readings}
    assert GPU.otel_name(readings["memory_free_bytes"]) == "gpumon.gpu.memory.free"
    assert readings["memory_free_bytes"].otel_unit == "By"
    assert GPU.otel_name(readings["memory_used_bytes"]) == "hw.gpu.memory.usage"
    assert GPU.otel_name(readings["throttle_seconds_total"]) == "gpumon.gpu.throttle"
    assert readings["performance_state"].otel_unit == ""
    assert MIG.otel_name(readings["sm_active_ratio"]) == "gpumon.mig.sm.active"
