"""What happened, by the API: newest first, page by page, from the database and from the archive."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.store.nodes import START
from tests.web.api.serving import history, records, serving
from tests.web.serving import ask

from gpumon.catalog import GPU
from gpumon.catalog.records import Event
from gpumon.store.archive import run as archive
from gpumon.store.history import Reader
from gpumon.store.job import Job
from gpumon.store.records import Page, Records
from gpumon.store.schema import DAY, HOUR, text_of
from gpumon.web.api.times import iso


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a history."""
    return history(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of the same history, of which the older half is in the archive."""
    folder = history(tmp_path_factory.mktemp("data"))
    job = Job(data_dir=str(folder), archive_dir=str(folder / "archive"), retention_days=1.0)
    archive(job, now=START + 2500 + DAY + HOUR)
    return folder


def told(folder: Path, *paths: str) -> list[Any]:
    """Give what paths answer."""

    async def run() -> list[Any]:
        async with serving(data_dir=folder) as server:
            answers = [await ask(server.port, path) for path in paths]
            assert [answer.status for answer in answers] == [200] * len(paths), answers
            return [json.loads(answer.body) for answer in answers]

    return asyncio.run(run())


def test_events_are_told_newest_first_with_facts_and_advice(kept: Path) -> None:
    """Details as an object, the advice beside them, nothing for what is not known."""
    (found,) = told(kept, "/api/events")
    assert [event["message"] for event in found["events"]] == [f"event {i}" for i in reversed(range(10))]
    newest, second = found["events"][:2]
    assert newest["time"] == "2026-11-23T01:15:00.000Z"
    assert (newest["detail"], newest["advice"]) == ({"xid": "79"}, "Restart the node.")
    assert second.keys() == {"id", "time", "kind", "message", "gpu_id"}
    assert "next" not in found


@pytest.mark.parametrize(
    ("path", "name", "count"),
    [
        ("/api/events?kind=xid", "events", 5),
        ("/api/events?gpu_id=1", "events", 3),
        ("/api/events?hours=0.5", "events", 2),
        ("/api/events?start=2026-11-23T00:00:00Z&end=2026-11-23T00:10:00Z", "events", 2),
        ("/api/llm-sessions?model=qwen3", "sessions", 5),
        ("/api/llm-sessions?start_date=2026-11-23&end_date=2026-11-23", "sessions", 10),
        ("/api/llm-sessions?start_date=2026-11-20&end_date=2026-11-22", "sessions", 0),
        ("/api/process-events?pid=104", "events", 1),
        ("/api/process-events?category=gaming", "events", 0),
        ("/api/summaries", "summaries", 1),
        ("/api/summaries?end_date=2026-11-15", "summaries", 0),
    ],
)
def test_what_is_asked_for_is_given(kept: Path, path: str, name: str, count: int) -> None:
    """By kind, GPU, time, model, process."""
    (found,) = told(kept, path)
    assert len(found[name]) == count


@pytest.mark.parametrize(
    ("path", "name"), [("/api/events", "events"), ("/api/process-events", "events"), ("/api/llm-sessions", "sessions")]
)
@pytest.mark.parametrize("limit", [1, 3, 10])
def test_pages_follow_one_another_without_gap_or_repetition(kept: Path, path: str, name: str, limit: int) -> None:
    """By `next`, until there is none."""

    assert _paged(kept, path, name, limit) == _times()


def test_pages_go_on_into_the_archive(archived: Path) -> None:
    """Whether a row was moved there or not does not show."""
    connection = sqlite3.connect(archived / "gpumon.db")
    left = connection.execute("SELECT count(*) FROM process_events").fetchone()[0]
    connection.close()
    assert 0 < left < 10
    assert _paged(archived, "/api/process-events", "events", 6) == _times()


def test_readings_and_records_share_one_child(archived: Path) -> None:
    """Each takes more memory than the daemon, in the same container: two beside the archive's pass its limit."""
    job = Job(data_dir=str(archived), archive_dir=str(archived / "archive"))
    page = Page(source="process_events", start=text_of(START), end=text_of(START + DAY), limit=100, where={})

    async def run() -> None:
        child = asyncio.Semaphore(0)  # one that is at work
        asking = [
            asyncio.create_task(Records(job, child).page(page)),
            asyncio.create_task(Reader(job, child).history(GPU, ["power"], START, START + HOUR)),
        ]
        async with asyncio.timeout(20):
            while len(child._waiters or ()) < len(asking):
                await asyncio.sleep(0.01)
        assert not any(each.done() for each in asking)
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    asyncio.run(run())


def _paged(folder: Path, path: str, name: str, limit: int) -> list[str]:
    """Give the times of all rows, asked for page by page."""

    async def run() -> list[str]:
        found: list[str] = []
        more = ""
        async with serving(data_dir=folder) as server:
            while True:
                page = json.loads((await ask(server.port, f"{path}?limit={limit}{more}")).body)
                found += [row["time"] for row in page[name]]
                if "next" not in page:
                    return found
                more = f"&before={page['next']}"

    return asyncio.run(run())


def _times() -> list[str]:
    """Give the times of the records of a kind, newest first."""
    return [iso(each.timestamp) for each in reversed(list(records())) if isinstance(each, Event)]


def test_a_summary_is_told_with_what_is_known_of_the_week(kept: Path) -> None:
    """Its columns, times as everywhere."""
    (found,) = told(kept, "/api/summaries")
    assert found["summaries"] == [
        {
            "week_start": "2026-11-16T00:00:00.000Z",
            "week_end": "2026-11-23T00:00:00.000Z",
            "subject": "gpu",
            "name": "GPU-0",
            "gpu_id": 0,
            "busy_hours": 31.5,
        }
    ]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/api/events?limit=0", 'limit is "0": allowed is a whole number from 1 to 1000'),
        (
            "/api/events?before=yesterday",
            'before is "yesterday": allowed is what an answer before this one has in next',
        ),
        ("/api/events?before=2026-11-01T00:00:00Z", "before lies before the start: allowed is a time in the span"),
        ("/api/llm-sessions?start_date=2026-11-32", 'start_date is "2026-11-32": allowed is a day, as in 2026-01-31'),
        ("/api/llm-sessions?start_date=2026-01-01", "days: allowed are 92"),
    ],
)
def test_a_wrong_question_is_refused_in_a_sentence(kept: Path, path: str, sentence: str) -> None:
    """Which parameter, and what is allowed."""

    async def run() -> Any:
        async with serving(data_dir=kept) as server:
            answer = await ask(server.port, path)
            assert answer.status == 400
            return json.loads(answer.body)["error"]

    assert sentence in asyncio.run(run())
