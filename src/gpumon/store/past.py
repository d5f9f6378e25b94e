"""History from the archive; a child process: `python -m gpumon.store.past < request`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpumon.store.buckets import ARCHIVE_SPAN, Part, Sums
from gpumon.store.history import Question, TooMuchError, check_size
from gpumon.store.job import Job
from gpumon.store.parquet import Place
from gpumon.store.rollup import rollup_name
from gpumon.store.schema import TABLES


def answer(place: Place, files: Sequence[str], question: Question) -> Iterator[Part]:
    """Sum up what the files hold, from their roll-ups where the buckets allow it."""
    for name in files:
        opened = None
        if question.width % ARCHIVE_SPAN == 0:
            try:
                opened = place.open(rollup_name(name))
            except FileNotFoundError:
                pass  # the hours of a day have none yet
        if opened is None:
            yield from _sums(place.open(name), question, rolled=False)
        else:
            yield from _sums(opened, question, rolled=True)


def _sums(file: pq.ParquetFile, question: Question, *, rolled: bool) -> Iterator[Part]:
    table = TABLES[question.source]
    suffixes = ("", "_min", "_max", "_samples") if rolled else ("",)
    wanted = [name + suffix for name in question.columns for suffix in suffixes] + (["samples"] if rolled else [])
    names = [name for name in (table.time, *table.key, *wanted) if name in file.schema_arrow.names]
    for group in range(file.num_row_groups):
        if _outside(file, group, question):
            continue
        rows = _matching(file.read_row_group(group, columns=names, use_threads=False), question)
        if rows.num_rows:
            yield from _grouped(rows, question, rolled=rolled)


def _outside(file: pq.ParquetFile, group: int, question: Question) -> bool:
    """Say whether the row group's least and greatest time, or label, rule it out."""
    table = TABLES[question.source]
    limits = {table.time: (question.start, question.end)} | {name: (v, v) for name, v in question.where.items()}
    for name, (least, greatest) in limits.items():
        statistics = file.metadata.row_group(group).column(file.schema_arrow.get_field_index(name)).statistics
        if statistics is None or not statistics.has_min_max:
            continue
        low, high = statistics.min, statistics.max
        if name == table.time:
            low, high = low.timestamp(), high.timestamp()
        if high < least or low > greatest:
            return True
    return False


def _matching(rows: pa.Table, question: Question) -> pa.Table:
    """Give the rows of the question, the time replaced by the number of the bucket."""
    time = rows.column(0).cast(pa.int64())
    keep = pc.and_(
        pc.greater_equal(time, round(question.start * 1000)),
        pc.less(time, round(question.end * 1000)),
    )
    for name, value in question.where.items():
        keep = pc.and_(keep, pc.equal(rows.column(name), value))
    bucket = pc.divide(time, question.width * 1000)
    return rows.set_column(0, "bucket", bucket).filter(keep)


def _grouped(rows: pa.Table, question: Question, *, rolled: bool) -> Iterator[Part]:
    labels = TABLES[question.source].key
    columns = {"bucket": rows.column("bucket")} | {name: rows.column(name) for name in labels}
    aggregates = []
    present = [name for name in question.columns if name in rows.column_names]
    for name in present:
        value = rows.column(name).cast(pa.float64())  # sums of counters of bytes pass 2^63
        if rolled:
            count = pc.coalesce(rows.column(f"{name}_samples"), rows.column("samples"))
            count = pc.if_else(pc.is_valid(value), count, pa.scalar(0, pa.int64()))
            columns |= {f"{name}/sum": pc.multiply(value, count.cast(pa.float64())), f"{name}/count": count}
            columns |= {f"{name}/min": rows.column(f"{name}_min"), f"{name}/max": rows.column(f"{name}_max")}
        else:
            columns |= {f"{name}/sum": value, f"{name}/count": pc.is_valid(value).cast(pa.int64())}
            columns |= {f"{name}/min": value, f"{name}/max": value}
        aggregates += [(f"{name}/sum", "sum"), (f"{name}/count", "sum"), (f"{name}/min", "min"), (f"{name}/max", "max")]
    groups = pa.table(columns).group_by(["bucket", *labels], use_threads=False).aggregate(aggregates).to_pydict()
    nothing: Sums = (None, 0, None, None)
    for i, bucket in enumerate(groups["bucket"]):
        sums = tuple(_sums_of(groups, name, i) if name in present else nothing for name in question.columns)
        yield bucket, tuple(groups[name][i] for name in labels), sums


def _sums_of(groups: dict[str, list[Any]], name: str, row: int) -> Sums:
    total, count = groups[f"{name}/sum_sum"][row], groups[f"{name}/count_sum"][row]
    return total, count or 0, groups[f"{name}/min_min"][row], groups[f"{name}/max_max"][row]


def bounded(parts: Iterable[Part], question: Question) -> list[Part] | None:
    """Give the parts of an answer; None where they are more than is allowed."""
    found: list[Part] = []
    try:
        for part in parts:
            found.append(part)
            check_size(len(found), question)
    except TooMuchError:
        return None
    return found


def main() -> None:
    """Read a request from standard input and write its parts as JSON; null where they are too many."""
    request = json.loads(sys.stdin.read())
    question = Question(**request["question"])
    place = Place(Job.loads(request["job"]))
    sys.stdout.write(json.dumps(bounded(answer(place, request["files"], question), question)))


if __name__ == "__main__":
    main()
