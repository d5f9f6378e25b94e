"""Model servers are watched without touching them; one that hangs or answers nonsense costs only itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from gpumon.catalog import (
    LLM_MODEL,
    LLM_MODEL_INFO,
    LLM_MODEL_LOADS,
    LLM_SERVER,
    LLM_SERVER_INFO,
    LLM_TRAFFIC,
    LLM_WAY,
)
from gpumon.llm.discovery import ServerProcess, address
from gpumon.llm.names import ModelNames
from gpumon.llm.request import ModelRequest, Outcome, RequestSource
from gpumon.llm.sessions import Sessions
from gpumon.llm.source import STALE_POLLS, LlmSource
from tests.llm.servers import BLOB, Imitation, ollama, page, resident, serving, slot, vllm
from tests.llm.watched import INTERVAL, Watched, at, run

# What of Ollama may be asked: none of it loads a model or keeps one.
HARMLESS = {"GET /api/version", "GET /api/tags", "GET /api/ps", "GET /metrics", "POST /api/show"}


def test_ollamas_models_are_seen() -> None:
    """Size, share on GPUs, context and expiry of what it holds, and its version."""

    async def work() -> None:
        async with serving(ollama(resident())) as server, Watched(at(server.url, "ollama")) as watched:
            await watched.poll()
            whose = (address(server.url), "ollama")
            (up,) = await watched.of(LLM_SERVER)
            assert (up.labels, up["up"], up["models_loaded"]) == (whose, 1.0, 1.0)
            (info,) = await watched.of(LLM_SERVER_INFO)
            assert info.labels == (*whose, "0.33.2", "settings")
            (model,) = await watched.of(LLM_MODEL)
            assert model.labels == (*whose, "llama3.2")
            assert model.values == (4e9, 3e9, 0.75, 4096.0, pytest.approx(1795501800.123456))
            (facts,) = await watched.of(LLM_MODEL_INFO)
            assert facts.labels == (*whose, "llama3.2", "llama", "3.2B", "Q4_K_M", "d" * 12)
            assert set(server.asked) <= HARMLESS

    run(work)


def test_ollamas_missing_fields_are_absent_or_zero_as_it_means_them() -> None:
    """Go leaves out what is 0; a model that never expires has no expiry."""

    async def work() -> None:
        bare = {"name": "tiny", "size": 10, "expires_at": "2318-01-01T00:00:00Z"}
        async with serving(ollama(bare)) as server, Watched(at(server.url, "ollama")) as watched:
            await watched.poll()
            (model,) = await watched.of(LLM_MODEL)
            assert model.values == (10.0, 0.0, 0.0, None, None)
            for nonsense in ([], {"models": None}, {"models": ["x", {}]}, b"\xff", {"models": [{"name": 5}]}):
                server.answers["/api/ps"] = nonsense
                await watched.poll()
                (up,) = await watched.of(LLM_SERVER)
                assert up["up"] == 1.0

    run(work)


def test_coming_and_going_of_models_is_counted() -> None:
    """What was there at the first look did not come; a new digest under a name is a reload."""

    async def work() -> None:
        async with serving(ollama(resident())) as server, Watched(at(server.url, "ollama")) as watched:

            async def counts() -> dict[str, tuple[float | None, float | None]]:
                await watched.poll()
                return {
                    entity.label("model"): (entity["loads_total"], entity["unloads_total"])
                    for entity in await watched.of(LLM_MODEL_LOADS)
                }

            assert await counts() == {"llama3.2": (0, 0)}
            server.answers["/api/ps"] = {"models": [resident(), resident("qwen3:8b", digest="e")]}
            assert await counts() == {"llama3.2": (0, 0), "qwen3:8b": (1, 0)}
            server.answers["/api/ps"] = {"models": [resident("qwen3:8b", digest="f")]}
            assert await counts() == {"llama3.2": (0, 1), "qwen3:8b": (2, 1)}
            server.answers["/api/ps"] = {"models": []}
            assert await counts() == {"llama3.2": (0, 1), "qwen3:8b": (2, 2)}
            assert await watched.of(LLM_MODEL) == ()

    run(work)


def test_a_runner_with_metrics_counts_for_its_model_and_keeps_its_count_when_it_ends() -> None:
    """Its counters are Ollama's, of the model whose weights it loaded, over all its lives."""

    async def work() -> None:
        async with (
            serving(ollama(resident(), resident("other:7b", digest="o"))) as server,
            serving(Imitation(**{"/metrics": page("llama.cpp-b10488")})) as runner,
            Watched() as watched,
        ):
            one = ServerProcess(pid=10, kind="ollama", ports=(server.port,))
            child = ServerProcess(
                pid=11, kind="llama.cpp", ports=(runner.port,), parent=10, model=f"/models/blobs/sha256-{BLOB}"
            )
            watched.processes(one, child)
            await watched.poll()
            (traffic,) = await watched.of(LLM_TRAFFIC)
            assert traffic.labels == (address(server.url), "ollama", "llama3.2", "runner")
            assert traffic["generated_tokens_total"] == 400
            assert traffic["prompt_tokens_total"] == 1000
            assert traffic["requests_running"] == 1
            watched.processes(one)
            await watched.poll()
            (traffic,) = await watched.of(LLM_TRAFFIC)
            assert traffic["generated_tokens_total"] == 400
            assert traffic["requests_running"] is None
            watched.processes(one, ServerProcess(pid=12, kind="llama.cpp", ports=(runner.port,), model=child.model))
            await watched.poll()
            (traffic,) = await watched.of(LLM_TRAFFIC)
            assert traffic["generated_tokens_total"] == 800
            assert set(server.asked) <= HARMLESS
            # Asked once for each model, not at each poll.
            assert server.asked.count("POST /api/show") == 1

    run(work)


def test_a_runner_without_metrics_is_read_by_its_slots_and_says_so() -> None:
    """501 is switched off, not broken; what slots show is an estimate, and no text of theirs goes anywhere."""

    async def work() -> None:
        slots = [slot(0, task=1, decoded=50, busy=False), slot(1, task=2, decoded=7, busy=True, listed=False)]
        async with (
            serving(ollama(resident())) as server,
            serving(Imitation(**{"/metrics": 501, "/slots": slots})) as runner,
            Watched() as watched,
        ):
            one = ServerProcess(pid=10, kind="ollama", ports=(server.port,))
            watched.processes(one, ServerProcess(pid=11, kind="llama.cpp", ports=(runner.port,), parent=10))
            await watched.poll()
            (traffic,) = await watched.of(LLM_TRAFFIC)
            assert traffic.label("source") == "slots"
            assert (traffic["requests_running"], traffic["generated_tokens_total"]) == (1, 7)
            runner.answers["/slots"] = [slot(0, task=3, decoded=5, busy=True), slot(1, task=2, decoded=20, busy=False)]
            await watched.poll()
            (traffic,) = await watched.of(LLM_TRAFFIC)
            assert (traffic["requests_running"], traffic["generated_tokens_total"]) == (1, 25)
            assert (traffic["prompt_tokens_total"], traffic["cached_prompt_tokens_total"]) == (200, 80)
            ways = {entity.label("way"): entity for entity in await watched.of(LLM_WAY)}
            assert ways["runner /metrics"].label("reason") == "switched off (501)"
            assert ways["runner /metrics"]["up"] == 0
            assert ways["runner /slots"]["up"] == 1
            assert runner.asked.count("GET /metrics") == 1  # and not asked again at once
            assert "secret" not in repr(await watched.read())

    run(work)


@pytest.mark.parametrize("kind", ["vllm", None])
def test_a_server_is_known_by_what_it_answers(kind: str | None) -> None:
    """With and without its kind in the settings; its page, version and list are read."""

    async def work() -> None:
        async with serving(vllm()) as server, Watched(at(server.url, kind)) as watched:
            await watched.poll()
            (info,) = await watched.of(LLM_SERVER_INFO)
            assert info.labels == (address(server.url), "vllm", "0.11.0", "settings")
            (traffic,) = await watched.of(LLM_TRAFFIC)
            assert traffic.labels == (address(server.url), "vllm", "meta-llama/Llama-3.1-8B-Instruct", "server")
            assert traffic["generated_tokens_total"] == 2 * 6789
            asked = len(server.asked)
            await watched.poll()
            assert server.asked[asked:] == ["GET /metrics"]

    run(work)


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ({"/v1/metrics": page("nim-1.14")}, "nim"),
        ({"/v1/metrics": page("nim-1.8")}, "nim"),
        ({"/prometheus/metrics": page("trtllm-1.2"), "/metrics": [{"iter": 1}]}, "trtllm"),
        (
            {"/metrics": 501, "/props": {"default_generation_settings": {}, "build_info": "b1"}, "/slots": []},
            "llama.cpp",
        ),
        ({"/info": {"model_id": "bloom", "version": "3"}, "/metrics": page("tgi-3.3")}, "tgi"),
        ({"/api/v0/models": {"data": [{"id": "m", "state": "loaded"}]}}, "lmstudio"),
        ({"/api/version": {"version": "0.9"}, "/api/ps": {"models": []}}, "ollama"),
        ({"/get_model_info": {"model_path": "Qwen"}}, "sglang"),
        ({"/metrics": page("triton-25.06")}, "triton"),
        ({"/metrics": page("lmdeploy-0.10")}, "lmdeploy"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_kind_is_told_from_the_others(answers: dict[str, Any], kind: str) -> None:
    """By its page, or by something only it answers."""

    async def work() -> None:
        async with serving(Imitation(**answers)) as server, Watched(at(server.url)) as watched:
            await watched.poll()
            (up,) = await watched.of(LLM_SERVER)
            assert (up.label("kind"), up["up"]) == (kind, 1.0)

    run(work)


def test_what_is_no_model_server_is_not_asked_again_and_again() -> None:
    """It is down, with the reason in the log, and left alone for a minute."""

    async def work() -> None:
        with capture_logs() as logs:
            async with serving(Imitation()) as server, Watched(at(server.url)) as watched:
                await watched.poll()
                asked = len(server.asked)
                await watched.poll()
                assert len(server.asked) == asked
                await watched.poll(60.0)
                assert len(server.asked) == 2 * asked
                (up,) = await watched.of(LLM_SERVER)
                assert (up.label("kind"), up["up"]) == ("unknown", 0.0)
        assert [line["reason"] for line in logs] == ["of no kind that is known"]

    run(work)


def test_no_ollama_where_it_was_only_looked_for_is_not_worth_a_word() -> None:
    """The default address of a node without Ollama makes no series, no log line and no failed source."""

    async def work() -> None:
        with capture_logs() as logs:
            async with Watched(at("http://127.0.0.1:9", "ollama", expected=False)) as watched:
                await watched.poll()
                reading = await watched.source.read(0.0, 1.0)
                assert reading.entities == ()
                assert reading.success
        assert logs == []

    run(work)


def test_a_server_that_goes_and_comes_back_is_said_once_each() -> None:
    """While it is away it has nothing but up 0; when it is back, everything."""

    async def work() -> None:
        with capture_logs() as logs:
            async with serving(vllm()) as server, Watched(at(server.url, "vllm")) as watched:
                await watched.poll()
                port = server.port
                whole = {entity.kind for entity in await watched.read()}
            async with Watched(at(f"http://127.0.0.1:{port}", "vllm")) as watched:
                for _ in range(3):
                    await watched.poll()
                assert (await watched.of(LLM_SERVER))[0]["up"] == 0
                assert await watched.of(LLM_TRAFFIC) == ()
                assert not (await watched.source.read(0.0, 1.0)).success
                async with serving(vllm(), port):
                    await watched.poll()
                    assert {entity.kind for entity in await watched.read()} == whole
                    assert (await watched.source.read(0.0, 1.0)).success
                await watched.poll()
                assert (await watched.of(LLM_SERVER))[0]["up"] == 0
        events = [line["event"] for line in logs]
        assert events == ["model server cannot be read", "model server answers again", "model server cannot be read"]

    run(work)


def test_a_server_that_hangs_delays_nothing_but_itself() -> None:
    """Beside one that never answers, the other is polled on time, by the source's own tasks."""

    async def work() -> None:
        never = asyncio.Event()
        hanging = Imitation(**dict.fromkeys(("/metrics", "/version", "/v1/models"), never))
        async with serving(hanging) as stuck, serving(vllm()) as server:
            sessions = Sessions(ModelNames(5))
            source = LlmSource(
                (at(stuck.url, "vllm"), at(server.url, "vllm")), sessions, structlog.get_logger(), interval=1.0
            )
            with capture_logs() as logs:
                source.start()
                # The time of three polls of the one is more than enough to give the other up.
                await server.until("GET /metrics", 4)
                reading = await source.read(0.0, 1.0)
                await source.stop()
            ups = {entity.label("server"): entity["up"] for entity in reading.entities if entity.kind is LLM_SERVER}
            assert ups == {address(stuck.url): 0.0, address(server.url): 1.0}
            assert [(line["server"], line.get("reason")) for line in logs] == [
                (address(stuck.url), "does not answer in time")
            ]
            assert not reading.success

    run(work)


def test_what_was_said_too_long_ago_is_not_told_again() -> None:
    """Younger than three polls it is, from then on it is absent."""

    async def work() -> None:
        async with serving(vllm()) as server, Watched(at(server.url, "vllm")) as watched:
            await watched.poll()
            watched.now += STALE_POLLS * INTERVAL
            assert len(await watched.of(LLM_TRAFFIC)) == 1
            watched.now += 0.001
            assert await watched.read() == ()

    run(work)


def test_a_process_with_several_ports_is_found_at_the_one_that_answers() -> None:
    """Only its own ports are tried; when it ends, it is watched no longer."""

    async def work() -> None:
        async with serving(Imitation()) as wrong, serving(vllm()) as server, Watched() as watched:
            watched.processes(ServerProcess(pid=5, kind="vllm", ports=(wrong.port, server.port)))
            await watched.poll()
            (info,) = await watched.of(LLM_SERVER_INFO)
            assert info.labels == (address(server.url), "vllm", "0.11.0", "process")
            watched.processes()
            assert watched.source.watches == ()
            assert await watched.read() == ()

    run(work)


def test_nonsense_from_a_server_is_a_reason_not_an_end() -> None:
    """Pages without end, other forms and closed connections cost that server's readings."""

    async def work() -> None:
        async with serving(vllm()) as server, Watched(at(server.url, "vllm")) as watched:
            await watched.poll()
            for nonsense in (b"\x00" * 1000, b"vllm:num_requests_running{", b"x" * (9 << 20), {"a": 1}, 500):
                server.answers["/metrics"] = nonsense
                await watched.poll()
                assert await watched.of(LLM_TRAFFIC) == ()
                assert len(await watched.of(LLM_SERVER)) == 1
            server.answers["/metrics"] = page("vllm-0.11")
            await watched.poll()
            assert len(await watched.of(LLM_TRAFFIC)) == 1

    run(work)


def test_the_proxys_count_stands_and_the_servers_own_steps_back() -> None:
    """The same token is not counted twice; what only the server knows stays."""

    async def work() -> None:
        async with serving(vllm()) as server, Watched(at(server.url, "vllm")) as watched:
            await watched.poll()
            watched.sessions.record(
                ModelRequest(
                    server=address(server.url),
                    kind="vllm",
                    model="meta-llama/Llama-3.1-8B-Instruct",
                    source=RequestSource.PROXY,
                    started_at=1.0,
                    duration_seconds=2.0,
                    outcome=Outcome.OK,
                    streamed=True,
                    endpoint="/v1/chat/completions",
                    prompt_tokens=10,
                    completion_tokens=20,
                )
            )
            by = {entity.label("source"): entity for entity in await watched.of(LLM_TRAFFIC)}
            assert by["proxy"]["generated_tokens_total"] == 20
            assert by["server"]["generated_tokens_total"] is None
            assert by["server"].histograms == ()
            assert by["server"]["requests_running"] == 6

    run(work)


def test_names_of_models_cannot_flood_the_metrics() -> None:
    """What a server does not list, and what is beyond the limit, is counted as "other"."""

    async def work() -> None:
        many = [resident(f"m{i}", digest=str(i)) for i in range(5)]
        async with serving(ollama(*many)) as server, Watched(at(server.url, "ollama"), limit=3) as watched:
            await watched.poll()
            assert {entity.label("model") for entity in await watched.of(LLM_MODEL)} == {"m0", "m1", "m2", "other"}
            assert watched.sessions.names.label(address(server.url), "made up") == "other"

    run(work)
