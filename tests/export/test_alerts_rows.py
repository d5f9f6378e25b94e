"""Every alert of the catalogue begins when it should, not before, ends when it should, and does not flap."""

from __future__ import annotations

import re

import pytest
from tests.export.alerts_made import TICK, Course, beyond, entity, well

from gpumon.catalog import KINDS, Since, Snapshot
from gpumon.catalog.alert import SEVERITIES, Look, Setting
from gpumon.catalog.alerts import ALERTS
from gpumon.catalog.gpu import FAN, GPU, GPU_XID
from gpumon.catalog.health import GPU_DOWN, GPU_HEALTH
from gpumon.catalog.xids import UNKNOWN_XID, XIDS
from gpumon.export.alerts_rule import Rule
from gpumon.export.alerts_settings import rules
from gpumon.export.alerts_watch import Incident, Watch
from gpumon.settings import Settings, options

RULES = rules(Settings())
BY_NAME = {rule.alert.name: rule for rule in RULES}
NOW = [rule for rule in RULES if rule.alert.look is Look.NOW and rule.alert.kind.name != "age"]
COUNTED = [rule for rule in RULES if rule.alert.look is Look.INCREASE]
MEANS = [rule for rule in RULES if rule.alert.look is Look.MEAN]
FALLS = [rule for rule in RULES if rule.alert.look is Look.FALL]


def name(rule: Rule) -> str:
    return rule.alert.name


def test_every_row_is_swept() -> None:
    """No look is left out below; the age of snapshots has tests of its own."""
    assert len(NOW) + len(COUNTED) + len(MEANS) + len(FALLS) + 1 == len(RULES) == len(ALERTS)


@pytest.mark.parametrize("rule", NOW, ids=name)
def test_it_begins_when_its_condition_has_held_for_long_enough(rule: Rule) -> None:
    """Not a tick earlier; it says what was wrong in words with numbers."""
    course = Course(rule)
    course.go(60, well(rule))
    since = course.seconds
    course.go(rule.alert.for_seconds + 2 * TICK, beyond(rule))
    ((began, incident),) = course.begun
    assert rule.alert.for_seconds <= began - since < rule.alert.for_seconds + TICK
    assert (incident.value, incident.threshold) == (beyond(rule), rule.threshold)
    assert not re.search(r"[{}]", incident.message)
    assert incident.message.startswith(incident.summary)


@pytest.mark.parametrize("rule", NOW, ids=name)
def test_it_does_not_begin_at_its_threshold(rule: Rule) -> None:
    """Above means above."""
    course = Course(rule)
    course.go(600, rule.threshold)
    assert course.counts == (0, 0)


@pytest.mark.parametrize("rule", [rule for rule in NOW if rule.alert.for_seconds], ids=name)
def test_it_does_not_begin_when_the_condition_is_too_short(rule: Rule) -> None:
    """However often it comes back."""
    course = Course(rule)
    for _ in range(10):
        course.go(rule.alert.for_seconds, beyond(rule))
        course.tick(well(rule))
    assert course.counts == (0, 0)


@pytest.mark.parametrize("rule", NOW, ids=name)
def test_it_ends_once_the_condition_is_over_for_long_enough(rule: Rule) -> None:
    """With the same thing and start, and the value of then; a moment of relief is no end."""
    course = Course(rule)
    course.go(rule.alert.for_seconds + 2 * TICK, beyond(rule))
    if rule.alert.clear_seconds:
        course.go(rule.alert.clear_seconds, well(rule))
        course.tick(beyond(rule))
    assert course.counts == (1, 0)
    since = course.seconds
    course.go(rule.alert.clear_seconds + 2 * TICK, well(rule))
    ((_, began),), ((ended, incident),) = course.begun, course.ended
    assert rule.alert.clear_seconds <= ended - since < rule.alert.clear_seconds + TICK
    assert (incident.labels, incident.started, incident.value) == (began.labels, began.started, well(rule))
    assert "over after" in incident.message


@pytest.mark.parametrize("rule", [rule for rule in NOW if rule.alert.hysteresis], ids=name)
def test_it_goes_on_while_the_value_is_near_its_threshold(rule: Rule) -> None:
    """By the hysteresis."""
    course = Course(rule)
    near = rule.threshold + rule.alert.hysteresis / 2 * (-1 if rule.alert.below is None else 1)
    course.go(rule.alert.for_seconds + 2 * TICK, beyond(rule))
    course.go(3600, near)
    assert course.counts == (1, 0)


@pytest.mark.parametrize("rule", NOW + COUNTED + MEANS + FALLS, ids=name)
def test_it_does_not_flap(rule: Rule) -> None:
    """A condition that comes and goes with every tick is one alert at most in an hour."""
    course = Course(rule)
    if rule.alert.look is Look.FALL:
        course.go(10, 10.0)
    course.go(3600, beyond(rule), well(rule))
    assert len(course.begun) <= 1
    assert not course.ended


@pytest.mark.parametrize("rule", NOW, ids=name)
def test_what_is_not_known_changes_nothing_for_a_minute(rule: Rule) -> None:
    """A reading that is missing is neither a fault nor its end; after a minute nobody can say that the alert is true."""
    course = Course(rule)
    course.go(3600, None)
    assert course.counts == (0, 0)
    course.go(rule.alert.for_seconds + 2 * TICK, beyond(rule), None, None)
    course.tick(beyond(rule))
    assert course.counts == (1, 0)
    course.go(60, None)
    assert course.counts == (1, 0)
    course.go(2 * TICK, None)
    ((_, incident),) = course.ended
    assert incident.value is None
    assert "not known any more after" in incident.message


@pytest.mark.parametrize("rule", COUNTED, ids=name)
def test_a_counter_that_grows_is_an_alert_until_it_has_rested_for_its_window(rule: Rule) -> None:
    """Growing again meanwhile prolongs it."""
    course, grown = Course(rule), 0.0
    course.go(60, 0.0)
    course.tick(rule.threshold)
    assert course.counts == (0, 0)
    grown = 2 * rule.threshold + 1
    course.tick(grown)
    assert course.counts == (1, 0)
    course.go(rule.alert.window_seconds / 2, grown)
    grown += rule.threshold + 1
    last = course.seconds
    course.tick(grown)
    course.go(2 * rule.alert.window_seconds, grown)
    ((_, incident),), ((ended, _),) = course.begun, course.ended
    assert not re.search(r"[{}]", incident.message)
    part = rule.alert.window_seconds / 60
    assert (
        rule.alert.window_seconds - part <= ended - last <= rule.alert.window_seconds + part + rule.alert.clear_seconds
    )


@pytest.mark.parametrize("rule", COUNTED, ids=name)
def test_a_counter_that_begins_anew_is_no_alert(rule: Rule) -> None:
    """As when the driver is loaded again; and what a device counted before gpumon looked is no news."""
    course = Course(rule)
    counted = [c for c in rule.alert.kind.columns if c.name in rule.alert.measures[0].columns]
    course.go(20, 1000.0 if counted[0].since is Since.SOURCE else 0.0)
    course.go(20, 0.0)
    course.go(20, rule.threshold)
    assert course.counts == (0, 0)


@pytest.mark.parametrize("rule", MEANS, ids=name)
def test_a_share_of_time_is_an_alert_when_it_is_large_enough(rule: Rule) -> None:
    """A tenth of the last minute; it ends a minute after that minute."""
    course = Course(rule)
    course.go(60, 0.0)
    course.go(600, *(1.0,), *(0.0,) * 10)  # 9 %
    assert course.counts == (0, 0)
    course.go(60, 0.0)
    since = course.seconds
    course.go(30, 1.0)
    ((began, incident),) = course.begun
    assert began - since == 6  # the tick at 6 s tells of 2 s before each of four
    assert not re.search(r"[{}]", incident.message)
    course.go(600, 0.0)
    ((ended, _),) = course.ended
    assert 110 < ended - since - 30 < 130


@pytest.mark.parametrize("rule", FALLS, ids=name)
def test_what_falls_is_an_alert_and_what_was_never_there_is_none(rule: Rule) -> None:
    """A link that was up and is not any more, for long enough."""
    course = Course(rule)
    course.go(600, 0.0)
    assert course.counts == (0, 0)
    course.tick(1.0)
    course.go(rule.alert.for_seconds + 2 * TICK, 0.0)
    assert course.counts == (1, 0)
    course.go(rule.alert.clear_seconds + 2 * TICK, 1.0)
    assert course.counts == (1, 1)


def test_the_age_of_the_readings_is_an_alert_by_the_clock() -> None:
    """It begins when no snapshot comes for three ticks, and ends when they have come again for a minute."""
    course = Course(BY_NAME["sampling_stale"])
    course.go(60, None)
    assert course.watch.take_age(6.0, 0.0, course.seconds) == []
    (begun,) = course.watch.take_age(6.5, 0.0, course.seconds + 0.5)
    assert begun.message == "gpumon has no fresh readings: the newest are 6 s old, more than 6 s"
    assert course.watch.take_age(8.5, 0.0, course.seconds + 2.5) == []
    course.seconds += 4
    course.go(120, None)
    ((_, ended),) = course.ended
    assert ended.alert.name == "sampling_stale"


def test_names_are_unique_and_every_row_is_whole() -> None:
    """Each has one condition, a severity that exists, sentences, and a setting that exists where it has one."""
    names = [alert.name for alert in ALERTS]
    assert len(set(names)) == len(names)
    settings = {option.name for option in options()}
    for alert in ALERTS:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", alert.name)
        assert alert.runbook == f"docs/runbooks.md#{alert.name}"
        assert alert.severity in SEVERITIES
        assert (alert.above is None) != (alert.below is None)
        assert alert.kind in KINDS
        assert alert.advice.endswith(".")
        assert not alert.summary.endswith(".")
        assert (alert.look in (Look.MEAN, Look.INCREASE)) == bool(alert.window_seconds)
        for threshold in (alert.above, alert.below):
            assert not isinstance(threshold, Setting) or threshold.name in settings
        for label in (*alert.where, *alert.unless):
            assert label in {each.name for each in alert.kind.labels}
        for measure in alert.measures:
            assert {*measure.columns, *measure.less} | ({measure.of} - {None}) <= set(alert.kind.index)


def test_a_fan_that_stands_still_is_an_alert_on_a_hot_gpu_only() -> None:
    """Cards stop their fans when they are cool; another GPU's heat does not count."""
    watch = Watch([BY_NAME["gpu_fan_stopped"]])

    def stands(temperature: float | None, seconds: float) -> list[Incident]:
        hot = entity(GPU, {"gpu_id": "1"}, temperature=90.0)
        own = entity(GPU, temperature=temperature)
        fan = entity(FAN, {"fan": "0"}, fan_speed_percent=0.0)
        return watch.take(Snapshot(seconds, seconds, 1, (hot, own, fan)))

    assert [stands(60.0, at) for at in range(0, 200, 2)] == [[]] * 100
    assert [stands(None, at) for at in range(200, 400, 2)] == [[]] * 100
    (found,) = [incident for at in range(400, 470, 2) for incident in stands(75.0, at)]
    assert found.message == "Fan 0 of GPU 0 stands still although the GPU is hot: fan at 0 %"


def test_a_gpu_that_was_released_or_hangs_is_not_lost() -> None:
    """Maintenance is no fault, and a hang has an alert of its own."""
    for reason, lost in (("RELEASED", 0), ("HUNG", 0), ("GPU_IS_LOST", 1)):
        watch = Watch([BY_NAME["gpu_lost"]])
        down = (entity(GPU_HEALTH, up=0.0, hung=0.0), entity(GPU_DOWN, {"reason": reason}, down_info=1.0))
        found = [incident for at in range(0, 60, 2) for incident in watch.take(Snapshot(at, at, 1, down))]
        assert [incident.message for incident in found] == ["GPU 0 does not answer: GPU_IS_LOST"] * lost


def test_xids_are_of_three_weights_and_say_what_they_mean() -> None:
    """A fault of the GPU, one that leaves it usable, and one of an application; a code nobody knows is the GPU's."""
    weights = {"79": "critical", "143": "critical", "999": "critical", "94": "warning", "63": "warning", "13": "info"}
    rows = [rule for rule in RULES if rule.alert.kind is GPU_XID]
    for xid, severity in weights.items():
        watch = Watch(rows)
        assert watch.take(Snapshot(0, 0, 1, ())) == []
        (found,) = watch.take(Snapshot(2, 2, 2, (entity(GPU_XID, {"xid": xid}, xid_errors_total=1.0),)))
        assert (found.alert.severity, found.subject) == (severity, f"xid={xid}")
        known = XIDS.get(int(xid), UNKNOWN_XID)
        assert found.summary.endswith(known.meaning)
        assert found.advice == known.advice
