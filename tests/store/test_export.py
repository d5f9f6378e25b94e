"""An export has every row of its range once, in the form asked for."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gpumon.store.archive import run
from gpumon.store.export import FORMATS, export
from gpumon.store.job import Job
from gpumon.store.schema import DAY, HOUR, TABLES, seconds_of
from tests.store import crash
from tests.store.nodes import START


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Give four days, of which two are archived, one of them by hours."""
    folder = tmp_path_factory.mktemp("node")
    crash.fill(folder, ticks=96, interval=3601)
    the_job = crash.job(folder)
    run(the_job, now=START + 3.5 * DAY)
    return the_job


def expected(job: Job, source: str, start: float, end: float) -> list[dict[str, object]]:
    names = ("table", *TABLES[source].names())
    rows = [dict(zip(names, row, strict=True)) for row in crash.rows_everywhere(job) if row[0] == source]
    time = TABLES[source].time
    within = [row for row in rows if start <= seconds_of(str(row[time])) < end]
    return sorted(({k: v for k, v in row.items() if k != "table" and v is not None} for row in within), key=str)


def parsed(form: str, content: bytes, source: str) -> list[dict[str, object]]:
    table = TABLES[source]
    if form == "jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
    elif form == "csv":
        kinds = {column.name: column.arrow for column in table.columns}
        read = {"int64": int, "float64": float, "string": str}
        rows = [
            {name: read[kinds.get(name, "string")](text) for name, text in row.items() if text != ""}
            for row in csv.DictReader(io.StringIO(content.decode()))
        ]
    else:
        names = ("table", *table.names())
        rows = [
            {name: value for name, value in dict(zip(names, row, strict=True)).items() if name != "table"}
            for row in crash.rows_of(pq.ParquetFile(io.BytesIO(content)).read(), source)
        ]
    return sorted(({k: v for k, v in row.items() if v is not None} for row in rows), key=str)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("source", ["gpu_metrics", "host_metrics", "events"])
@pytest.mark.parametrize("days", [(0, 9), (0.5, 2.2), (3, 3.3), (8, 9)])
def test_every_row_of_the_range_comes_once(job: Job, form: str, source: str, days: tuple[float, float]) -> None:
    """Whole, cut at both ends, only from the database, and nothing at all."""
    start, end = START + days[0] * DAY + HOUR / 2, START + days[1] * DAY + HOUR / 2
    stream = io.BytesIO()
    steps: list[tuple[int, int]] = []
    count = export(job, source, start, end, form, stream, lambda done, total: steps.append((done, total)))
    wanted = expected(job, source, start, end)
    found = parsed(form, stream.getvalue(), source)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(_as(form, wanted, source)))
    assert count == len(wanted)
    assert all(done <= total for done, total in steps)
    assert not steps or steps[-1][0] == count


def _as(form: str, rows: list[dict[str, object]], source: str) -> list[dict[str, object]]:
    whole = {column.name for column in TABLES[source].columns if column.arrow == "int64"}
    made = [{k: int(v) if k in whole else v for k, v in row.items()} for row in rows]  # type: ignore[call-overload]
    return sorted(made, key=str)


@pytest.mark.parametrize(
    ("source", "form", "message"),
    [
        ("gpus", "csv", "there is no table gpus; there are gpu_metrics"),
        ("events", "xml", "no format xml; there are csv"),
    ],
)
def test_a_wrong_table_or_format_is_named(job: Job, source: str, form: str, message: str) -> None:
    """With what there is."""
    with pytest.raises(ValueError, match=message):
        export(job, source, START, START + DAY, form, io.BytesIO())


def test_exporting_does_not_need_the_directory_to_be_writable(job: Job, tmp_path: Path) -> None:
    """It only reads."""
    stream = io.BytesIO()
    assert export(job, "events", START, START + DAY, "csv", stream) > 0
    assert not list(tmp_path.iterdir())
