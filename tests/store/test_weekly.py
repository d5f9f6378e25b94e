"""A week of a GPU and of a model comes down to the numbers it really had."""

from __future__ import annotations

import random
import sqlite3
from itertools import pairwise
from pathlib import Path

import pytest

from gpumon.catalog import GPU, Entity, Snapshot
from gpumon.catalog.events import EPISODES
from gpumon.catalog.records import Event, LlmSession, ProcessEvent
from gpumon.store.archive import run
from gpumon.store.database import connect
from gpumon.store.job import Job
from gpumon.store.parquet import Place
from gpumon.store.schema import DAY, HOUR
from gpumon.store.weekly import GpuWeek, summarize, week_of
from gpumon.store.writer import Writer, pack, pack_records
from tests.store import crash
from tests.store.nodes import START, labels

STEP = 300
MODELS = (("llama3", 300), ("qwen3", 20))


def gpu(number: int, **readings: float) -> Entity:
    values: list[float | None] = [None] * len(GPU.columns)
    for name, value in readings.items():
        values[GPU.index[name]] = value
    return Entity(GPU, labels(GPU, number), tuple(values))


@pytest.fixture
def week(tmp_path: Path) -> Job:
    """Give a node whose week has one GPU that works an hour a day, throttles a while, and is restarted once."""
    connection = connect(tmp_path / "gpumon.db")
    writer = Writer(connection)
    energy = 1000.0
    waiting: list[bytes] = []
    for second in range(0, 6 * DAY, STEP):
        energy = 0.0 if second == 3 * DAY else energy + 2 * STEP  # the driver was loaded anew
        busy = second % DAY < HOUR
        entity = gpu(
            0,
            energy_driver_joules_total=energy,
            temperature=80.0 if second == 2 * DAY else 50.0,
            memory_used=60e9 if busy else 1e9,
            **dict.fromkeys((episode.column for episode in EPISODES), float(second < 2 * STEP)),
        )
        waiting.append(pack(Snapshot(START + second, 0, 1, (entity,))))
    for i in range(0, len(waiting), 500):
        writer.write(waiting[i : i + 500])
    uuid = labels(GPU, 0)[2]
    records: list[Event | ProcessEvent | LlmSession] = [
        Event(timestamp=START + 5, kind="xid", message="XID 79 on GPU 0", gpu_id=0, gpu_uuid=uuid),
        Event(timestamp=START + 7 * DAY + 5, kind="xid", message="next week's", gpu_id=0, gpu_uuid=uuid),
    ]
    for event, hours, pid, category in (
        ("start", -10, 1, "ml_training"),
        ("end", 5, 1, "ml_training"),
        ("start", 10, 2, "llm_inference"),
        ("start", 11, 3, "llm_inference"),
        ("end", 12, 2, "llm_inference"),
        ("end", 14, 3, "llm_inference"),
        ("start", 20, 5, "unknown"),
        ("change", 22, 5, "gaming"),  # two hours of unknown
        ("end", 23, 5, "gaming"),
        ("start", 161, 4, "gaming"),
    ):
        records.append(
            ProcessEvent(timestamp=START + hours * HOUR, event=event, pid=pid, category=category, gpu_uuid=uuid)
        )
    chance = random.Random(1)
    for model, count in MODELS:
        records += [
            LlmSession(
                started_at=START + chance.uniform(0, 7 * DAY),
                model=model,
                prompt_tokens=10,
                completion_tokens=20,
                total_tokens=30,
                time_to_first_token_ms=float(i + 1),
            )
            for i in range(count)
        ]
    writer.write([pack_records(records)])
    connection.close()
    return crash.job(tmp_path, retention_days=3.0)


def summaries(job: Job) -> dict[str, dict[str, object]]:
    connection = sqlite3.connect(job.database)
    cursor = connection.execute("SELECT * FROM weekly_summaries")
    names = [column[0] for column in cursor.description]
    rows = {row[3]: dict(zip(names, row, strict=True)) for row in cursor}
    connection.close()
    return rows


def test_a_week_is_summed_up_when_it_is_over(week: Job) -> None:
    """From the archive and the database together; then it is left alone."""
    run(week, now=START + 5 * DAY)  # in the middle of it: some of it is archived, none of it summed up
    assert summaries(week).keys() == set()
    report = run(week, now=START + 7 * DAY + 60)
    assert report.summaries == 3
    found = summaries(week)
    row = found[labels(GPU, 0)[2]]
    assert (row["week_start"], row["week_end"]) == ("2026-11-23 00:00:00.000", "2026-11-30 00:00:00.000")
    assert row["energy_joules"] == 2 * STEP * (6 * DAY / STEP - 2)
    assert row["peak_temperature_celsius"] == 80
    assert row["peak_memory_bytes"] == 60e9
    assert row["throttled_hours"] == pytest.approx(2 * STEP / 3600)
    assert row["hours_observed"] == pytest.approx((6 * DAY - STEP) / 3600)
    assert row["xid_errors"] == 1
    assert row["busy_hours"] is None
    hours = {name: row[f"hours_{name}"] for name in ("ml_training", "llm_inference", "gaming", "unknown")}
    assert hours == {"ml_training": 5.0, "llm_inference": 4.0, "gaming": 8.0, "unknown": 2.0}
    assert run(week, now=START + 7 * DAY + 7200).summaries == 0


def test_models_have_their_sessions_tokens_and_waits(week: Job) -> None:
    """Median and 95th percentile are waits that occurred."""
    run(week, now=START + 7 * DAY + 60)
    for model, count in MODELS:
        row = summaries(week)[model]
        assert (row["sessions"], row["total_tokens"]) == (count, 30 * count)
        assert row["median_time_to_first_token_ms"] == count / 2
        assert row["p95_time_to_first_token_ms"] == count * 0.95


def test_a_summary_can_be_made_again_from_the_archive_alone(week: Job) -> None:
    """When all of the week is in Parquet."""
    run(week, now=START + 7 * DAY + 60)
    before = summaries(week)
    run(week, now=START + 30 * DAY)
    connection = connect(week.database)
    assert connection.execute("SELECT count(*) FROM gpu_metrics").fetchone() == (0,)
    connection.execute("DELETE FROM weekly_summaries")
    summarize(connection, Place(week), START)
    connection.close()
    assert summaries(week) == before


def test_weeks_begin_on_monday() -> None:
    """START is one."""
    for offset in (0, 1, 3 * DAY, 7 * DAY - 1):
        assert week_of(START + offset) == START
    assert week_of(START - 1) == START - 7 * DAY


def test_time_that_was_not_observed_is_not_counted() -> None:
    """A gap of an hour, as of a restart, is no hour of throttling."""
    one = GpuWeek()
    for earlier, later in pairwise((0, 10, 20, 3620, 3630)):
        one.add(earlier, [(None,), (None,), (None,), (None,), (1.0,)])
        assert later > earlier
    assert one.observed == 20
    assert one.columns[4].total == 20
