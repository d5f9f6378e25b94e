"""Alerts of heat, memory and throttling."""

from __future__ import annotations

from gpumon.catalog.alert import MINUTE, Alert, Guard, Look, Measure, Setting, of
from gpumon.catalog.gpu import FAN, GPU

HEAT_AND_MEMORY = (
    Alert(
        name="gpu_temperature",
        severity="warning",
        kind=GPU,
        measures=of("temperature"),
        above=Setting("alerts.temp_threshold_celsius"),
        hysteresis=5,  # a load that comes and goes moves the die by about this much within a minute
        for_seconds=MINUTE,
        clear_seconds=MINUTE,
        summary="GPU {gpu_id} is hot",
        numbers="{value:.0f} °C, above {threshold:.0f} °C",
        advice="Look at air flow, fans and the intake temperature; the GPU slows itself down if it gets hotter.",
    ),
    Alert(
        name="gpu_temperature_limit",
        severity="critical",
        kind=GPU,
        measures=(
            Measure(("temperature_margin_celsius",), less=("temperature_margin_threshold_slowdown_celsius",)),
            Measure(("temperature_threshold_slowdown_celsius",), less=("temperature",)),
        ),
        below=2,  # sensors tell whole degrees: one more, and it has begun
        hysteresis=3,
        for_seconds=30,
        clear_seconds=MINUTE,
        summary="GPU {gpu_id} is about to be slowed down by its heat",
        numbers="{value:.0f} °C left to its slowdown threshold, below {threshold:.0f} °C",
        advice="Take load off the GPU and look at its cooling now; at its shutdown threshold it turns itself off.",
    ),
    Alert(
        name="gpu_memory_temperature",
        severity="warning",
        kind=GPU,
        measures=(Measure(("temperature_threshold_memory_max_celsius",), less=("memory_temperature_celsius",)),),
        below=2,
        hysteresis=3,
        for_seconds=MINUTE,
        clear_seconds=MINUTE,
        summary="The memory of GPU {gpu_id} is hot",
        numbers="{value:.0f} °C left to its limit, below {threshold:.0f} °C",
        advice="Look at air flow and fans; memory that hot is slowed down and ages faster.",
    ),
    Alert(
        name="gpu_memory",
        severity="info",  # a model server takes 90 % and more on purpose
        kind=GPU,
        measures=of("memory_used", "memory_total"),
        above=Setting("alerts.memory_threshold_percent"),
        hysteresis=2,
        for_seconds=MINUTE,
        clear_seconds=MINUTE,
        summary="The memory of GPU {gpu_id} is nearly full",
        numbers="{value:.1f} % in use, above {threshold:.0f} %",
        advice="Look at which processes hold it (/api/processes); what is started next may run out of memory.",
    ),
    Alert(
        name="gpu_fan_stopped",
        severity="critical",
        kind=FAN,
        measures=of("fan_speed_percent"),
        below=1,
        # Cards that are silent when idle start their fans at 50 to 60 °C.
        guard=Guard(GPU, "temperature", above=70),
        for_seconds=MINUTE,
        clear_seconds=MINUTE,
        summary="Fan {fan} of GPU {gpu_id} stands still although the GPU is hot",
        numbers="fan at {value:.0f} %",
        advice="Look whether a fan curve was set by hand, and whether the fan turns; take load off the GPU until then.",
    ),
)

# A GPU that is held down for less than a tenth of the time loses less than anyone notices.
THROTTLED = 0.1


def _throttle(
    reason: str, severity: str, why: str, advice: str, *, name: str = "", less: tuple[str, ...] = ()
) -> Alert:
    return Alert(
        name=f"gpu_throttle_{name or reason}",
        severity=severity,
        kind=GPU,
        measures=(Measure((f"throttle_active_{reason}",), less=tuple(f"throttle_active_{other}" for other in less)),),
        look=Look.MEAN,
        window_seconds=MINUTE,
        above=THROTTLED,
        hysteresis=THROTTLED / 2,
        clear_seconds=MINUTE,
        summary=f"GPU {{gpu_id}} is slowed down {why}",
        numbers="{value:.0%} of the last minute, above {threshold:.0%}",
        advice=advice,
    )


THROTTLING = (
    _throttle(
        "hw_thermal",
        "critical",
        "by its hardware because it is too hot",
        "Take load off the GPU and look at its cooling; clocks are halved or worse until it is cooler.",
    ),
    _throttle(
        "sw_thermal",
        "warning",
        "by the driver because it is too hot",
        "Look at air flow, fans and the intake temperature; the driver lowers clocks to keep the GPU at its limit.",
    ),
    _throttle(
        "hw_power_brake",
        "critical",
        "by a signal from the power supply",
        "Look at the node's power supplies and the rack's power: one has failed, or more is drawn than they give.",
        name="power_brake",
    ),
    _throttle(
        "hw_slowdown",
        "warning",
        "by its hardware, and neither heat nor the power brake is given as the reason",
        "Look at power cables and connectors: drawing too much at once is what is left.",
        less=("hw_thermal", "hw_power_brake"),
    ),
)
