"""Alerts of heat, power and clocks."""

from __future__ import annotations

from rules.device import GPU, SAME_GPU
from rules.model import Alert, Example, Group


def _throttle(
    name: str, severity: str, reason: str, minutes: int, share: float, summary: str, description: str, why: str
) -> Alert:
    """Make an alert of a share of time; in the example the clocks are held down half the time, elsewhere never."""
    series = f'<gpu.throttle_active reason="{reason}">'
    return Alert(
        name=name,
        severity=severity,
        expr=f"avg_over_time({series}[{minutes}m]) > {share}",
        summary=summary,
        description=description,
        shown="humanizePercentage",
        why=why,
        example=Example(
            series={series: (0, 1, 0), series.replace("reason", 'gpu_id="1",reason'): 0},
            labels=GPU | {"reason": reason},
            value="100%",
            steps=(minutes, minutes + 1, minutes + 5),
        ),
    )


HEAT = Group(
    "gpumon-heat-and-power",
    (
        Alert(
            name="gpu_temperature",
            severity="warning",
            expr="<gpu.temperature_celsius> > 85",
            lasts="10m",
            summary="GPU {gpu_id} of {instance} is hot",
            description="GPU {gpu_id} ({gpu_uuid}) has been at {value} °C or thereabouts for ten minutes.",
            why="85 °C: below where any data-centre GPU slows down, above where one works that is cooled as it should be. "
            "Ten minutes, because a peak harms nothing. It is alerts.temp_threshold_celsius of gpumon itself, too.",
            example=Example(
                series={"<gpu.temperature_celsius>": (60, 91, 80), '<gpu.temperature_celsius gpu_id="1">': 85},
                labels=GPU,
                value="91",
            ),
        ),
        Alert(
            name="gpu_temperature_limit",
            severity="critical",
            expr="(<gpu.temperature_margin_celsius> - ignoring (threshold) "
            '<gpu.temperature_margin_threshold_celsius threshold="slowdown">) < 2 '
            'or (<gpu.temperature_threshold_celsius threshold="slowdown"> - ignoring (threshold) '
            "<gpu.temperature_celsius>) < 2",
            lasts="1m",
            summary="GPU {gpu_id} of {instance} is about to be slowed down by its heat",
            description="GPU {gpu_id} ({gpu_uuid}) is {value} °C below its slowdown threshold.",
            why="Sensors tell whole degrees: less than two left is where slowing down begins. A minute leaves out a spike.",
            example=Example(
                series={
                    "<gpu.temperature_margin_celsius>": (30, -1, 30),
                    '<gpu.temperature_margin_threshold_celsius threshold="slowdown">': -2,
                    '<gpu.temperature_threshold_celsius gpu_id="1",threshold="slowdown">': 90,
                    '<gpu.temperature_celsius gpu_id="1">': 88,
                },
                labels=GPU,
                value="1",
            ),
            more=(
                Example(
                    series={
                        '<gpu.temperature_threshold_celsius threshold="slowdown">': 90,
                        "<gpu.temperature_celsius>": (60, 89, 60),
                    },
                    labels=GPU,
                    value="1",
                ),
            ),
        ),
        Alert(
            name="gpu_memory_temperature",
            severity="warning",
            expr='<gpu.temperature_threshold_celsius threshold="memory_max"> - ignoring (threshold) '
            "<gpu.memory_temperature_celsius> < 5",
            lasts="10m",
            summary="The memory of GPU {gpu_id} of {instance} is hot",
            description="The memory of GPU {gpu_id} ({gpu_uuid}) is {value} °C below its limit.",
            why="Memory is slowed down at its limit; five degrees are what a change of load moves it by in ten minutes.",
            example=Example(
                series={
                    '<gpu.temperature_threshold_celsius threshold="memory_max">': 95,
                    "<gpu.memory_temperature_celsius>": (70, 93, 70),
                    '<gpu.temperature_threshold_celsius gpu_id="1",threshold="memory_max">': 95,
                    '<gpu.memory_temperature_celsius gpu_id="1">': 90,
                },
                labels=GPU,
                value="2",
            ),
        ),
        Alert(
            name="gpu_fan_stopped",
            severity="critical",
            expr=f"<fan.fan_speed_percent> == 0 and on {SAME_GPU} <gpu.temperature_celsius> > 70",
            lasts="2m",
            summary="Fan {fan} of GPU {gpu_id} of {instance} stands still although the GPU is hot",
            description="Fan {fan} of GPU {gpu_id} ({gpu_uuid}) is at {value} % while the GPU is above 70 °C.",
            why="Cards that are silent when idle start their fans at 50 to 60 °C. Two minutes let one speed up.",
            example=Example(
                series={
                    '<fan.fan_speed_percent fan="0">': (60, 0, 60),
                    "<gpu.temperature_celsius>": 80,
                    '<fan.fan_speed_percent gpu_id="1",fan="0">': 0,
                    '<gpu.temperature_celsius gpu_id="1">': 45,
                },
                labels=GPU | {"fan": "0"},
                value="0",
            ),
        ),
        _throttle(
            "gpu_throttle_hw_thermal",
            "critical",
            "hw_thermal",
            5,
            0.1,
            "The hardware slows GPU {gpu_id} of {instance} down because it is too hot",
            "GPU {gpu_id} ({gpu_uuid}) was slowed down by its hardware for {value} of the last five minutes. "
            "Clocks are halved or worse, and the cooling is failing.",
            "It should never happen. A tenth of five minutes leaves out a spike when a load begins.",
        ),
        _throttle(
            "gpu_throttle_sw_thermal",
            "warning",
            "sw_thermal",
            30,
            0.5,
            "The driver slows GPU {gpu_id} of {instance} down because it is too hot",
            "GPU {gpu_id} ({gpu_uuid}) was held at its target temperature for {value} of the last half hour.",
            "The driver does it to stay at the target temperature, which workstations reach under load. "
            "More than half of half an hour is work that could be done faster with better cooling.",
        ),
        _throttle(
            "gpu_throttle_power_brake",
            "critical",
            "hw_power_brake",
            5,
            0.1,
            "A power brake slows GPU {gpu_id} of {instance} down",
            "GPU {gpu_id} ({gpu_uuid}) was held down by an external signal for {value} of the last five minutes: "
            "a power supply has failed, or more is drawn than it gives.",
            "It is no property of any load. A tenth of five minutes leaves out the moment of switching over.",
        ),
        _throttle(
            "gpu_throttle_hw_slowdown",
            "warning",
            "hw_slowdown",
            10,
            0.2,
            "The hardware slows GPU {gpu_id} of {instance} down",
            "GPU {gpu_id} ({gpu_uuid}) was slowed down by its hardware for {value} of the last ten minutes, "
            "by heat, a power brake, or too much power drawn at once.",
            "Drawing too much at once is seen here only, and short: a fifth of ten minutes is no start of a job any more.",
        ),
        Alert(
            name="gpu_memory",
            severity="info",
            expr="<gpu.memory_used_bytes> / <gpu.memory_total_bytes> > 0.95",
            lasts="30m",
            summary="The memory of GPU {gpu_id} of {instance} is nearly full",
            description="{value} of the memory of GPU {gpu_id} ({gpu_uuid}) has been in use for half an hour.",
            shown="humanizePercentage",
            why="Model servers take 90 % on purpose; above 95 % the next allocation of some size fails. "
            "Half an hour, because training runs touch it for a moment in every step.",
            example=Example(
                series={
                    "<gpu.memory_used_bytes>": (40e9, 78e9, 40e9),
                    "<gpu.memory_total_bytes>": 80e9,
                    '<gpu.memory_used_bytes gpu_id="1">': 72e9,
                    '<gpu.memory_total_bytes gpu_id="1">': 80e9,
                },
                labels=GPU,
                value="97.5%",
                steps=(10, 40, 20),
            ),
        ),
    ),
)
