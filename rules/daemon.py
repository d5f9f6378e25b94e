"""Alerts of gpumon itself: whether it runs, keeps up, keeps history and sends what it should."""

from __future__ import annotations

from rules.model import Alert, Example, Group

# A disk that is full within so long is looked at on the next working day.
DAYS_AHEAD = 3

DAEMON = Group(
    "gpumon-itself",
    (
        Alert(
            name="gpumon_down",
            severity="critical",
            # `up` is Prometheus's own; which targets are gpumon is known by what they gave before.
            expr="up == 0 and on (job, instance) max_over_time(<daemon.up>[1d])",
            lasts="5m",
            summary="gpumon on {instance} cannot be scraped",
            description="{instance} was scraped within the last day and cannot be now: "
            "gpumon or its node is down, or the network is.",
            why="A restart takes seconds, a node that is booted anew some minutes. A day, so that a target that is gone "
            "for good does not fire for ever.",
            example=Example(
                series={
                    "up": (1, 0, 1),
                    "<daemon.up>": (1, None, 1),
                    'up{job="other",instance="other:9100"}': 0,
                },
            ),
        ),
        Alert(
            name="gpumon_restarting",
            severity="warning",
            expr="changes(<daemon.start_time_seconds>[30m]) > 2",
            summary="gpumon on {instance} starts again and again",
            description="gpumon was started {value} times anew in the last half hour.",
            why="An update is one, a mistake in the settings put right a second; the third is a loop.",
            example=Example(
                series={"<daemon.start_time_seconds>": (1000, "+60", 5000)},
                value="20",
                steps=(10, 20, 40),
            ),
        ),
        Alert(
            name="sampling_stale",
            severity="critical",
            expr="<daemon.up> == 0",
            lasts="1m",
            summary="gpumon on {instance} has no fresh readings",
            description="gpumon answers, but has taken no snapshot for three ticks; readings are withheld meanwhile.",
            why="gpumon says so itself after three ticks. A minute more leaves out a machine that stood still for a moment.",
            example=Example(series={"<daemon.up>": (1, 0, 1)}),
        ),
        Alert(
            name="sampling_late",
            severity="warning",
            expr="rate(<daemon.late_ticks_total>[10m]) "
            "/ (rate(<daemon.ticks_total>[10m]) + rate(<daemon.late_ticks_total>[10m])) > 0.1",
            lasts="10m",
            summary="gpumon on {instance} cannot keep up with its interval",
            description="{value} of the ticks of the last ten minutes were left out.",
            shown="humanizePercentage",
            why="Integrals stay right, so a tick now and then is no loss; one in ten for ten minutes is a machine without CPU time.",
            example=Example(
                series={
                    "<daemon.ticks_total>": ("+30", "+20", "+30"),
                    "<daemon.late_ticks_total>": ("+0", "+5", "+0"),
                },
                value="20%",
                steps=(15, 30, 20),
            ),
        ),
        Alert(
            name="source_failing",
            severity="warning",
            expr='<source.success source!="gpu"> == 0 '
            'or <source.success source="gpu"> == 0 unless on (job, instance) <gpu_health.up> == 0',
            lasts="10m",
            summary="The source {source} of gpumon on {instance} cannot take its readings",
            description="The readings of {source} have been missing, or some of them, for ten minutes.",
            why="Ten minutes: sources try again by themselves. GPUs that are down have alerts of their own.",
            example=Example(
                series={
                    '<source.success source="process">': (1, 0, 1),
                    '<source.success source="gpu">': 0,
                    "<gpu_health.up>": 0,
                },
                labels={"source": "process"},
            ),
            more=(
                Example(
                    series={'<source.success source="gpu">': (1, 0, 1), "<gpu_health.up>": 1}, labels={"source": "gpu"}
                ),
            ),
        ),
        Alert(
            name="source_slow",
            severity="warning",
            expr="avg_over_time(<source.duration_seconds>[10m]) > 1",
            lasts="10m",
            summary="The source {source} of gpumon on {instance} is slow",
            description="Reading {source} takes {value} at each tick. The driver is often slow before it hangs.",
            shown="humanizeDuration",
            why="All sources together take some milliseconds; a second is half of a tick.",
            example=Example(
                series={
                    '<source.duration_seconds source="gpu">': (0.01, 1.5, 0.01),
                    '<source.duration_seconds source="host">': 0.001,
                },
                labels={"source": "gpu"},
                value="1.5s",
                steps=(10, 30, 20),
            ),
        ),
        Alert(
            name="driver_calls_failing",
            severity="warning",
            expr="rate(<nvml_errors.nvml_errors_total>[10m]) > 0.1",
            lasts="10m",
            summary="Driver calls of gpumon on {instance} fail ({function})",
            description="{function} answers {code} {value} times a second, and not because the device lacks the reading.",
            shown='printf "%.1f"',
            why="A call that fails at each tick of 2 s does so 0.5 times a second and device; a fifth of that for ten "
            "minutes is no accident.",
            example=Example(
                series={
                    '<nvml_errors.nvml_errors_total function="nvmlDeviceGetMemoryInfo",code="UNKNOWN">': (
                        "+0",
                        "+30",
                        "+0",
                    ),
                    '<nvml_errors.nvml_errors_total function="nvmlDeviceGetPowerUsage",code="UNKNOWN">': 3,
                },
                labels={"function": "nvmlDeviceGetMemoryInfo", "code": "UNKNOWN"},
                value="0.5",
                steps=(10, 30, 20),
            ),
        ),
        Alert(
            name="storage_failing",
            severity="critical",
            expr="<storage.up> == 0",
            lasts="5m",
            summary="gpumon on {instance} cannot write its history",
            description="The database has taken nothing for five minutes; ticks are kept in memory, which holds them for "
            "some minutes more.",
            why="Memory bridges a restart of a volume or a backup that locks it; after five minutes somebody has to look.",
            example=Example(series={"<storage.up>": (1, 0, 1)}),
        ),
        Alert(
            name="storage_dropping",
            severity="critical",
            expr="sum without (table) (increase(<storage_table.dropped_rows_total>[10m])) > 0",
            summary="History of gpumon on {instance} is being lost",
            description="{value} rows of the last ten minutes could not be written for longer than memory holds.",
            why="They are lost for good, so nothing is waited for.",
            example=Example(
                series={
                    '<storage_table.dropped_rows_total table="gpu_metrics">': ("+0", "+8", "+0"),
                    '<storage_table.dropped_rows_total table="host_metrics">': ("+0", "+1", "+0"),
                },
                value="90",
            ),
        ),
        Alert(
            name="storage_disk_filling",
            severity="warning",
            expr="<storage.volume_free_bytes> / <storage.volume_size_bytes> < 0.1 "
            f"or predict_linear(<storage.volume_free_bytes>[6h], {DAYS_AHEAD} * 86400) < 0 "
            "and <storage.volume_free_bytes> / <storage.volume_size_bytes> < 0.3",
            lasts="1h",
            summary="The volume of gpumon's history on {instance} fills up",
            description="Less than a tenth of the volume of service.data_dir is free, or less than a third and at the pace "
            "of the last six hours it is full within three days.",
            why="A tenth is a day or more at any pace gpumon has. Three days reach over a weekend; a third, because other "
            "programs write in bursts. An hour leaves out files that come and go.",
            example=Example(
                series={
                    "<storage.volume_free_bytes>": (50e9, 5e9, 50e9),
                    "<storage.volume_size_bytes>": 100e9,
                },
                steps=(10, 20, 20),
                step_minutes=5,
            ),
            more=(
                Example(
                    series={
                        "<storage.volume_free_bytes>": (29e9, "-0.05e9", 29e9),
                        "<storage.volume_size_bytes>": 100e9,
                        '<storage.volume_free_bytes instance="big">': (80e9, "-0.05e9", 80e9),
                        '<storage.volume_size_bytes instance="big">': 100e9,
                    },
                    steps=(80, 60, 80),
                    step_minutes=5,
                ),
            ),
        ),
        Alert(
            name="archive_failing",
            severity="warning",
            expr="<archive.success> == 0",
            lasts="2h",
            summary="gpumon on {instance} cannot move old history to its archive",
            description="The last runs failed; until one succeeds, the database grows.",
            why="It runs every hour: two in a row are no accident, and nothing is lost until the disk is full.",
            example=Example(
                series={"<archive.success>": (1, 0, 1)},
                steps=(10, 40, 20),
                step_minutes=5,
            ),
        ),
        Alert(
            name="export_failing",
            severity="warning",
            expr="<export.success> == 0",
            lasts="10m",
            summary="gpumon on {instance} cannot send {exporter}",
            description="Nothing of {exporter} has been accepted for ten minutes.",
            why="A collector is restarted within a minute or two; gpumon tries again by itself, with pauses that grow to a minute.",
            example=Example(
                series={'<export.success exporter="otlp">': (1, 0, 1), '<export.success exporter="otlp_traces">': 1},
                labels={"exporter": "otlp"},
            ),
        ),
        Alert(
            name="export_dropping",
            severity="warning",
            expr="increase(<export.dropped_total>[10m]) > 0 unless <export.success> == 0",
            lasts="10m",
            summary="A collector does not take all that gpumon on {instance} sends ({exporter})",
            description="{value} points or spans of the last ten minutes were not taken, although sending works.",
            why="While sending fails, export_failing says so. Ten minutes and ten more leave out the points given up meanwhile.",
            example=Example(
                series={
                    '<export.dropped_total exporter="otlp">': ("+0", "+6", "+0"),
                    '<export.success exporter="otlp">': 1,
                    '<export.dropped_total exporter="otlp_traces">': ("+6", "+6", "+6"),
                    '<export.success exporter="otlp_traces">': 0,
                },
                labels={"exporter": "otlp"},
                value="60",
                steps=(15, 30, 30),
            ),
        ),
        Alert(
            name="alert_delivery_failing",
            severity="warning",
            expr="<alert_delivery.success> == 0",
            lasts="10m",
            summary="gpumon on {instance} cannot send the alerts that it raises itself",
            description="Nothing has been accepted by the {target} {address} for ten minutes.",
            why="An Alertmanager is restarted within a minute or two, and gpumon tries again by itself.",
            example=Example(
                series={
                    '<alert_delivery.success target="webhook",address="ops:8080">': (1, 0, 1),
                    '<alert_delivery.success target="desktop",address="">': 1,
                },
                labels={"target": "webhook", "address": "ops:8080"},
            ),
        ),
        Alert(
            name="gpumon_memory",
            severity="warning",
            expr="<process.process_resident_memory_bytes> > 128 * 1024 * 1024 and on (job, instance) <daemon.up>",
            lasts="30m",
            summary="gpumon on {instance} takes more memory than it should",
            description="{value}B of gpumon are resident.",
            shown="humanize1024",
            why="It is built to take 50 MB, 70 with everything that needs gRPC. Nearly twice that, for half an hour, is a fault.",
            example=Example(
                series={
                    "<process.process_resident_memory_bytes>": (50 * 2**20, 256 * 2**20, 50 * 2**20),
                    "<daemon.up>": 1,
                    'process_resident_memory_bytes{job="other",instance="other:9100"}': 2**30,
                },
                value="256Mi",
                steps=(10, 40, 20),
            ),
        ),
        Alert(
            name="gpumon_cpu",
            severity="warning",
            expr="rate(<process.process_cpu_seconds_total>[10m]) > 0.05 and on (job, instance) <daemon.up>",
            lasts="30m",
            summary="gpumon on {instance} takes more CPU time than it should",
            description="gpumon has taken {value} of a core for half an hour.",
            shown="humanizePercentage",
            why="It is built to take half a percent with everything on; ten times that is a fault, or an interval that is too short.",
            example=Example(
                series={
                    "<process.process_cpu_seconds_total>": ("+0.3", "+6", "+0.3"),
                    "<daemon.up>": 1,
                },
                value="10%",
                steps=(15, 50, 20),
            ),
        ),
    ),
)
