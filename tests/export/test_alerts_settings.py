"""The alerts of the settings are what was meant, and what cannot be meant is said in one sentence."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gpumon.catalog import KINDS
from gpumon.catalog.alert import Look
from gpumon.catalog.alerts import ALERTS
from gpumon.export.alerts import targets
from gpumon.export.alerts_settings import rules
from gpumon.load import load
from gpumon.settings import Alerts, Settings, SettingsError

OWN = {"name": "own", "metric": "gpumon_gpu_power_watts", "above": 1}


def given(**alerts: object) -> Settings:
    """Give settings with these alerts; tables may be lists."""
    texts = {key: json.dumps(value) if isinstance(value, list) else value for key, value in alerts.items()}
    return replace(Settings(), alerts=Alerts(**texts))  # type: ignore[arg-type]


def test_defaults_look_for_every_alert_at_its_threshold() -> None:
    """Those that settings have are taken from there."""
    by_name = {rule.alert.name: rule.threshold for rule in rules(Settings())}
    assert list(by_name) == [alert.name for alert in ALERTS]
    assert (by_name["gpu_temperature"], by_name["gpu_memory"], by_name["sampling_stale"]) == (85, 90, 6)
    by_name = {rule.alert.name: rule.threshold for rule in rules(given(temp_threshold_celsius=70.5))}
    assert by_name["gpu_temperature"] == 70.5


def test_single_alerts_can_be_switched_off() -> None:
    """By name, one's own as well."""
    settings = given(disabled="gpu_memory, own", rules=[OWN])
    assert len(rules(settings)) == len(ALERTS) - 1


def test_an_own_alert_has_everything_that_was_said_of_it() -> None:
    """From the settings' words to the row's."""
    table = {
        "name": "gpu_idle",
        "metric": "gpumon_gpu_busy_seconds_total{method=samples}",
        "below": 5,
        "clear": 10,
        "increase_secs": 600,
        "for_secs": 60,
        "clear_secs": 30,
        "gpu_name": "H100",
        "severity": "info",
        "message": "GPU {gpu_id} has nothing to do",
        "advice": "Give it to somebody.",
    }
    (rule,) = [rule for rule in rules(given(rules=[table])) if rule.alert.name == "gpu_idle"]
    alert = rule.alert
    assert (alert.look, alert.window_seconds, alert.below, alert.hysteresis) == (Look.INCREASE, 600, 5, 5)
    assert (alert.for_seconds, alert.clear_seconds, alert.severity) == (60, 30, "info")
    assert (alert.where, alert.summary) == ({"gpu_name": "H100"}, "GPU {gpu_id} has nothing to do")


def test_every_metric_of_the_catalogue_can_be_looked_at() -> None:
    """By its name as in docs/metrics.md, with the label in braces where it has one of its own; but for alerts' own."""
    for kind in KINDS:
        for column in kind.columns:
            table = OWN | {"metric": kind.series(column)}
            if kind.name == "alert":
                with pytest.raises(SettingsError):
                    rules(given(rules=[table]))
            else:
                assert kind in [rule.alert.kind for rule in rules(given(rules=[table])) if rule.alert.name == "own"]


WRONG = {
    "no JSON": ({"rules": "no"}, "alerts.rules is not a list of tables"),
    "no tables": ({"models": [1]}, "alerts.models is not a list of tables"),
    "disabled": ({"disabled": "gpu_temprature"}, "(did you mean gpu_temperature?)"),
    "key": ({"rules": [OWN | {"treshold": 1}]}, "Table 1 of alerts.rules has a key 'treshold'"),
    "name": ({"rules": [OWN | {"name": "Own Alert"}]}, "allowed are lower-case letters, digits and _"),
    "no name": ({"rules": [{"metric": "gpumon_up", "below": 1}]}, "has the name None"),
    "taken": ({"rules": [OWN | {"name": "gpu_lost"}]}, "which another alert has"),
    "twice": ({"rules": [OWN, OWN]}, "Table 2 of alerts.rules has the name 'own', which another alert has"),
    "metric": ({"rules": [OWN | {"metric": "gpumon_gpu_power_wats"}]}, "(did you mean gpumon_gpu_power_watts?)"),
    "labels": (
        {"rules": [OWN | {"metric": "gpumon_gpu_clock_hertz"}]},
        "allowed is one of gpumon_gpu_clock_hertz{clock=graphics},",
    ),
    "histogram": ({"rules": [OWN | {"metric": "gpumon_llm_time_to_first_token_seconds"}]}, "has the metric"),
    "of": ({"rules": [OWN | {"of": "gpumon_up"}]}, "allowed are two metrics of the same thing"),
    "no condition": ({"rules": [{"name": "own", "metric": "gpumon_up"}]}, "has no condition; allowed is one of"),
    "conditions": ({"rules": [OWN | {"below": 0}]}, "has above and below; allowed is one of"),
    "absent": ({"rules": [OWN | {"above": False, "absent": 1}]}, "allowed is one of above, below and absent = true"),
    "threshold": ({"rules": [OWN | {"above": "hot"}]}, "(own) has above 'hot'; allowed is a number"),
    "infinite": ({"rules": '[{"name":"own","metric":"gpumon_up","above":Infinity}]'}, "has above inf"),
    "windows": ({"rules": [OWN | {"mean_secs": 1, "increase_secs": 1}]}, "has increase_secs and mean_secs"),
    "window": ({"rules": [OWN | {"mean_secs": 0}]}, "has mean_secs 0; allowed is a number above 0"),
    "for": ({"rules": [OWN | {"for_secs": -1}]}, "has for_secs -1; allowed is a number from 0 to 86400"),
    "clear above": ({"rules": [OWN | {"clear": 2}]}, "has clear 2; allowed is at most the number of above"),
    "severity": ({"rules": [OWN | {"severity": "page"}]}, "allowed is one of critical, warning, info"),
    "label": ({"rules": [OWN | {"labels": {"pod": "x"}}]}, "looks at the label 'pod'; its metric has gpu_id"),
    "label table": ({"rules": [OWN | {"labels": "x"}]}, "allowed is a table of patterns by label"),
    "pattern": ({"rules": [OWN | {"gpu_name": "("}]}, "which is no regular expression"),
    "message": ({"rules": [OWN | {"message": "{pod} is hot"}]}, "allowed in braces are gpu_id, gpu_name, gpu_uuid"),
    "message attribute": ({"rules": [OWN | {"message": "{gpu_id.real}"}]}, "allowed in braces are"),
    "message form": ({"rules": [OWN | {"message": "{gpu_id:.0f}"}]}, "allowed in braces are"),
    "advice": ({"rules": [OWN | {"advice": "a\nb"}]}, "has the advice 'a\\nb', which is no line of text"),
    "model": ({"models": [{"gpu_temperature": 1}]}, "Table 1 of alerts.models has the gpu_name None"),
    "model key": ({"models": [{"gpu_name": "x", "gpu_heat": 1}]}, "allowed are gpu_name and names of alerts"),
    "model number": ({"models": [{"gpu_name": "x", "gpu_memory": "1"}]}, "has gpu_memory '1'; allowed is a number"),
}


@pytest.mark.parametrize(("alerts", "sentence"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_one_sentence(alerts: dict[str, object], sentence: str) -> None:
    """It names the table, what it has, and what is allowed."""
    with pytest.raises(SettingsError) as said:
        rules(given(**alerts))
    assert sentence in str(said.value)
    assert "\n" not in str(said.value)
    assert str(said.value).endswith(".")


def test_tables_can_be_written_in_the_file_and_in_the_environment(tmp_path: object) -> None:
    """As tables, or as JSON text."""
    file = tmp_path / "config.toml"  # type: ignore[operator]
    file.write_text(
        "[[alerts.rules]]\nname = 'a'\nmetric = 'gpumon_up'\nbelow = 1\n[[alerts.models]]\ngpu_name = 'H100'\ngpu_memory = 99\n"
    )
    settings = load(str(file), {"HOME": "/nowhere"})
    assert rules(settings)[-1].alert.name == "a"
    settings = load(None, {"HOME": "/nowhere", "GPUMON_ALERTS_RULES": json.dumps([OWN])})
    assert rules(settings)[-1].alert.name == "own"


def test_places_to_send_to_are_those_of_the_settings() -> None:
    """None by default; an address shows nothing that may be secret."""
    assert targets(Settings(), {}) == []
    settings = given(
        webhook_url="https://user:secret@hooks.example/T0/secret?key=secret",
        webhook_headers="X-Key=se%2Ccret, X-Team=ml",
        alertmanager_urls="http://a:9093/prefix/  https://[::1]",
        enable_desktop_notifications=True,
    )
    found = [(target.name, target.address) for target in targets(settings, {})]
    assert found == [
        ("webhook", "hooks.example:443"),
        ("alertmanager", "a:9093"),
        ("alertmanager", "[::1]:443"),
        ("desktop", ""),
    ]


@pytest.mark.parametrize("headers", ["secret", "a b=secret", "X=secret\x01", "=secret", "X=secret%0A"])
def test_a_header_that_is_none_is_refused_without_telling_it(headers: str) -> None:
    """Values are secrets."""
    with pytest.raises(SettingsError, match=r"^alerts\.webhook_headers has") as said:
        targets(given(webhook_headers=headers), {})
    assert "secret." in str(said.value)
    assert str(said.value).count("secret") == 1
