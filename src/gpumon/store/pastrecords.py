"""Records from the archive; a child process: `python -m gpumon.store.pastrecords < request`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from gpumon.store.job import Job
from gpumon.store.parquet import Place, conform, schema_of
from gpumon.store.records import Page, Row, newest
from gpumon.store.schema import TABLES, seconds_of, text_of


def answer(place: Place, files: Sequence[str], page: Page) -> list[Row]:
    """Give the newest rows of the page that the files hold; holds one row group, and twice as many rows as asked for."""
    found: list[Row] = []
    for file in files:
        for rows in _groups(place, file, page):
            found = newest([*found, *rows], page)
    return found


def _groups(place: Place, name: str, page: Page) -> Iterator[list[Row]]:
    table = TABLES[page.source]
    file = place.open(name)
    names = [name for name in table.names() if name in file.schema_arrow.names]
    for group in range(file.num_row_groups):
        rows = conform(file.read_row_group(group, columns=names, use_threads=False), schema_of(table))
        kept = rows.filter(_matching(rows, page)).sort_by([(table.time, "descending"), ("id", "descending")])
        found: list[Row] = kept.slice(0, page.limit).to_pylist()
        for row in found:
            row[table.time] = text_of(row[table.time].timestamp())  # type: ignore[union-attr]
        yield found


def _matching(rows: pa.Table, page: Page) -> pa.ChunkedArray:
    time = rows.column(0).cast(pa.int64())
    keep = pc.and_(pc.greater_equal(time, _milliseconds(page.start)), pc.less(time, _milliseconds(page.end)))
    for name, value in page.where.items():
        keep = pc.and_(keep, pc.equal(rows.column(name), value))
    if page.before is not None:
        moment, number = _milliseconds(page.before[0]), page.before[1]
        same = pc.and_(pc.equal(time, moment), pc.less(rows.column("id"), number))
        keep = pc.and_(keep, pc.or_(pc.less(time, moment), same))
    return keep


def _milliseconds(text: str) -> int:
    return round(seconds_of(text) * 1000)


def main() -> None:
    """Read a request from standard input and write its rows as JSON."""
    request = json.loads(sys.stdin.read())
    page = Page(**request["page"])
    sys.stdout.write(json.dumps(answer(Place(Job.loads(request["job"])), request["files"], page)))


if __name__ == "__main__":
    main()
