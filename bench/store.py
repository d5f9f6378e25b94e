"""Measures the store: bytes per reading, CPU per tick, the archive's child, queries; prints a table, gives the figures.

    python bench/store.py            about five minutes
    python bench/store.py --quick    about two: fewer archived days

Readings are those of tests/store/nodes.py: GPUs that idle, train and serve in turn, with the digits a driver gives.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]
os.environ["PYTHONPATH"] = str(ROOT / "src")  # for the children

from tests.store.nodes import START, Node  # noqa: E402

from bench.subject import free_port  # noqa: E402
from gpumon.catalog import GPU  # noqa: E402
from gpumon.store.buckets import History  # noqa: E402
from gpumon.store.child import ENVIRONMENT  # noqa: E402
from gpumon.store.database import connect  # noqa: E402
from gpumon.store.history import Reader  # noqa: E402
from gpumon.store.job import Job  # noqa: E402
from gpumon.store.schema import DAY, HOUR, KIND_TABLES, text_of  # noqa: E402
from gpumon.store.writer import Writer, pack  # noqa: E402

GPUS = 8
TICK = 2.0
TICKS_A_DAY = int(DAY / TICK)
WEEK = 7

# name, unit, limit (None: told, not judged)
LIMITS: dict[str, tuple[str, float | None]] = {
    "writer: CPU per tick, 8 GPUs": ("ms", 2.0),
    "service: resident memory more than without": ("MB", 3.0),
    "SQLite: 7 days of one GPU, whole file": ("MB", 100.0),
    "SQLite: bytes per reading": ("B", None),
    "Parquet: a GPU's day, roll-up included": ("MB", 1.0),
    "Parquet: bytes per reading": ("B", 0.5),
    "archive: a day of 8 GPUs, CPU of the child": ("s", 10.0),
    "archive: peak resident memory of the child": ("MB", 200.0),
    "archive: time, at the lowest priority": ("s", None),
    "archive: longest write of a tick meanwhile": ("ms", None),
    "archive: latest tick meanwhile": ("ms", None),
    "query: last hour of one GPU": ("ms", 20.0),
    "query: 7 days of 8 GPUs to 1000 points": ("ms", 300.0),
    "query: archived days of 8 GPUs to 1000 points": ("ms", 2000.0),
}


def fill(folder: Path, gpus: int, ticks: int) -> None:
    """Write ticks in large transactions."""
    connection = connect(folder / "gpumon.db")
    writer = Writer(connection)
    waiting: list[bytes] = []
    for snapshot in Node(gpus=gpus, interval=TICK).snapshots(ticks):
        waiting.append(pack(snapshot))
        if len(waiting) == 1000:
            writer.write(waiting)
            waiting.clear()
    writer.write(waiting)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def repeat_days(folder: Path, days: int) -> None:
    """Copy the one day that a database has to the days after it."""
    connection = sqlite3.connect(folder / "gpumon.db")
    connection.execute("UPDATE gpu_states SET until = '2027-06-01'")
    connection.execute("UPDATE host_states SET until = '2027-06-01'")
    first = text_of(START)[:10]
    for day in range(1, days):
        date = text_of(START + day * DAY)[:10]
        for table in (name for kind in KIND_TABLES for name in (kind.name, kind.rollup)):
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] != "timestamp"]
            connection.execute(
                f"INSERT INTO {table} (timestamp, {', '.join(names)}) SELECT '{date}' || substr(timestamp, 11), "
                f"{', '.join(names)} FROM {table} WHERE timestamp < '{first}~' ORDER BY timestamp, state"
            )
        connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def writing(folder: Path) -> dict[str, float]:
    """Write half an hour tick by tick, as the service does."""
    connection = connect(folder / "gpumon.db")
    writer = Writer(connection)
    snapshots = list(Node(gpus=GPUS, interval=TICK).snapshots(900))
    started = time.process_time()
    for snapshot in snapshots:
        writer.write([pack(snapshot)])
    spent = time.process_time() - started
    connection.close()
    return {"writer: CPU per tick, 8 GPUs": 1000 * spent / len(snapshots)}


def resident(folder: Path, seconds: float) -> dict[str, float]:
    """Compare two services on a simulated node of 8 GPUs, four ticks a second, one of which stores them."""
    kilobytes: dict[str, int] = {}
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for enabled in ("false", "true"):
            data_dir = folder / enabled
            data_dir.mkdir()
            settings = {
                "GPUMON_SERVICE_DATA_DIR": str(data_dir),
                "GPUMON_SERVICE_POLL_INTERVAL_SECS": "0.25",
                "GPUMON_TELEMETRY_METRICS_ADDRESS": "127.0.0.1",
                "GPUMON_TELEMETRY_METRICS_PORT": str(free_port()),
                "GPUMON_STORAGE_ENABLED": enabled,
                "GPUMON_API_ENABLED": "false",
            }
            started[enabled] = subprocess.Popen(
                [sys.executable, "-m", "gpumon", "run", "--simulate", "h100x8"],
                env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | settings,
                stderr=subprocess.DEVNULL,
            )
        time.sleep(seconds)
        for enabled, process in started.items():
            status = Path(f"/proc/{process.pid}/status").read_text()
            kilobytes[enabled] = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    finally:
        for process in started.values():
            process.terminate()
            process.wait()
    return {"service: resident memory more than without": (kilobytes["true"] - kilobytes["false"]) / 1000}


def sizes(folder: Path) -> dict[str, float]:
    """Give the bytes of a week of one GPU, of which one day is made and copied."""
    fill(folder, 1, TICKS_A_DAY - 1)
    repeat_days(folder, WEEK)
    size = (folder / "gpumon.db").stat().st_size
    readings = sum(_readings(folder, kind.view, len(kind.kind.columns)) for kind in KIND_TABLES)
    return {
        "SQLite: 7 days of one GPU, whole file": size / 1e6,
        "SQLite: bytes per reading": size / readings,
    }


def _readings(folder: Path, view: str, columns: int) -> int:
    connection = sqlite3.connect(folder / "gpumon.db")
    (rows,) = connection.execute(f"SELECT count(*) FROM {view.replace('_readings', '_metrics')}").fetchone()
    connection.close()
    return int(rows) * columns


# The image has no numpy, which pyarrow would load.
CHILD = f"""
import sys, time
sys.modules["numpy"] = None
time.time = lambda: {START + 30 * DAY}
from gpumon.store.archive import main
main()
"""


def archiving(folder: Path) -> dict[str, float]:
    """Archive a day of 8 GPUs by the real child while a tick of 0.25 s goes on and is written."""
    fill(folder, GPUS, TICKS_A_DAY - 1)
    job = Job(data_dir=str(folder), archive_dir=str(folder / "archive"), retention_days=1)
    with ticking(job) as late:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        child = subprocess.run(
            [sys.executable, "-c", CHILD],
            input=job.dumps(),
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT / "src")},
        )
        seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(child.stdout)
    if report["trouble"] or not report["rows"].get("gpu_metrics"):
        raise RuntimeError(f"nothing was archived: {report}")
    files = list((folder / "archive").glob("table=gpu_metrics*/*/*.parquet"))
    bytes_ = sum(path.stat().st_size for path in files)
    return {
        "Parquet: a GPU's day, roll-up included": bytes_ / GPUS / 1e6,
        "Parquet: bytes per reading": bytes_ / (report["rows"]["gpu_metrics"] * len(GPU.columns)),
        "archive: a day of 8 GPUs, CPU of the child": after.ru_utime
        + after.ru_stime
        - before.ru_utime
        - before.ru_stime,
        "archive: peak resident memory of the child": after.ru_maxrss / 1000,
        "archive: time, at the lowest priority": seconds,
        "archive: longest write of a tick meanwhile": 1000 * max(late["write"], default=0.0),
        "archive: latest tick meanwhile": 1000 * max(late["tick"], default=0.0),
    }


@contextmanager
def ticking(job: Job) -> Iterator[dict[str, list[float]]]:
    """Have a loop tick every quarter of a second and a store write it, in a thread; gives how late both were."""
    import threading

    from gpumon.store.sink import Store

    late: dict[str, list[float]] = {"tick": [], "write": []}
    over = threading.Event()
    store = Store(job)

    def work() -> None:
        node = Node(gpus=GPUS, interval=0.25, start=START + 30 * DAY)
        due = time.monotonic()
        while not over.is_set():
            late["tick"].append(time.monotonic() - due)
            store.offer(node.tick())
            late["write"].append(next(e["write_duration_seconds"] for e in store.entities()) or 0.0)
            due += 0.25
            over.wait(max(0.0, due - time.monotonic()))

    store.start()
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield late
    finally:
        over.set()
        thread.join()
        store.stop()


async def best(ask: Callable[[], Awaitable[History]], times: int = 5) -> float:
    """Give the least time in milliseconds, on a loop that turns already, as the service's does."""
    took = []
    for _ in range(times):
        started = time.perf_counter()
        await ask()
        took.append(time.perf_counter() - started)
    return 1000 * min(took)


COLUMNS = ("utilization_gpu", "memory_used", "temperature", "power")


def recent_queries(folder: Path) -> dict[str, float]:
    """Ask for the last hour and for the last week of 8 GPUs in SQLite."""
    fill(folder, GPUS, TICKS_A_DAY - 1)
    repeat_days(folder, WEEK)
    end = START + WEEK * DAY

    async def ask() -> dict[str, float]:
        reader = Reader(Job(data_dir=str(folder), archive_dir=str(folder / "archive")))
        hour = await best(lambda: reader.history(GPU, COLUMNS, end - HOUR, end, points=1000, where={"gpu_id": 0}), 10)
        week = await best(lambda: reader.history(GPU, COLUMNS, START, end, points=1000))
        return {"query: last hour of one GPU": hour, "query: 7 days of 8 GPUs to 1000 points": week}

    return asyncio.run(ask())


def old_queries(folder: Path, days: int) -> dict[str, float]:
    """Ask for months in Parquet: one archived day, copied, with its ledger."""
    source = folder / "archive"
    connection = connect(folder / "gpumon.db")
    rows = connection.execute("SELECT * FROM archive_files WHERE source = 'gpu_metrics'").fetchall()
    for day in range(1, days):
        for path, table, date, first, last, count, size, state in rows:
            moved = text_of(START + day * DAY)[:10]
            for name in (path, path.replace("gpu_metrics/", "gpu_metrics_10m/")):
                _shifted(source / name, source / name.replace(date, moved), day)
            listed = (
                path.replace(date, moved),
                table,
                moved,
                moved + first[10:],
                moved + last[10:],
                count,
                size,
                state,
            )
            connection.execute("INSERT OR REPLACE INTO archive_files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", listed)
    connection.close()

    async def ask() -> float:
        reader = Reader(Job(data_dir=str(folder), archive_dir=str(source)))
        history = await reader.history(GPU, COLUMNS, START, START + days * DAY, points=1000)
        if len(history.series) != GPUS or len(history.series[0].times) < min(days * 20, 500):
            raise RuntimeError("the archive was not read")
        return await best(lambda: reader.history(GPU, COLUMNS, START, START + days * DAY, points=1000), 3)

    return {"query: archived days of 8 GPUs to 1000 points": asyncio.run(ask())}


def _shifted(path: Path, target: Path, days: int) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from gpumon.store.parquet import encodings
    from gpumon.store.rollup import rollup_table
    from gpumon.store.schema import TABLES

    target.parent.mkdir(parents=True, exist_ok=True)
    file = pq.ParquetFile(path)
    table = TABLES["gpu_metrics"]
    shape = rollup_table(table) if "_10m" in path.parts[-3] else table
    assert shape is not None
    options = encodings(shape)
    with pq.ParquetWriter(target, file.schema_arrow, compression="zstd", store_schema=False, **options) as writer:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            time_ = pc.add(rows.column(0).cast(pa.int64()), days * DAY * 1000).cast(rows.schema.field(0).type)
            writer.write_table(rows.set_column(0, rows.schema.field(0), time_))


def measure(*, quick: bool = False) -> dict[str, float]:
    """Give all figures by name, in the units of LIMITS."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("writing", "resident", "sizes", "archiving", "week"):
            (folder / part).mkdir()
        figures |= writing(folder / "writing")
        figures |= resident(folder / "resident", 40.0 if quick else 300.0)
        figures |= sizes(folder / "sizes")
        figures |= archiving(folder / "archiving")
        figures |= old_queries(folder / "archiving", 9 if quick else 90)
        figures |= recent_queries(folder / "week")
    return figures


def table_of(figures: dict[str, float]) -> str:
    """Give the figures as text, each with its limit and whether it is kept."""
    lines = []
    for name, (unit, limit) in LIMITS.items():
        value = figures.get(name)
        if value is None:
            continue
        verdict = "" if limit is None else f"  (limit {limit:g} {unit})" + ("" if value <= limit else "  MISSED")
        lines.append(f"{name:52} {value:10.3f} {unit}{verdict}")
    return "\n".join(lines)


def main() -> int:
    """Measure and print; give 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="nine archived days instead of ninety")
    figures = measure(quick=parser.parse_args().quick)
    print(table_of(figures))
    return int(any(limit is not None and figures[name] > limit for name, (_, limit) in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
