"""The archive in an object store: a fleet's nodes in one data set, against a real S3-compatible server."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pytest
from moto.server import ThreadedMotoServer

from gpumon.catalog import GPU
from gpumon.store.archive import run
from gpumon.store.export import export
from gpumon.store.history import Reader
from gpumon.store.job import Job
from gpumon.store.schema import DAY
from tests.store import crash
from tests.store.nodes import START


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Start a server with an empty bucket and give its URI."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        uri = f"s3://fleet/history?endpoint_override=http://{host}:{port}&region=us-east-1&allow_bucket_creation=true"
        files, _ = pafs.FileSystem.from_uri(uri)
        files.create_dir("fleet")
        yield uri
        del files
    server.stop()


def node(folder: Path, bucket: str, name: str) -> Job:
    folder.mkdir()
    crash.fill(folder, ticks=6, interval=28802)
    return crash.job(folder, archive_dir=bucket, cluster="lab", node=name)


def test_nodes_archive_into_one_data_set(bucket: str, tmp_path: Path) -> None:
    """Partitioned by cluster, node, table and date; every node's rows once, read as one table."""
    jobs = [node(tmp_path / name, bucket, name) for name in ("node-a", "node-b")]
    before = [crash.rows_in_tables(Path(job.data_dir)) for job in jobs]
    for job in jobs:
        report = run(job, now=crash.LATER)
        assert report.trouble == []
    for job, rows in zip(jobs, before, strict=True):
        assert crash.rows_everywhere(job) == rows
        assert not crash.rows_in_tables(Path(job.data_dir))
    files, root = pafs.FileSystem.from_uri(bucket)
    paths = [info.path for info in files.get_file_info(pafs.FileSelector(root, recursive=True)) if info.is_file]
    assert "fleet/history/cluster=lab/node=node-b/table=gpu_metrics/date=2026-11-23/2026-11-23-0.parquet" in paths
    raw = [path for path in paths if "/table=gpu_metrics/" in path]
    data = ds.dataset(raw, filesystem=files, partitioning=ds.partitioning(flavor="hive"), partition_base_dir=root)
    fleet = data.to_table(columns=["node", "date", "power"])
    assert fleet.num_rows == 2 * 12
    assert set(fleet.column("node").to_pylist()) == {"node-a", "node-b"}
    assert duckdb.connect().execute("SELECT count(DISTINCT node) FROM fleet").fetchone() == (2,)


def test_history_and_export_reach_into_the_object_store(bucket: str, tmp_path: Path) -> None:
    """By the child process, whose credentials are those of the environment."""
    job = node(tmp_path / "node-c", bucket, "node-c")
    run(job, now=crash.LATER)
    history = asyncio.run(Reader(job).history(GPU, ("power",), START, START + 3 * DAY, points=100))
    assert sum(bucket.maximum is not None for series in history.series for bucket in series.columns["power"]) == 12
    stream = io.BytesIO()
    assert export(job, "gpu_metrics", START, START + 3 * DAY, "csv", stream) == 12


def test_kills_lose_and_double_nothing_there_either(bucket: str, tmp_path: Path) -> None:
    """A few, at moments that cover the whole run."""
    folder = tmp_path / "node-d"
    job = node(folder, bucket, "node-d")
    expected = crash.rows_in_tables(folder)
    for part in range(1, 5):
        crash.killed(0.2 * part, crash.archive, job)
        assert crash.rows_everywhere(job) == expected
    run(job, now=crash.LATER)
    assert crash.rows_everywhere(job) == expected
    assert not crash.rows_in_tables(folder)


@pytest.mark.slow  # the client tries again and again
def test_an_object_store_out_of_reach_costs_nothing(tmp_path: Path) -> None:
    """The rows stay where they are, and the run says what is wrong."""
    uri = "s3://key:secret@fleet/history?endpoint_override=http://127.0.0.1:9&region=us-east-1"
    job = node(tmp_path / "node-e", uri, "node-e")
    expected = crash.rows_in_tables(tmp_path / "node-e")
    with pytest.raises(OSError, match="fleet"):
        run(job, now=crash.LATER)
    assert crash.rows_in_tables(tmp_path / "node-e") == expected
