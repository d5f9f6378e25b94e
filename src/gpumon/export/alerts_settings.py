"""The alerts of the settings: which of the built-in ones are raised at what, and those of one's own."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping

from gpumon.catalog import ALERT, KINDS, Column, EntityKind
from gpumon.catalog.alert import SEVERITIES, Alert, Look, Measure, Setting
from gpumon.catalog.alerts import ALERTS
from gpumon.export.alerts_rule import Rule
from gpumon.settings import Settings, SettingsError

# What an own alert may say; `metric` and one of `above`, `below` and `absent` it must.
RULE_KEYS = (
    *("name", "metric", "of", "above", "below", "absent", "increase_secs", "mean_secs", "clear", "for_secs"),
    *("clear_secs", "gpu_name", "labels", "severity", "message", "advice"),
)
NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
# What is compared over a longer time is better asked of a Prometheus.
LONGEST_SECS = 86_400.0

Table = Mapping[str, object]


def rules(settings: Settings) -> tuple[Rule, ...]:
    """Give every alert to look for, with its threshold.

    SettingsError says in one sentence which setting is wrong and what is allowed.
    """
    alerts = settings.alerts
    names = [alert.name for alert in ALERTS]
    own = [rule for table in _tables("alerts.rules", alerts.rules) for rule in _own(*table, names)]
    disabled = [word for word in re.split(r"[,\s]+", alerts.disabled) if word]
    for name in disabled:
        if name not in names:
            raise SettingsError(f"alerts.disabled names {name!r}{_near(name, names)}; allowed are {', '.join(names)}.")
    models = [_model(*table, names) for table in _tables("alerts.models", alerts.models)]
    built_in = [
        Rule(alert, _threshold(alert, settings), tuple((gpu, at[alert.name]) for gpu, at in models if alert.name in at))
        for alert in ALERTS
    ]
    return tuple(rule for rule in (*built_in, *own) if rule.alert.name not in disabled)


def _threshold(alert: Alert, settings: Settings) -> float:
    given = alert.above if alert.above is not None else alert.below
    if isinstance(given, Setting):
        value = settings[given.name]
        assert not isinstance(value, str)
        return value * given.factor
    return given or 0.0


def _tables(setting: str, text: str) -> Iterable[tuple[str, Table]]:
    """Give each table of a setting, with words that say which it is."""
    try:
        tables = json.loads(text) if text else []
    except ValueError:
        tables = None
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError(f"{setting} is not a list of tables; allowed are tables written [[{setting}]].")
    for number, table in enumerate(tables, start=1):
        yield f"Table {number} of {setting}", table


def _model(where: str, table: Table, names: list[str]) -> tuple[str, dict[str, float]]:
    """Give the pattern for a GPU's name, and the thresholds by alert."""
    pattern = _pattern(where, "gpu_name", table.get("gpu_name"))
    numbers = {key: _number(where, key, value) for key, value in table.items() if key != "gpu_name"}
    for key in numbers:
        if key not in names:
            raise SettingsError(
                f"{where} has a key {key!r}{_near(key, names)}; allowed are gpu_name and names of alerts: {', '.join(names)}."
            )
    return pattern, numbers


def _own(where: str, table: Table, names: list[str]) -> Iterable[Rule]:
    """Give the rules of an alert of one's own: one for each kind of entity that has its metric."""
    for key in table:
        if key not in RULE_KEYS:
            raise SettingsError(
                f"{where} has a key {key!r}{_near(key, RULE_KEYS)}; allowed are {', '.join(RULE_KEYS)}."
            )
    name = table.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise SettingsError(
            f"{where} has the name {name!r}; allowed are lower-case letters, digits and _, as in gpu_idle."
        )
    if name in names:
        raise SettingsError(f"{where} has the name {name!r}, which another alert has; choose another one.")
    names.append(name)
    where = f"{where} ({name})"
    metric = table.get("metric")
    for kind, column in _columns(where, "metric", metric):
        of = None
        if "of" in table:
            of = next((c.name for k, c in _columns(where, "of", table["of"]) if k is kind), None)
            if of is None:
                raise SettingsError(
                    f"{where} compares {metric} of {table['of']}; allowed are two metrics of the same thing."
                )
        yield _rule(where, table, kind, Measure((column.name,), of=of), str(metric))


def _rule(where: str, table: Table, kind: EntityKind, measure: Measure, metric: str) -> Rule:
    given = [key for key in ("above", "below", "absent") if key in table and table[key] is not False]
    if len(given) != 1 or not isinstance(table.get("absent", True), bool):
        raise SettingsError(f"{where} has {_listed(given)}; allowed is one of above, below and absent = true.")
    sense = given[0]
    threshold = 0.0 if sense == "absent" else _number(where, sense, table[sense])
    look, window = _look(where, table, sense)
    severity = table.get("severity", "warning")
    if severity not in SEVERITIES:
        raise SettingsError(f"{where} has the severity {severity!r}; allowed is one of {', '.join(SEVERITIES)}.")
    alert = Alert(
        name=str(table["name"]),
        severity=str(severity),
        kind=kind,
        measures=(measure,),
        look=look,
        window_seconds=window,
        above=threshold if sense == "above" else None,
        below=threshold if sense == "below" else None,
        absent=sense == "absent",
        hysteresis=_hysteresis(where, table, sense, threshold),
        for_seconds=_seconds(where, table, "for_secs"),
        clear_seconds=_seconds(where, table, "clear_secs"),
        where=_where(where, table, kind),
        summary=_message(where, table, kind, metric),
        numbers="no value is known" if sense == "absent" else f"{{value:g}}, {sense} {{threshold:g}}",
        advice=_text(where, "advice", table.get("advice", "")),
        own=True,
    )
    return Rule(alert, threshold)


def _look(where: str, table: Table, sense: str) -> tuple[Look, float]:
    given = [key for key in ("increase_secs", "mean_secs") if key in table]
    if not given:
        return Look.NOW, 0.0
    if len(given) > 1 or sense == "absent":
        raise SettingsError(f"{where} has {_listed(given)}; allowed is one of them, and none with absent.")
    seconds = _seconds(where, table, given[0])
    if not seconds:
        raise SettingsError(f"{where} has {given[0]} 0; allowed is a number above 0, up to {LONGEST_SECS:.0f}.")
    return (Look.INCREASE if given[0] == "increase_secs" else Look.MEAN), seconds


def _hysteresis(where: str, table: Table, sense: str, threshold: float) -> float:
    if "clear" not in table:
        return 0.0
    clear = _number(where, "clear", table["clear"])
    distance = threshold - clear if sense == "above" else clear - threshold
    if sense == "absent" or distance < 0:
        other = {"above": "at most the number of above", "below": "at least the number of below"}.get(sense, "no clear")
        raise SettingsError(f"{where} has clear {clear:g}; allowed is {other}.")
    return distance


def _where(where: str, table: Table, kind: EntityKind) -> dict[str, str]:
    """Give the patterns that labels must match."""
    given = table.get("labels", {})
    if not isinstance(given, dict):
        raise SettingsError(f"{where} has the labels {given!r}; allowed is a table of patterns by label.")
    patterns = given | ({"gpu_name": table["gpu_name"]} if "gpu_name" in table else {})
    known = [label.name for label in kind.labels]
    for label in patterns:
        if label not in known:
            raise SettingsError(
                f"{where} looks at the label {label!r}; its metric has {', '.join(known) or 'no labels'}."
            )
    return {label: _pattern(where, label, pattern) for label, pattern in patterns.items()}


def _message(where: str, table: Table, kind: EntityKind, metric: str) -> str:
    """Give what is said; its words in braces are tried, so that they cannot fail when it matters."""
    labels = {label.name: "x" for label in kind.labels}
    about = ", ".join(f"{name} {{{name}}}" for name in labels if name not in ("gpu_name", "gpu_uuid"))
    default = f"{metric.replace('{', '{{').replace('}', '}}')}{f' ({about})' if about else ''}"
    message = _text(where, "message", table.get("message", default))
    try:
        message.format(**labels)
    except (ValueError, KeyError, IndexError, AttributeError):
        raise SettingsError(
            f"{where} has the message {message!r}; allowed in braces are {', '.join(labels) or 'no words'}."
        ) from None
    return message


def _columns(where: str, key: str, metric: object) -> list[tuple[EntityKind, Column]]:
    """Give the kinds and columns that a metric's name stands for."""
    # An alert about alerts would be about itself.
    kinds = [kind for kind in KINDS if kind is not ALERT]
    series = [(kind.series(column), kind, column) for kind in kinds for column in kind.columns]
    found = [(kind, column) for name, kind, column in series if name == metric]
    if found:
        return found
    within = [name for name, _, _ in series if name.startswith(f"{metric}{{")]
    names = [name for name, _, _ in series]
    allowed = f"allowed is one of {', '.join(within)}" if within else "allowed are the names in docs/metrics.md"
    near = "" if within else _near(str(metric), names)
    raise SettingsError(f"{where} has the {key} {metric!r}{near}; {allowed}.")


def _pattern(where: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise SettingsError(f"{where} has the {key} {value!r}; allowed is a regular expression as text.")
    try:
        return re.compile(value).pattern
    except re.error as error:
        raise SettingsError(f"{where} has the {key} {value!r}, which is no regular expression: {error}.") from None


def _number(where: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SettingsError(f"{where} has {key} {value!r}; allowed is a number.")
    return float(value)


def _seconds(where: str, table: Table, key: str) -> float:
    value = _number(where, key, table.get(key, 0))
    if not 0 <= value <= LONGEST_SECS:
        raise SettingsError(f"{where} has {key} {value:g}; allowed is a number from 0 to {LONGEST_SECS:.0f}.")
    return value


def _text(where: str, key: str, value: object) -> str:
    if not isinstance(value, str) or not (value.isprintable() and len(value) <= 1000):
        raise SettingsError(
            f"{where} has the {key} {value!r}, which is no line of text; allowed are up to 1000 characters."
        )
    return value


def _listed(keys: list[str]) -> str:
    return " and ".join(keys) or "no condition"


def _near(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    return "".join(f" (did you mean {match}?)" for match in get_close_matches(name[:100], list(known), 1))
