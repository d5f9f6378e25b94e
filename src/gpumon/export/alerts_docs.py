"""What docs/alerts.md says: prose, and a row of its table per alert of the catalogue."""

# ruff: noqa: E501 - prose has one sentence a line, here as in the file it becomes

from __future__ import annotations

import re
from collections.abc import Mapping

from gpumon.catalog.alert import Alert, Look, Measure, Setting, Threshold
from gpumon.catalog.model import EntityKind

PROSE = """# Alerts

gpumon looks at every snapshot for what is wrong, and says so where you ask it to: in its log, by a webhook, to Alertmanager, on the desktop.
It needs no Prometheus for that; where you have one, `gpumon_alert_active` is there as well, and rules of its own can be written over all readings.

## What an alert is

An alert is a condition over the readings of one thing: a GPU, a link, a fan, a model server, gpumon itself.
It begins when the condition has held *for* so long, without a break.
It ends when the value has been on the other side of the threshold, by the *hysteresis* where there is one, for the time given under *ends after*.
So a value that swings around its threshold is one alert and not many.

A reading that is not known changes nothing for a minute: a gap is neither a fault nor its end.
After that minute an alert ends with the words "not known any more", because nobody can say that it is still true; that a GPU does not answer is an alert of its own.

An increase is what a counter grew within the last so many seconds, so such an alert ends that long after the last growth.
What a device counted before gpumon started is no news, and a counter that begins anew is none either.
A mean is over the last so many seconds.

Of the severities, `critical` is what costs work now, `warning` what will or may, and `info` what is good to know: `gpu_memory` is `info` because a model server fills a GPU on purpose.

After a restart gpumon knows nothing of before: an alert whose condition still holds begins anew. In the history its first beginning gets an end at the last readings before, which says that its true end is not known (`"end_known": false`).

## Where it is told

| where | what |
|---|---|
| `/metrics` | `gpumon_alert_active` is 1 while an alert is active; while it is not, there is no series, so that a query for what is active is just that. `gpumon_alert_value`, `_threshold` and `_start_timestamp_seconds` have the same labels. `gpumon_alerts_firing` counts them by severity and is there, as 0, when there are none: its absence means that alerts are switched off. |
| history | events of kind `alert_start` and `alert_end`, with the message, the GPU, the alert's name as `subject`, and value, threshold and duration in `detail` |
| log | a warning when it begins, a line of level info when it ends; `alerts.log = false` keeps them out |
| webhook | `alerts.webhook_url` |
| Alertmanager | `alerts.alertmanager_urls` |
| desktop | `alerts.enable_desktop_notifications` |

### Webhook

Beginnings and ends are posted as JSON in the form in which Alertmanager calls webhooks (version 4), so that what receives those receives these; what belongs together is one message.
`annotations.description` has the sentence with the numbers, `annotations.advice` what to do.
`alerts.webhook_headers` adds headers, `alerts.webhook_bearer_token_file` a token that is read anew each time.

### Alertmanager

Every active alert is sent when it begins and again every `alerts.resend_secs`, to every address of `alerts.alertmanager_urls`, by API version 2.
It carries the time at which it ends by itself, four of these intervals later, so that a gpumon that is gone leaves nothing behind.
Its end is sent when it ends.
`alertname` is the alert's name; the labels are those of the thing it is about, `severity`, and `host`: the node's name where Kubernetes gives it (`kubernetes.node_name`, `NODE_NAME`), else the host's; `cluster` as well where `CLUSTER_NAME` is set.

A user and password in a URL are sent as basic auth.
With https, certificates are checked against the system's authorities, or those in the file that the variable `SSL_CERT_FILE` names.
Redirects are not followed and proxies not used.

### Desktop

A notification by D-Bus, on the desktop of the user who runs gpumon: as that user's own service, not as root's.
Without a session bus gpumon says so once and goes on trying.

### When nobody takes it

A message that is not taken is tried again after 1 s, 2 s, 4 s and so on up to a minute, a little different on each node, or after what the server asks for with `Retry-After`.
It is given up after an hour, when it is refused for what it is (HTTP 400, 413, 422), or when 1000 others wait; a message under way when gpumon ends may be sent twice.
None of this holds up readings.
`gpumon_alert_delivery_success`, `_sent_total`, `_failures_total`, `_dropped_total` and `_waiting` tell how it goes, by `target` and `address`.

## Thresholds and alerts of your own

`alerts.temp_threshold_celsius` and `alerts.memory_threshold_percent` are for all GPUs.
For some models, any threshold of a GPU's alert can be another; the first table whose pattern is found in the GPU's name, in any case, counts:

```toml
[[alerts.models]]
gpu_name = "RTX 4090"
gpu_temperature = 88
gpu_memory = 97
```

`alerts.disabled = "gpu_memory, gpu_pcie_width"` switches alerts off.

An alert of your own names a metric of [metrics.md](metrics.md), with the label that is its own in braces, as in `gpumon_gpu_clock_hertz{clock=sm}`:

```toml
[[alerts.rules]]
name = "gpu_idle"
metric = "gpumon_gpu_utilization_percent"
below = 5
mean_secs = 600
gpu_name = "H100"
message = "GPU {gpu_id} has had nothing to do"

[[alerts.rules]]
name = "gpus_missing"
metric = "gpumon_gpu_count"
below = 8
for_secs = 60
severity = "critical"
message = "A GPU is missing on this node"
```

| key | meaning |
|---|---|
| `name` | lower-case letters, digits and `_` |
| `metric` | what to look at; not histograms |
| `of` | look at the metric as a percentage of this one, of the same thing |
| `above`, `below`, `absent` | one of them: a number, or `absent = true` for things that had the metric, within the last day, and do not have it now |
| `increase_secs`, `mean_secs` | look at the increase, or the mean, over so many seconds |
| `clear` | the number back at which it ends; without it, the threshold |
| `for_secs`, `clear_secs` | how long the condition must have held, and must have been over; 0 by default |
| `gpu_name` | pattern for the GPU's name |
| `labels` | table of patterns by label, as in `labels = { category = "gaming" }`; patterns are regular expressions that may be found anywhere and in any case |
| `severity` | `critical`, `warning` (the default) or `info` |
| `message` | what is said, before the numbers; labels in braces are filled in |
| `advice` | what to do |

To see an alert arrive, set one that always holds: `metric = "gpumon_gpu_count"` with `below = 1000`.

At most 1000 conditions are followed at a time; more are counted by `gpumon_alerts_left_out_total`.

While readings are stale `/metrics` has none of them, so `sampling_stale` is told everywhere but there, where `gpumon_up` is 0.
That gpumon itself is gone, or hangs as a whole, it cannot tell: that is for `/healthz`, and for a Prometheus that alerts on `up` and `gpumon_up`.

## Every alert

What to do about each is in [runbooks.md](runbooks.md), under its name.
"The last so many seconds" is written in brackets.
"""

HEAD = ("alert", "severity", "begins when", "for", "ends after", "what it says", "advice")


def row(alert: Alert) -> tuple[str, ...]:
    """Give an alert's cells."""
    return (
        f"`{alert.name}`",
        alert.severity,
        _condition(alert),
        _seconds(alert.for_seconds),
        _end(alert),
        re.sub(
            r"({\w+):[^}]*}", r"\1}", f"{alert.summary}: {alert.numbers}"
        ),  # how numbers are rounded is of no interest
        alert.advice,
    )


def _condition(alert: Alert) -> str:
    measured = ", else ".join(_measure(alert.kind, measure) for measure in alert.measures)
    match alert.look:
        case Look.INCREASE:
            measured = f"increase of {measured} [{_seconds(alert.window_seconds)}]"
        case Look.MEAN:
            measured = f"mean of {measured} [{_seconds(alert.window_seconds)}]"
        case Look.FALL:
            measured = f"{measured} below its highest by"
    sense, threshold = ("above", alert.above) if alert.above is not None else ("below", alert.below)
    assert threshold is not None
    sense = "more than" if alert.look is Look.FALL else sense
    whole = f"{measured} {sense} {_threshold(threshold)}"
    if alert.together:
        whole = f"sum of all: {whole}"
    return whole + _patterns("with", alert.where) + _patterns("but for", alert.unless) + _guard(alert)


def _guard(alert: Alert) -> str:
    guard = alert.guard
    if guard is None:
        return ""
    column = guard.kind.columns[guard.kind.index[guard.column]]
    series = f"`{guard.kind.series(column)}`"
    return f", while {series} of the same GPU is above {guard.above:g}{_patterns('but for', guard.unless)}"


def _patterns(word: str, patterns: Mapping[str, str]) -> str:
    return "".join(f", {word} `{label}` {pattern.strip('^()$')}" for label, pattern in patterns.items())


def _measure(kind: EntityKind, measure: Measure) -> str:
    def names(columns: tuple[str, ...], sign: str) -> str:
        return sign.join(f"`{kind.series(kind.columns[kind.index[column]])}`" for column in columns)

    text = names(measure.columns, " + ")
    if measure.less:
        text += f" − {names(measure.less, ' − ')}"
    return text if measure.of is None else f"{text} as % of {names((measure.of,), '')}"


def _threshold(threshold: Threshold) -> str:
    if not isinstance(threshold, Setting):
        return f"{threshold:g}"
    return f"`{threshold.name}`" if threshold.factor == 1 else f"{threshold.factor:g} × `{threshold.name}`"


def _end(alert: Alert) -> str:
    inside = f"{alert.hysteresis:g} inside" if alert.hysteresis else ""
    return ", ".join(filter(None, (inside, _seconds(alert.clear_seconds))))


def _seconds(seconds: float) -> str:
    return f"{seconds:g} s" if seconds else ""
