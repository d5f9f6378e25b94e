"""History is exact: what it says of a bucket is what the rows in it say, wherever they are."""

from __future__ import annotations

import asyncio
import math
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumon.catalog import DAEMON, GPU, HOST, Snapshot
from gpumon.store.archive import run
from gpumon.store.buckets import MOST_POINTS, History, assemble, width_of
from gpumon.store.database import connect
from gpumon.store.history import PIECE_SECONDS, Reader, _pieces, ask, recent
from gpumon.store.job import Job
from gpumon.store.parquet import Place
from gpumon.store.past import answer
from gpumon.store.schema import DAY, HOUR, seconds_of
from gpumon.store.writer import Writer, pack
from tests.store import crash
from tests.store.nodes import START, Node

COLUMNS = ("power", "utilization_gpu", "power_limit_enforced_watts", "energy_integrated_joules_total")
END = START + 2.5 * DAY


@pytest.fixture(scope="module")
def two_days(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Two and a half days, of which the first day and a half are archived: one day whole, the rest by hours."""
    folder = tmp_path_factory.mktemp("node")
    connection = connect(folder / "gpumon.db")
    writer = Writer(connection)
    node = Node(gpus=2, interval=97)
    batch: list[bytes] = []
    for i, snapshot in enumerate(node.snapshots(int(2.5 * DAY / 97))):
        if i == 500:
            node.devices[1].values[GPU.index["power_limit_enforced_watts"]] = 500.0
        if i % 7 == 3:  # a tick at which the power could not be read
            entities = tuple(
                crash.without(entity, "power") if entity.kind is GPU else entity for entity in snapshot.entities
            )
            snapshot = Snapshot(snapshot.time, snapshot.monotonic, snapshot.number, entities)
        batch.append(pack(snapshot))
    for i in range(0, len(batch), 100):
        writer.write(batch[i : i + 100])
    connection.close()
    job = crash.job(folder)
    run(job, now=END)
    return job


def by_hand(
    job: Job, columns: tuple[str, ...], start: float, end: float, width: int
) -> dict[object, tuple[float, ...]]:
    """Work out from every single row: mean, least, greatest by GPU, bucket and column."""
    found: dict[object, list[float]] = {}
    names = ("timestamp", "gpu_id", *columns)
    connection = sqlite3.connect(job.database)
    rows = connection.execute(f"SELECT {', '.join(names)} FROM gpu_readings").fetchall()
    place = Place(job)
    for (path,) in connection.execute("SELECT path FROM archive_files WHERE state = 'live' AND source = 'gpu_metrics'"):
        columns_read = [place.open(path).read().column(name).to_pylist() for name in names]
        columns_read[0] = [
            time.strftime("%Y-%m-%d %H:%M:%S.") + f"{time.microsecond // 1000:03d}" for time in columns_read[0]
        ]
        rows += zip(*columns_read, strict=True)
    connection.close()
    for timestamp, gpu, *values in rows:
        time = seconds_of(timestamp)
        if start // width * width <= time < -(-end // width) * width:
            for name, value in zip(columns, values, strict=True):
                if value is not None:
                    found.setdefault((gpu, time // width * width, name), []).append(value)
    return {key: (sum(values) / len(values), min(values), max(values)) for key, values in found.items()}


def of(history: History) -> dict[object, tuple[float | None, ...]]:
    return {
        (series.labels["gpu_id"], time, name): (bucket.average, bucket.minimum, bucket.maximum)
        for series in history.series
        for name, buckets in series.columns.items()
        for time, bucket in zip(series.times, buckets, strict=True)
        if bucket.minimum is not None
    }


def told(job: Job, columns: tuple[str, ...], start: float, end: float, points: int) -> History:
    """Ask without a child process: the same two functions, in this one."""
    question = ask(GPU, columns, start, end, points=points)
    files, parts = recent(job, question)
    parts += answer(Place(job), files, question)
    return assemble(parts, [label.name for label in GPU.labels], question.columns, question.width)


@pytest.mark.parametrize(
    ("start", "end", "points"),
    [
        (END - HOUR, END, 1000),  # the database alone, row by row
        (END - DAY, END, 300),  # its roll-ups
        (START, START + HOUR, 1000),  # the archive alone, row by row
        (START, START + DAY, 100),  # its roll-ups
        (START, END, 5000),  # both, row by row
        (START, END, 400),  # both, roll-ups and rows where there are none yet
        (START + 1.3 * DAY, END - DAY / 2, 150),
    ],
)
def test_every_bucket_is_what_its_rows_say(two_days: Job, start: float, end: float, points: int) -> None:
    """Mean, least and greatest, with readings missing now and then, a limit that changed and one the GPU lacks."""
    history = told(two_days, COLUMNS, start, end, points)
    expected = by_hand(two_days, COLUMNS, start, end, history.width)
    assert expected
    found = of(history)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key] == pytest.approx(values, rel=1e-12), key


@given(
    start=st.floats(START - DAY, END + DAY),
    seconds=st.floats(1, 4 * DAY),
    points=st.integers(1, MOST_POINTS),
)
@settings(max_examples=15, deadline=None)
def test_any_range_is_exact_and_bounded(two_days: Job, start: float, seconds: float, points: int) -> None:
    """Also ranges with nothing in them, and ones that reach beyond what there is."""
    history = told(two_days, ("power",), start, start + seconds, points)
    assert all(len(series.times) <= max(points, 2) for series in history.series)
    expected = by_hand(two_days, ("power",), start, start + seconds, history.width)
    found = of(history)
    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(expected[key], rel=1e-12) for key in expected)


def test_the_archive_is_read_by_a_child_process(two_days: Job) -> None:
    """The whole way, asked for one GPU."""
    reader = Reader(two_days)
    history = asyncio.run(reader.history(GPU, COLUMNS, START, END, points=400, where={"gpu_id": 1}))
    assert [series.labels["gpu_id"] for series in history.series] == [1]
    whole = {key: values for key, values in of(told(two_days, COLUMNS, START, END, 400)).items() if key[0] == 1}  # type: ignore[index]
    assert of(history) == whole


def test_a_kind_without_labels_has_one_series(two_days: Job) -> None:
    """The host."""
    history = asyncio.run(Reader(two_days).history(HOST, ("load1",), START, END, points=50))
    assert [series.labels for series in history.series] == [{}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": ("powr",)}, "gpu has no powr; it has gpu_id"),
        ({"columns": ()}, "gpu has no nothing"),
        ({"where": {"pod": "x"}}, "gpu has no pod"),
        ({"points": 0}, "points is 0; 1 to 5000"),
        ({"points": 5001}, "points is 5001"),
        ({"end": START}, "the range ends at"),
        ({"kind": DAEMON}, "daemon is not stored; gpu, mig, "),
    ],
)
def test_a_wrong_question_is_refused_in_a_sentence(change: dict[str, object], message: str) -> None:
    """Names what is wrong and what there is."""
    question = {"kind": GPU, "columns": ("power",), "start": START, "end": END} | change
    with pytest.raises(ValueError, match=message):
        ask(**question)  # type: ignore[arg-type]


@given(st.floats(1, 20 * 365 * DAY), st.integers(1, MOST_POINTS))
def test_widths_give_at_most_the_points_asked_for(seconds: float, points: int) -> None:
    """For any range, and never less than a second."""
    width = width_of(0, seconds, points)
    assert width >= 1
    assert math.ceil(seconds / width) + 1 <= max(points, 2)


@given(st.integers(0, 10**9), st.integers(1, 10**6), st.integers(1, 4 * PIECE_SECONDS))
def test_a_long_range_is_asked_for_in_pieces_that_memory_holds(start: int, seconds: int, width: int) -> None:
    """SQLite holds the rows it groups: a week of rows at once took 300 MB of a daemon of 50."""
    pieces = list(_pieces(start, start + seconds, width, PIECE_SECONDS))
    assert [begin for begin, _ in pieces] == [start, *(end for _, end in pieces[:-1])]
    assert pieces[-1][1] == start + seconds
    assert all(0 < end - begin <= PIECE_SECONDS for begin, end in pieces)
    assert width > PIECE_SECONDS or all((end - start) % width == 0 for _, end in pieces[:-1])
