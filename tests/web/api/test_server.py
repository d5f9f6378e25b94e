"""What every path of the API keeps: forms of answers, errors, caching, compression."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.snapshots import node
from tests.web.api.serving import filled, serving
from tests.web.serving import Answer, ask, say

from gpumon.catalog import BUILD, GPU, KINDS, NVLINK, Entity, Snapshot
from gpumon.export.exposition import STALE_TICKS
from gpumon.hub import Hub
from gpumon.settings import Service
from gpumon.web.api.endpoints import ENDPOINTS
from gpumon.web.api.server import ApiServer

PATHS = [endpoint.path for endpoint in ENDPOINTS if endpoint.path != "/api/stream"]


def asked(path: str, method: str = "GET", headers: Mapping[str, str] | None = None, **given: Any) -> Answer:
    """Ask a server that is there for this question only."""

    async def run() -> Answer:
        async with serving(**given) as server:
            return await ask(server.port, path, method, headers)

    return asyncio.run(run())


def told(answer: Answer) -> Any:
    """Give the JSON of an answer."""
    assert answer.headers["Content-Type"] == "application/json"
    return json.loads(answer.body)


def test_realtime_has_every_entity_with_what_is_known() -> None:
    """Labels as text, readings as numbers; one that is not known, or that no number can be, is left out."""
    whole = node(gpus=2, links=3)
    first = next(entity for entity in whole.entities if entity.kind is GPU)
    blank = replace(first, values=(None, float("nan"), float("inf"), *first.values[3:]))
    entities = tuple(blank if entity is first else entity for entity in whole.entities)
    answer = told(asked("/api/realtime", hub=filled(replace(whole, entities=entities))))
    assert answer["sequence"] == 1
    assert answer["driver"] == "nvml"
    assert answer["stale"] is False
    assert 0 <= answer["age_seconds"] < 5
    assert {name: len(found) for name, found in answer["entities"].items()} == {
        kind.name: len(whole.of(kind)) for kind in KINDS if whole.of(kind)
    }
    gpu = answer["entities"]["gpu"][0]
    names = [column.name for column in GPU.columns]
    assert not {names[0], names[1], names[2]} & gpu.keys()
    assert gpu["gpu_id"] == "0"
    assert all(gpu[name] == blank[name] for name in names[3:])
    assert len(answer["entities"][NVLINK.name]) == 6


def test_what_readers_get_is_rendered_once() -> None:
    """However many ask, and in both encodings."""

    async def run() -> int:
        async with serving() as server:
            for _ in range(5):
                await ask(server.port, "/api/realtime")
                packed = await ask(server.port, "/api/realtime", headers={"Accept-Encoding": "gzip"})
                assert json.loads(gzip.decompress(packed.body))["stale"] is False
            return server.renders

    assert asyncio.run(run()) == 1


def test_a_stale_snapshot_is_said_to_be_and_gives_health_only() -> None:
    """As /metrics does: no reading of before is shown as one of now."""
    hub = filled()
    assert hub.latest is not None
    late = hub.latest.monotonic + STALE_TICKS * Service().poll_interval_secs + 1
    answer = told(asked("/api/realtime", hub=hub, options={"clock": lambda: late}))
    assert answer["stale"] is True
    assert "gpu" not in answer["entities"]
    assert [entity["up"] for entity in answer["entities"]["daemon"]] == [0]


def test_before_the_first_snapshot_that_is_said() -> None:
    """With when to ask again; /api/info answers all the same."""
    answer = asked("/api/realtime", hub=Hub())
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert told(answer) == {"error": "there are no readings yet: the first come with the first tick"}
    info = told(asked("/api/info", hub=Hub()))
    assert (info["driver"], info["gpus"]) == ("none", [])


def test_info_names_every_gpu_and_what_it_is() -> None:
    """As the snapshot has them, and since when this gpumon runs."""
    info = told(asked("/api/info"))
    assert info["started"] == "2026-11-23T00:00:00.000Z"
    assert info["time"] == "2026-11-23T01:30:00.000Z"
    assert [(gpu["gpu_id"], gpu["up"]) for gpu in info["gpus"]] == [(0, True), (1, True)]
    assert info["gpus"][0]["driver_version"]
    assert info["storage"] is False


@pytest.mark.parametrize(
    "path", ["/api/historical", "/api/chart", "/api/events", "/api/llm-sessions", "/api/summaries"]
)
def test_without_storage_the_past_is_said_not_to_be_kept(path: str) -> None:
    """One clear answer, whatever is asked about the past; the page knows it from /api/info beforehand."""
    answer = asked(path)
    assert answer.status == 503
    assert told(answer)["error"].startswith("storage.enabled is false")


def test_with_storage_on_and_no_database_yet_that_is_said(tmp_path: Any) -> None:
    """A disk that was full from the start."""
    answer = asked("/api/chart", data_dir=tmp_path)
    assert answer.status == 503
    assert told(answer)["error"].startswith("history cannot be read: ")


@pytest.mark.parametrize(
    ("path", "method", "status", "sentence"),
    [
        ("/api/none", "GET", 404, "there is nothing at /api/none: see /api/openapi.json"),
        ("/api/info/", "GET", 404, "there is nothing at /api/info/: see /api/openapi.json"),
        ("/api/%2e%2e/etc/passwd", "GET", 404, "there is nothing at /api/../etc/passwd: see /api/openapi.json"),
        ("/api/info", "POST", 405, "/api/info takes GET and HEAD"),
        ("/api/info", "DELETE", 405, "/api/info takes GET and HEAD"),
        ("/api/info?a=1", "GET", 400, '"a" is no parameter: none is allowed here'),
        ("/api/chart?hours=1&hours=2", "GET", 400, "hours is given twice: allowed is once"),
        ("/api/chart?hours=0", "GET", 400, 'hours is "0": allowed is a number from 0.01 to 100000'),
        ("/api/chart?hours=nan", "GET", 400, 'hours is "nan": allowed is a number from 0.01 to 100000'),
        ("/api/chart?gpu_id=x%0A", "GET", 400, 'gpu_id is "x?": allowed is a whole number from 0 to 255'),
    ],
)
def test_errors_are_json_with_one_sentence(path: str, method: str, status: int, sentence: str) -> None:
    """Which parameter, and what is allowed; or where to look."""
    answer = asked(path, method)
    assert answer.status == status
    assert told(answer) == {"error": sentence}


def test_what_is_no_http_is_answered_in_json_as_well() -> None:
    """And does not tell what serves it."""

    async def run() -> bytes:
        async with serving() as server:
            return await say(server.port, b"nonsense\r\n\r\n")

    answer = asyncio.run(run())
    assert answer.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
    assert b'{"error": "this is no HTTP request' in answer
    assert b"aiohttp" not in answer


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_the_body(path: str) -> None:
    """For every path."""

    async def run() -> tuple[Answer, Answer]:
        async with serving(options={"processes": lambda: ()}) as server:
            return await ask(server.port, path), await ask(server.port, path, "HEAD")

    whole, head = asyncio.run(run())
    assert (head.status, head.body) == (whole.status, b"")
    assert head.headers["Content-Type"] == whole.headers["Content-Type"]


def test_who_has_the_answer_already_is_told_so() -> None:
    """By the ETag, in either encoding, until the next snapshot."""

    async def run() -> None:
        hub = filled()
        async with serving(hub) as server:
            for path in ("/api/realtime", "/api/openapi.json"):
                tag = (await ask(server.port, path)).headers["ETag"]
                packed = await ask(server.port, path, headers={"Accept-Encoding": "gzip"})
                assert (packed.headers["ETag"], packed.headers["Content-Encoding"]) == (tag, "gzip")
                again = await ask(server.port, path, headers={"If-None-Match": f'"x", {tag}'})
                assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
            tag = (await ask(server.port, "/api/realtime")).headers["ETag"]
            assert hub.latest is not None
            hub.publish(replace(hub.latest, number=2))
            assert (await ask(server.port, "/api/realtime", headers={"If-None-Match": tag})).status == 200

    asyncio.run(run())


def test_answers_tell_neither_versions_nor_types_to_guess() -> None:
    """Of a page, of JSON and of an error."""
    for path in ("/api/info", "/api/none", "/"):
        headers = asked(path).headers
        assert headers["Server"] == "gpumon"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_no_label_of_a_kind_has_the_name_of_a_reading() -> None:
    """Both stand side by side in one object."""
    for kind in KINDS:
        names = [label.name for label in kind.labels]
        names += [*kind.index, *(reading.name for reading in kind.histograms)]
        assert len(names) == len(set(names)), kind


def test_driver_is_none_until_one_is_there() -> None:
    """A snapshot without the daemon's own word."""
    bare = Snapshot(1.0, 0.0, 1, ())
    assert told(asked("/api/realtime", hub=filled(bare)))["driver"] == "none"
    known = Snapshot(1.0, 0.0, 1, (Entity(BUILD, ("1", "3", "", "simulated"), (1,)),))
    assert told(asked("/api/realtime", hub=filled(known)))["driver"] == "simulated"


def test_every_path_of_the_document_is_answered() -> None:
    """The table of paths and the server's functions belong together."""
    assert {*ApiServer.answered(), "/api/stream"} == {endpoint.path for endpoint in ENDPOINTS}
