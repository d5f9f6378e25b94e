"""The past by the API: what the store's history says, in the two forms, and nothing without a bound."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.store.nodes import START, labels
from tests.web.api.serving import INTERVAL, NOW, history, serving
from tests.web.serving import Answer, ask

from gpumon.catalog import GPU, HOST
from gpumon.store.history import Reader
from gpumon.store.job import Job
from gpumon.web.api.past import CHART_POINTS, HISTORY_POINTS, MOST_VALUES, STORED, usual
from gpumon.web.api.times import iso

HOUR = 3600.0


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a history."""
    return history(tmp_path_factory.mktemp("data"))


def asked(folder: Path, *paths: str) -> list[Answer]:
    """Ask a server of that history some questions."""

    async def run() -> list[Answer]:
        async with serving(data_dir=folder) as server:
            return [await ask(server.port, path) for path in paths]

    return asyncio.run(run())


def told(folder: Path, path: str) -> Any:
    """Give what a path answers."""
    (answer,) = asked(folder, path)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


def kept_history(folder: Path, start: float, end: float, points: int, gpu: int | None = None) -> Any:
    """Give what the store itself says."""
    reader = Reader(Job(data_dir=str(folder), archive_dir=str(folder / "archive")))
    where = {} if gpu is None else {"gpu_id": gpu}
    return asyncio.run(reader.history(GPU, usual(GPU), start, end, points=points, where=where))  # type: ignore[arg-type]


def test_a_chart_is_what_the_store_says_of_that_gpu(kept: Path) -> None:
    """Its last hour by default, with the readings that people know by name."""
    chart = told(kept, "/api/chart?gpu_id=1")
    stored = kept_history(kept, NOW - HOUR, NOW, CHART_POINTS, gpu=1)
    (series,) = stored.series
    assert chart["gpu_id"] == 1
    assert chart["step_seconds"] == stored.width
    assert chart["times"] == [int(time) for time in series.times]
    assert list(chart["series"]) == ["utilization_gpu", "memory_used", "memory_total", "temperature", "power"]
    for name, line in chart["series"].items():
        for part, values in line.items():
            expected = [getattr(bucket, part) for bucket in series.columns[name]]
            assert values == pytest.approx(expected, rel=1e-11), name


def test_history_is_what_the_store_says_of_all(kept: Path) -> None:
    """By entity and point, with its time."""
    found = told(kept, f"/api/historical?start={iso(START + 600)}&end={iso(START + 1800)}")
    stored = kept_history(kept, START + 600, START + 1800, HISTORY_POINTS)
    assert (found["kind"], found["step_seconds"]) == ("gpu", stored.width)
    assert (found["start"], found["end"]) == (iso(START + 600), iso(START + 1800))
    assert [series["labels"]["gpu_id"] for series in found["series"]] == [0, 1]
    for series, kept_series in zip(found["series"], stored.series, strict=True):
        assert [point["time"] for point in series["points"]] == [iso(time) for time in kept_series.times]
        power = [point["power"]["average"] for point in series["points"]]
        assert power == pytest.approx([bucket.average for bucket in kept_series.columns["power"]], rel=1e-11)


def test_what_was_not_read_is_null_in_a_chart_and_left_out_of_history(kept: Path) -> None:
    """An H100 whose energy the driver counts has no integrated energy."""
    absent = "energy_integrated_joules_total"
    line = told(kept, f"/api/chart?columns={absent},power&hours=0.5")["series"][absent]
    assert set(line["average"]) == {None}
    (series, _) = told(kept, f"/api/historical?columns={absent},power&hours=0.5")["series"]
    assert all(point.keys() == {"time", "power"} for point in series["points"])


def test_no_line_bridges_the_time_in_which_gpumon_did_not_run(tmp_path: Path) -> None:
    """A time without readings comes after the last one before."""
    from tests.store.nodes import Node

    from gpumon.store.database import connect
    from gpumon.store.writer import Writer, pack

    connection = connect(tmp_path / "gpumon.db")
    writer = Writer(connection)
    for start in (START, START + 1800):
        writer.write([pack(snapshot) for snapshot in Node(gpus=1, interval=INTERVAL, start=start).snapshots(30)])
    connection.close()
    chart = told(tmp_path, f"/api/chart?start={iso(START)}&end={iso(NOW)}&points=500&columns=power")
    holes = [i for i, value in enumerate(chart["series"]["power"]["average"]) if value is None]
    assert len(holes) == 1
    assert chart["times"][holes[0]] - chart["times"][holes[0] - 1] == chart["step_seconds"]
    assert chart["times"] == sorted(chart["times"])


@pytest.mark.parametrize("kind", STORED.values(), ids=STORED)
def test_every_stored_kind_has_a_history(kept: Path, kind: Any) -> None:
    """With all of its readings that one question may name, or the usual ones."""
    found = told(kept, f"/api/historical?kind={kind.name}")
    assert [series["labels"] for series in found["series"]] == {
        "gpu": [{name.name: value for name, value in zip(GPU.labels, row, strict=True)} for row in _rows()],
        HOST.name: [{}],
    }.get(kind.name, [])
    assert set(usual(kind)) <= kind.index.keys()


def _rows() -> list[tuple[object, ...]]:
    return [(gpu, *labels(GPU, gpu)[1:]) for gpu in (0, 1)]


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("hours=1&start=2026-11-23T00:00:00Z", "hours and start are both given: allowed is one of them"),
        ("start=2026-11-24T00:00:00Z", "start is 2026-11-24T00:00:00.000Z: allowed is a time before the end"),
        ("end=1970-01-01T00:00:00Z", "start is 1970-01-01T00:00:00.000Z: allowed is a time before the end"),
        ("start=2026-11-23T00:00:00", "allowed is a time with its zone, as in 2026-01-31T12:00:00Z"),
        ("hours=99999", "span 4166.6 days: allowed are 92"),
        ("columns=powr", "columns has powr: allowed for gpu are utilization_gpu, "),
        ("columns=a;b", 'columns is "a;b": allowed is up to 20 names'),
        ("columns=", 'columns is "": allowed is up to 20 names'),
        ("columns=power&points=5001", 'points is "5001": allowed is a whole number from 1 to 5000'),
        ("columns=power,temperature&points=5000", "points is 5000: allowed are 1 to 2500 with 2 columns"),
        ("kind=process", "allowed is one of gpu, mig, "),
        ("kind=host&gpu_id=0", "gpu_id is given: allowed is none for host, which is not of a GPU"),
    ],
)
def test_a_wrong_question_is_refused_in_a_sentence(kept: Path, question: str, sentence: str) -> None:
    """Which parameter, and what is allowed."""
    (answer,) = asked(kept, f"/api/historical?{question}")
    assert answer.status == 400
    assert sentence in json.loads(answer.body)["error"]


def test_a_plus_that_was_not_escaped_is_understood(kept: Path) -> None:
    """In a query it is a blank; many forget that."""
    plain = told(kept, "/api/chart?start=2026-11-23T00:30:00Z&columns=power")
    for start in ("2026-11-23T01:30:00+01:00", "2026-11-23T01:30:00%2B01:00", "2026-11-23T00:30:00-00:00"):
        assert told(kept, f"/api/chart?start={start}&columns=power") == plain


def test_an_answer_stays_below_its_bound(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where more entities were there than anybody thought."""
    monkeypatch.setattr("gpumon.web.api.past.MOST_ANSWER", 500)
    (answer,) = asked(kept, "/api/historical?points=120")
    assert answer.status == 400
    assert "too many entities of gpu" in json.loads(answer.body)["error"]


@pytest.mark.parametrize("count", [1, 2, 20])
def test_as_many_points_as_are_allowed_are_given(kept: Path, count: int) -> None:
    """And no more."""
    columns = list(GPU.index)[:count]
    most = math.floor(MOST_VALUES / count)
    chart = told(kept, f"/api/chart?hours=1.5&columns={','.join(columns)}&points={most}")
    assert len(chart["times"]) <= most
    assert list(chart["series"]) == columns
