"""What the state of alerts keeps to besides the rows: bounds, things that come and go, alerts of one's own."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from tests.export.alerts_made import entity

from gpumon.catalog import ALERT, GPU, GPU_PROCESS, LLM_SERVER, LLM_TRAFFIC, Entity, Snapshot
from gpumon.catalog.storage import STORAGE_TABLE
from gpumon.export import alerts_rule
from gpumon.export.alerts_rule import Past, Rule
from gpumon.export.alerts_settings import rules
from gpumon.export.alerts_watch import MOST_STATES, Incident, Watch
from gpumon.settings import Alerts, Settings


def rule(**table: object) -> Rule:
    """Give the rule of an alert of one's own."""
    given = {"name": "own"} | table
    alerts = Alerts(rules=json.dumps([given]))
    (found,) = [rule for rule in rules(replace(Settings(), alerts=alerts)) if rule.alert.name == given["name"]]
    return found


def run(watch: Watch, *ticks: tuple[Entity, ...], began: float = 0.0) -> list[Incident]:
    """Take a snapshot every 2 s."""
    found = []
    for i, entities in enumerate(ticks):
        seconds = began + 2.0 * i
        found += watch.take(Snapshot(seconds, seconds, i + 1, entities))
    return found


def test_each_thing_has_an_alert_of_its_own() -> None:
    """Two GPUs are two alerts, with their own values, and one ends without the other."""
    watch = Watch([rule(metric="gpumon_gpu_power_watts", above=400)])
    low, high = entity(GPU, power=300.0), entity(GPU, {"gpu_id": "1"}, power=500.0)
    (first,) = run(watch, (low, high))
    assert first.labels["gpu_id"] == "1"
    both = run(watch, (entity(GPU, power=450.0), entity(GPU, {"gpu_id": "1"}, power=100.0)), began=2)
    assert [(incident.labels["gpu_id"], incident.ended is None) for incident in both] == [("0", True), ("1", False)]


def test_an_alert_is_an_entity_while_it_is_active_with_the_value_of_now() -> None:
    """There is no series before and after."""
    watch = Watch([rule(metric="gpumon_gpu_power_watts", above=400, severity="critical")])
    assert list(watch.entities()) == []
    run(watch, (entity(GPU, power=500.0),))
    run(watch, (entity(GPU, power=600.0),), began=2)
    (alert,) = watch.entities()
    assert alert.kind is ALERT
    assert alert.labels == ("own", "critical", "0", "NVIDIA H100", "GPU-1", "")
    assert (alert["active"], alert["value"], alert["threshold"], alert["start_timestamp_seconds"]) == (1, 600, 400, 0)
    run(watch, (entity(GPU, power=100.0),), began=4)
    assert list(watch.entities()) == []


def test_tables_that_lose_rows_together_are_one_alert() -> None:
    """Their losses are summed."""
    watch = Watch([rule for rule in rules(Settings()) if rule.alert.name == "storage_dropping"])

    def lost(some: float, more: float) -> tuple[Entity, ...]:
        return (
            entity(STORAGE_TABLE, {"table": "events"}, dropped_rows_total=some),
            entity(STORAGE_TABLE, {"table": "gpu_metrics"}, dropped_rows_total=more),
        )

    (incident,) = run(watch, lost(0, 0), lost(3, 4), lost(5, 5))
    assert (incident.value, incident.subject) == (7, "")


def test_what_is_missing_is_an_alert_where_it_was_once_there() -> None:
    """`absent` looks at things that have been seen; what was never read is not missed."""
    watch = Watch([rule(metric="gpumon_llm_server_up", absent=True, for_secs=4, clear_secs=2)])
    server = entity(LLM_SERVER, {"server": "a:1"}, up=1.0)
    assert run(watch, (), (), ()) == []
    (begun,) = run(watch, (server,), (), (), (), (), (), began=10)
    assert (begun.subject, begun.value, begun.started) == ("server=a:1,kind=x", None, 16)
    assert begun.message == "gpumon_llm_server_up (server a:1, kind x): no value is known"
    (ended,) = run(watch, (server,), (server,), began=30)
    assert ended.message.endswith("over after 16 s")
    run(watch, (), (), (), (), began=40)
    (given_up,) = run(watch, (), began=40 + 100_000)
    assert given_up.ended is not None


def test_thresholds_differ_by_model_of_gpu() -> None:
    """The first pattern that a GPU's name matches counts, in any case; the others have the general threshold."""
    models = [{"gpu_name": "4090", "gpu_temperature": 90}, {"gpu_name": "rtx", "gpu_temperature": 70, "gpu_memory": 50}]
    settings = replace(Settings(), alerts=Alerts(models=json.dumps(models)))
    watch = Watch([rule for rule in rules(settings) if rule.alert.name == "gpu_temperature"])
    names = {"0": "NVIDIA GeForce RTX 4090", "1": "NVIDIA RTX 6000", "2": "NVIDIA H100"}
    hot = tuple(entity(GPU, {"gpu_id": gpu, "gpu_name": name}, temperature=86.0) for gpu, name in names.items())
    found = run(watch, *[hot] * 40)
    assert {incident.labels["gpu_id"]: incident.threshold for incident in found} == {"1": 70, "2": 85}


def test_an_own_alert_looks_only_at_what_its_patterns_match() -> None:
    """By the GPU's name and by any label of the metric."""
    watch = Watch(
        [rule(metric="gpumon_gpu_process_memory_used_bytes", above=1, gpu_name="h100", labels={"user": "^al"})]
    )
    users = [entity(GPU_PROCESS, {"user": user}, memory_used_bytes=2.0) for user in ("alice", "bob")]
    other = entity(GPU_PROCESS, {"user": "alice", "gpu_name": "A100"}, memory_used_bytes=2.0)
    (incident,) = run(watch, (*users, other))
    assert (incident.labels["user"], incident.labels["gpu_name"]) == ("alice", "NVIDIA H100")


def test_the_share_of_one_metric_in_another() -> None:
    """In percent; unknown where one of them is."""
    watch = Watch([rule(metric="gpumon_gpu_power_watts", of="gpumon_gpu_power_limit_watts{limit=enforced}", below=10)])
    unknown = entity(GPU, power=20.0)
    assert run(watch, (unknown,), (entity(GPU, power=20.0, power_limit_enforced_watts=0.0),)) == []
    (incident,) = run(watch, (entity(GPU, power=20.0, power_limit_enforced_watts=400.0),), began=4)
    assert incident.value == 5


def test_conditions_beyond_the_limit_are_left_out_and_counted() -> None:
    """A rule over something that has no bound cannot take memory without one; what it saw first goes on."""
    watch = Watch([rule(metric="gpumon_gpu_process_memory_used_bytes", above=1)])
    many = tuple(entity(GPU_PROCESS, {"pid": str(pid)}, memory_used_bytes=2.0) for pid in range(MOST_STATES + 7))
    found = run(watch, many)
    assert len(found) == len(list(watch.entities())) == MOST_STATES
    assert watch.left_out == 7
    assert run(watch, many[:5], began=2) == []


def test_what_is_remembered_of_things_has_a_bound() -> None:
    """Processes come and go for ever."""
    watch = Watch([rule(metric="gpumon_gpu_process_cpu_seconds_total", above=100, increase_secs=60)])
    (watched,) = watch._watched
    assert isinstance(watched._past, Past)
    for tick in range(20):
        pids = range(500 * tick, 500 * tick + 500)
        run(watch, tuple(entity(GPU_PROCESS, {"pid": str(pid)}, cpu_seconds_total=1.0) for pid in pids), began=2 * tick)
    assert len(watched._past._known) <= alerts_rule.MOST_KNOWN + 500


def test_what_is_looked_for_when_it_is_missing_has_a_bound() -> None:
    """What comes and goes is not remembered without one either, and what was left out is counted."""
    watch = Watch([rule(metric="gpumon_gpu_process_cpu_seconds_total", absent=True, for_secs=3600)])
    pids = range(alerts_rule.MOST_KNOWN + 3)
    run(watch, tuple(entity(GPU_PROCESS, {"pid": str(pid)}, cpu_seconds_total=1.0) for pid in pids))
    assert len(watch._watched[0]._known) == alerts_rule.MOST_KNOWN
    assert watch.left_out == 3


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("condition", [{"above": 0.9}, {"above": 0.9, "mean_secs": 60}, {"below": 0.1}])
def test_what_is_not_finite_is_no_reading(value: float, condition: dict[str, object]) -> None:
    """A model server may say anything; JSON has no word for it, so its event could not be told by the API."""
    watch = Watch([rule(metric="gpumon_llm_kv_cache_usage_ratio", **condition)])
    odd, plain = (entity(LLM_TRAFFIC, kv_cache_usage_ratio=number) for number in (value, 0.5))
    assert run(watch, (plain,), (odd,), (odd,), (plain,), (plain,)) == []


def test_a_window_is_true_however_often_it_is_added_to() -> None:
    """It keeps few parts, and its sum is of what is not older than the window, to a part."""
    window = alerts_rule.Window(60.0)
    for i in range(10_000):
        window.add(i / 10, 1.0)
        window.sum(i / 10)
        assert len(window._parts) <= alerts_rule.WINDOW_PARTS + 1
    assert 590 <= window.sum(999.9) <= 610
    assert window.sum(1100.0) == 0
