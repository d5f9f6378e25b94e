"""Every tick is one transaction whose rows can be queried as promised."""

from __future__ import annotations

import sqlite3
from dataclasses import fields
from pathlib import Path

import pytest

from gpumon.catalog import GPU, HOST, KINDS, MIG, WORKLOAD, Entity, Snapshot
from gpumon.catalog.records import RECORDS, Event, LlmSession, ProcessEvent
from gpumon.store.database import connect
from gpumon.store.schema import KEPT, KIND_TABLES, SPAN, TABLES, seconds_of, text_of
from gpumon.store.writer import Packer, Writer, count, pack, pack_records
from tests.store.nodes import GIB, START, Node, labels, mig_entity


@pytest.fixture
def database(tmp_path: Path) -> sqlite3.Connection:
    return connect(tmp_path / "gpumon.db")


def kept(entity: Entity) -> dict[str, float | None]:
    """Give an entity's readings as finely as the store keeps them."""
    return {
        column.name: value if value is None or column.reading.unit not in KEPT else KEPT[column.reading.unit](value)
        for column, value in zip(entity.kind.columns, entity.values, strict=True)
    }


def rows(database: sqlite3.Connection, query: str) -> list[dict[str, object]]:
    cursor = database.execute(query)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def test_every_reading_and_label_of_every_stored_kind_comes_back(database: sqlite3.Connection) -> None:
    """Sweeps the catalogue: each kind with a table, each column with its own value."""
    entities = []
    for table in KIND_TABLES:
        names = tuple("3" if label.integer else f"a {label.name}" for label in table.kind.labels)
        entities.append(Entity(table.kind, names, tuple(float(i + 2) for i in range(len(table.kind.columns)))))
    Writer(database).write([pack(Snapshot(START, 0, 1, tuple(entities)))])
    for entity, table in zip(entities, KIND_TABLES, strict=True):
        (row,) = rows(database, f"SELECT * FROM {table.view}")
        assert row.pop("timestamp") == "2026-11-23 00:00:00.000"
        texts = [
            int(name) if label.integer else name for label, name in zip(table.kind.labels, entity.labels, strict=True)
        ]
        assert row == dict(zip(table.labels, texts, strict=True)) | kept(entity)


def test_a_reading_that_could_not_be_made_is_null(database: sqlite3.Connection) -> None:
    """Absent is absent, and so is what is no number."""
    nothing: list[float | None] = [None] * len(GPU.columns)
    nothing[GPU.index["power"]] = float("nan")
    nothing[GPU.index["memory_used"]] = float("inf")
    Writer(database).write([pack(Snapshot(START, 0, 1, (Entity(GPU, labels(GPU, 0), tuple(nothing)),)))])
    (row,) = rows(database, "SELECT * FROM gpu_readings")
    assert {name for name, value in row.items() if value is not None} == {"timestamp", "gpu_id", "gpu_name", "gpu_uuid"}


def test_the_contracted_columns_are_plain_values_in_every_row(database: sqlite3.Connection) -> None:
    """People's queries name gpu_metrics and these columns; none of them may move to the states."""
    node = Node(gpus=2)
    snapshots = list(node.snapshots(100))
    Writer(database).write([pack(snapshot) for snapshot in snapshots])
    wanted = ["utilization_gpu", "memory_used", "memory_total", "temperature", "power"]
    stored = database.execute(
        f"SELECT timestamp, gpu_id, {', '.join(wanted)} FROM gpu_metrics ORDER BY 1, 2"
    ).fetchall()
    assert stored == [
        (text_of(snapshot.time), int(entity.label("gpu_id")), *(kept(entity)[name] for name in wanted))
        for snapshot in snapshots
        for entity in snapshot.of(GPU)
    ]


def test_the_contracted_columns_of_records_exist() -> None:
    """As DESIGN 4.4 lists them."""
    assert {
        "model", "total_tokens", "tokens_per_second", "time_to_first_token_ms", "prompt_tokens", "completion_tokens",
        "time_per_output_token_ms", "started_at",
    } <= set(TABLES["llm_sessions"].names())  # fmt: skip
    assert {"timestamp", "pid", "category", "gpu_memory_mb"} <= set(TABLES["process_events"].names())


def test_records_come_back(database: sqlite3.Connection) -> None:
    """Each record class, with and without what may be absent."""
    sparse = (
        Event(timestamp=START, kind="xid", message="XID 79 on GPU 0"),
        ProcessEvent(timestamp=START + 0.25, event="start", pid=4711, category="llm_inference"),
        LlmSession(started_at=START + 0.5, model="llama3"),
    )
    full = []
    for record in RECORDS:
        values = {field.name: "text" for field in fields(record)} | {record.time: START + 60}
        numbers = {
            name: 7 for name in values if TABLES[record.table].names().index(name) and _sql(record, name) != "TEXT"
        }
        full.append(record(**(values | numbers | {record.time: START + 60})))
    Writer(database).write([pack_records(sparse), pack_records(full)])
    for record in (*sparse, *full):
        expected = tuple(
            text_of(getattr(record, field.name)) if field.name == record.time else getattr(record, field.name)
            for field in fields(record)
        )
        names = ", ".join(field.name for field in fields(record))
        assert expected in database.execute(f"SELECT {names} FROM {record.table}").fetchall()


def _sql(record: type, name: str) -> str:
    return next((column.sql for column in TABLES[record.table].columns if column.name == name), "TEXT")


def test_labels_and_slow_readings_take_a_row_only_when_they_change(database: sqlite3.Connection) -> None:
    """A thousand ticks name one state; a changed limit makes a second, from that tick on."""
    node = Node(gpus=1)
    writer = Writer(database)
    writer.write([pack(snapshot) for snapshot in node.snapshots(1000)])
    assert database.execute("SELECT count(*) FROM gpu_states").fetchone() == (1,)
    node.devices[0].values[GPU.index["power_limit_enforced_watts"]] = 500.0
    writer.write([pack(snapshot) for snapshot in node.snapshots(10)])
    limits = "SELECT power_limit_enforced_watts, count(*) FROM gpu_readings GROUP BY 1"
    assert database.execute(limits).fetchall() == [(500.0, 10), (700.0, 1000)]


def test_a_state_is_kept_as_long_as_rows_may_name_it(database: sqlite3.Connection) -> None:
    """Its `until` is never earlier than a row that names it."""
    Writer(database).write([pack(snapshot) for snapshot in Node(gpus=2, interval=300).snapshots(100)])
    late = "SELECT count(*) FROM gpu_metrics AS m JOIN gpu_states USING (state) WHERE m.timestamp >= until"
    assert database.execute(late).fetchone() == (0,)


def test_each_span_is_rolled_up_exactly_when_it_is_over(database: sqlite3.Connection) -> None:
    """The roll-up of a span equals the aggregates over its rows; the open span has none."""
    writer = Writer(database)
    for snapshot in Node(gpus=2, interval=7).snapshots(200):
        writer.write([pack(snapshot)])
    spans = f"unixepoch(timestamp) / {SPAN}"
    by_hand = database.execute(
        f"SELECT {spans}, gpu_id, count(*), avg(power), min(power), max(power) FROM gpu_metrics GROUP BY 1, 2"
    ).fetchall()
    rolled = database.execute(
        f"SELECT {spans}, gpu_id, samples, power, power_min, power_max FROM gpu_metrics_2m ORDER BY 1, 2"
    ).fetchall()
    assert rolled == by_hand[:-2]
    (last,) = database.execute("SELECT start FROM open_spans WHERE source = 'gpu_metrics'").fetchone()
    assert seconds_of(last) // SPAN == by_hand[-1][0]


def test_a_row_that_comes_late_is_rolled_up_with_its_span(database: sqlite3.Connection) -> None:
    """The clock was set back: the span is summed up anew when it is left again."""
    writer = Writer(database)
    node = Node(gpus=1, interval=10)
    writer.write([pack(snapshot) for snapshot in node.snapshots(30)])
    node.time = START + 65.0
    writer.write([pack(snapshot) for snapshot in node.snapshots(1)])
    node.time = START + 600
    writer.write([pack(snapshot) for snapshot in node.snapshots(1)])
    first = database.execute("SELECT samples FROM gpu_metrics_2m ORDER BY timestamp").fetchone()
    assert first == (12,)
    assert database.execute("SELECT sum(samples) FROM gpu_metrics_2m").fetchone() == (31,)


def test_two_ticks_of_one_moment_are_both_kept(database: sqlite3.Connection) -> None:
    """The clock was set back to the very millisecond of an earlier tick."""
    snapshot = Node(gpus=2).tick()
    writer = Writer(database)
    for _ in range(3):
        writer.write([pack(snapshot)])
    times = [row[0] for row in database.execute("SELECT timestamp FROM gpu_metrics WHERE gpu_id = 1 ORDER BY 1")]
    first = seconds_of(times[0])
    assert [round((seconds_of(time) - first) * 1000) for time in times] == [0, 1, 2]


def test_a_tick_is_written_whole_or_not_at_all(database: sqlite3.Connection) -> None:
    """A failure in the middle of a transaction leaves nothing of it."""
    writer = Writer(database)
    good = Node(gpus=2).tick()
    database.execute(
        "CREATE TRIGGER full BEFORE INSERT ON host_metrics BEGIN SELECT raise(ABORT, 'database or disk is full'); END"
    )
    with pytest.raises(sqlite3.Error):
        writer.write([pack(good)])
    assert database.execute("SELECT count(*) FROM gpu_metrics").fetchone() == (0,)
    assert database.execute("SELECT count(*) FROM open_spans").fetchone() == (0,)


def test_mig_devices_are_told_apart(database: sqlite3.Connection) -> None:
    """Seven instances of one GPU are seven rows with their own labels."""
    values = tuple(0.5 for _ in MIG.columns)
    entities = tuple(mig_entity(0, instance, values) for instance in range(7))
    Writer(database).write([pack(Snapshot(START, 0, 1, entities))])
    stored = database.execute("SELECT gpu_instance_id, mig_uuid FROM mig_readings ORDER BY 1").fetchall()
    assert stored == [(instance, f"MIG-0000-{instance:04x}") for instance in range(7)]


def test_kinds_without_a_table_are_not_stored(database: sqlite3.Connection) -> None:
    """Health and identity are served, not remembered."""
    others = tuple(
        Entity(kind, ("",) * len(kind.labels), (1.0,) * len(kind.columns)) for kind in KINDS if kind.table is None
    )
    assert Writer(database).write([pack(Snapshot(START, 0, 1, others))]) == {}


RECENT = """
SELECT timestamp, gpu_id, utilization_gpu, memory_used / memory_total, temperature, power
FROM gpu_metrics WHERE timestamp > datetime('now', '-1 hour') ORDER BY timestamp DESC
"""
SESSIONS = """
SELECT model, count(*), sum(total_tokens), avg(tokens_per_second), avg(time_to_first_token_ms)
FROM llm_sessions GROUP BY model ORDER BY sum(total_tokens) DESC
"""
CATEGORIES = """
SELECT category, count(DISTINCT pid), avg(gpu_memory_mb)
FROM process_events WHERE timestamp > datetime('now', '-1 day') GROUP BY category ORDER BY category
"""


def test_the_queries_of_the_readme_are_these() -> None:
    """What people copy from there is what is tested here."""
    readme = Path(__file__).parents[2].joinpath("README.md").read_text()
    for query in (RECENT, SESSIONS, CATEGORIES):
        assert query.strip() + ";" in readme


def test_recent_gpu_metrics_are_found_by_their_index(database: sqlite3.Connection) -> None:
    """The README's first query: the rows of the last hour, and only those are read."""
    now = seconds_of(database.execute("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')").fetchone()[0])
    node = Node(gpus=1, interval=600, start=now - 7190)
    Writer(database).write([pack(snapshot) for snapshot in node.snapshots(11)])
    assert len(database.execute(RECENT).fetchall()) == 6
    plan = " ".join(row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {RECENT}"))
    assert "SEARCH gpu_metrics USING PRIMARY KEY (timestamp>?)" in plan
    assert "TEMP B-TREE" not in plan


def test_llm_sessions_per_model_can_be_asked_for(database: sqlite3.Connection) -> None:
    """The README's second query."""
    sessions = [
        LlmSession(
            started_at=START + i, model=model, total_tokens=tokens, tokens_per_second=50.0, time_to_first_token_ms=80.0
        )
        for i, (model, tokens) in enumerate((("llama3", 100), ("llama3", 300), ("qwen3", 900)))
    ]
    Writer(database).write([pack_records(sessions)])
    assert database.execute(SESSIONS).fetchall() == [("qwen3", 1, 900, 50.0, 80.0), ("llama3", 2, 400, 50.0, 80.0)]


def test_process_categories_of_the_last_day_can_be_asked_for(database: sqlite3.Connection) -> None:
    """The README's third query."""
    now = seconds_of(database.execute("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')").fetchone()[0])
    events = [
        ProcessEvent(timestamp=now - age, event="start", pid=pid, category=category, gpu_memory_mb=memory)
        for age, pid, category, memory in (
            (60, 1, "gaming", 100.0),
            (50, 2, "llm_inference", 2000.0),
            (40, 2, "llm_inference", 4000.0),
            (100_000, 3, "ml_training", 1.0),
        )
    ]
    Writer(database).write([pack_records(events)])
    assert database.execute(CATEGORIES).fetchall() == [("gaming", 1, 100.0), ("llm_inference", 1, 3000.0)]
    plan = " ".join(row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {CATEGORIES}"))
    assert "USING INDEX process_events_by_time (timestamp>?)" in plan


def test_workloads_are_stored_less_often_than_every_tick() -> None:
    """As their kind says; what is stored of a tick is all of them."""
    packer = Packer()
    workload = Entity(WORKLOAD, ("",) * len(WORKLOAD.labels), (0.0,) * len(WORKLOAD.columns))
    ticks = [packer.pack(Snapshot(START + i, i, i, (workload, workload))) for i in range(0, 121, 2)]
    assert [count(packed)["workload_metrics"] for packed in ticks if count(packed)] == [2] * 5


def test_the_host_is_stored(database: sqlite3.Connection) -> None:
    """A kind without labels has its own rows and one state."""
    node = Node(gpus=1)
    Writer(database).write([pack(snapshot) for snapshot in node.snapshots(3)])
    stored = database.execute("SELECT memory_total_bytes, cpus FROM host_readings").fetchall()
    assert stored == [(512 * GIB, 96.0)] * 3
    assert HOST.table == "host_metrics"
