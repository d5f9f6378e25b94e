"""What comes from model servers and alerts, and a service that takes no readings: snapshots given to the API by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING

import pytest
from tests.daemon import free_port
from tests.snapshots import node
from tests.web.page.browser import visit

from gpumon.catalog import (
    ALERT,
    LLM_ENERGY,
    LLM_MODEL,
    LLM_SERVER,
    LLM_TRAFFIC,
    Entity,
    EntityKind,
    Histogram,
    Snapshot,
)
from gpumon.hub import Hub
from gpumon.settings import Api, Settings
from gpumon.web.api.server import ApiServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.e2e

SERVER, KIND, MODEL = "127.0.0.1:11434", "ollama", "llama3.1:8b"


class Served:
    """The API over snapshots that the test publishes, on a loop in a thread of its own."""

    def __init__(self) -> None:
        self.now = 1000.0  # what the API takes for the monotonic clock
        self._hub = Hub()
        self._loop = asyncio.new_event_loop()
        self._number = 0
        settings = Settings()
        self._server = ApiServer(
            replace(settings, api=Api(port=free_port()), storage=replace(settings.storage, enabled=False)),
            self._hub,
            started=time.time(),
            processes=tuple,
            clock=lambda: self.now,
        )
        self._thread = Thread(target=self._loop.run_forever)
        self._thread.start()
        self._run(self._server.start())

    @property
    def url(self) -> str:
        """Give the page's address."""
        return f"http://127.0.0.1:{self._server.port}/"

    def publish(self, *entities: Entity, gpus: int = 2, after: float = 2.0) -> None:
        """Publish a snapshot of some GPUs and these entities, so many seconds after the one before."""
        self._number += 1
        self.now += after
        base = node(gpus, links=2, number=self._number)
        snapshot = Snapshot(1.79e9 + self.now, self.now, self._number, base.entities + entities)
        self._loop.call_soon_threadsafe(self._hub.publish, snapshot)

    def close(self) -> None:
        """Stop serving."""
        self._run(self._server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: object) -> None:
        done: Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)  # type: ignore[arg-type]
        done.result(10)


@pytest.fixture
def served() -> Iterator[Served]:
    """Give the API over snapshots of the test's own."""
    served = Served()
    yield served
    served.close()


def entity(
    kind: EntityKind, labels: Mapping[str, str], first_tokens: tuple[float, ...] = (), **values: float
) -> Entity:
    """Give an entity with these labels and values, nothing else known; the seconds to first tokens in one bucket."""
    texts = tuple(labels.get(label.name, "") for label in kind.labels)
    histograms = tuple(
        Histogram((60.0,), (float(len(first_tokens)), 0.0), sum(first_tokens))
        if reading.name == "time_to_first_token_seconds" and first_tokens
        else None
        for reading in kind.histograms
    )
    return Entity(kind, texts, tuple(values.get(column.name) for column in kind.columns), histograms)


def model(tokens: float, *first_tokens: float) -> tuple[Entity, ...]:
    """Give a model server with one model that has written so many tokens."""
    labels = {"server": SERVER, "kind": KIND, "model": MODEL, "source": "proxy"}
    return (
        entity(LLM_SERVER, labels, up=1),
        entity(LLM_MODEL, labels, memory_bytes=6 * 2**30),
        entity(
            LLM_TRAFFIC, labels, first_tokens, generated_tokens_total=tokens, requests_running=2, requests_waiting=1
        ),
        entity(LLM_ENERGY, labels, joules_per_token=1.25),
    )


def test_a_model_is_shown_with_speed_first_token_and_energy(browser: Browser, served: Served) -> None:
    """Speed and first token are of the time between snapshots; before there are two, the speed is not known."""
    served.publish(*model(1000, 0.5))
    with visit(browser, served.url, ready="#model-rows tr") as seen:
        assert seen.texts("#model-rows .speed") == ["–"]
        assert seen.texts("#model-rows .first") == ["–"]
        served.publish(*model(1400, 0.5, 0.1, 0.3), after=10)
        seen.expect_text("#model-rows .speed", "40")
        assert seen.texts("#model-rows th") == [MODEL]
        assert seen.texts("#model-rows .first") == ["200 ms"]
        assert seen.texts("#model-rows .joules") == ["1.25 J"]
        assert seen.texts("#model-rows .requests") == ["2 +1"]
        assert seen.texts("#model-rows .memory") == ["6.0 GiB"]
        seen.keep("models")
        assert seen.violations() == []
        served.publish(entity(LLM_SERVER, {"server": SERVER, "kind": KIND}, up=0))
        seen.expect_text("#server-rows", "does not answer")
        assert seen.texts("#model-rows tr") == []
        assert seen.troubles == []


def alert(name: str, severity: str, gpu: str = "", subject: str = "") -> Entity:
    """Give an alert that is active since a minute after the first snapshot."""
    labels = {"alert": name, "severity": severity, "gpu_id": gpu, "subject": subject}
    return entity(ALERT, labels, active=1, start_timestamp_seconds=1.79e9 + 1000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_alerts_are_shown_while_they_are_active_the_worst_first(browser: Browser, served: Served, scheme: str) -> None:
    """With the GPUs they are active on, which can be picked; what is for information colours no card."""
    active = (
        alert("gpu_memory", "info", "0"),
        alert("gpu_memory", "info", "1"),
        alert("gpu_temperature", "warning", "1"),
        alert("llm_server_down", "critical", subject="server=127.0.0.1:8000,kind=vllm"),
    )
    served.publish(*active, after=600)
    with visit(browser, served.url, ready="#alert-rows li", color_scheme=scheme) as seen:
        assert seen.texts("#alert-rows li") == [
            "critical: llm server down (server=127.0.0.1:8000,kind=vllm)for 10 min",
            "warning: temperatureGPU 1for 10 min",
            "info: memoryGPU 0GPU 1for 10 min",
        ]
        assert seen.texts("#alerts-title") == ["4 active alerts"]
        assert seen.page.locator('.card[data-key="0"]').get_attribute("data-grade") == "calm"
        assert seen.texts('.card[data-key="1"] .state') == ["temperature"]
        seen.page.locator("#alert-rows button[data-gpu='1']").first.click()
        seen.expect_text("#gpu-title", "GPU 1")
        seen.keep(f"alerts-{scheme}")
        assert seen.violations() == []
        served.publish()
        seen.page.wait_for_selector("#alerts", state="hidden")
        assert seen.troubles == []


def test_a_service_that_takes_no_readings_is_told_from_one_that_is_away(browser: Browser, served: Served) -> None:
    """It says itself that its snapshot is stale; the page keeps what it has seen, and says how old that is."""
    served.publish()
    with visit(browser, served.url) as seen:
        served.now += 60
        seen.expect_text("#banner", "gpumon answers, but takes no readings")
        assert seen.page.is_visible(".card .value")
        served.publish()
        seen.expect("document.documentElement.dataset.state !== 'stale'")


def test_without_a_store_the_past_is_not_offered(browser: Browser, served: Served) -> None:
    """The page says why, and shows what it sees itself."""
    served.publish()
    with visit(browser, served.url) as seen:
        seen.page.wait_for_selector("#no-store", state="visible")
        assert seen.page.locator("#range-6h").is_disabled()
        assert seen.page.locator("#range-live").is_enabled()


def test_without_a_gpu_the_page_says_so(browser: Browser, served: Served) -> None:
    """A node of processors alone is no error."""
    served.publish(gpus=0)
    with visit(browser, served.url, ready="#no-gpus:not([hidden])") as seen:
        assert not seen.page.is_visible("#detail")
        assert seen.troubles == []
