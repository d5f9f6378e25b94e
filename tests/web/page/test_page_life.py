"""What the page does when gpumon restarts, stands still, wants a token, or a GPU fails."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests import stub
from tests.web.page.browser import Gpumon, gpumon, visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.e2e

TICK = 0.5
TOKEN = "correct-horse-battery-staple"
STATE = "document.documentElement.dataset.state"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Gpumon]:
    """Give a simulated node that ticks fast."""
    with gpumon(tmp_path, "--simulate", "l40sx4", interval=TICK) as running:
        yield running


def test_the_page_recovers_by_itself_when_gpumon_restarts(browser: Browser, node: Gpumon) -> None:
    """While it is away the page says since when; when it is back, the page is live again without a reload."""
    with visit(browser, node.url) as seen:
        seen.expect(f"{STATE} === 'live'")
        node.stop()
        seen.expect_text("#banner", "Disconnected since ")
        assert seen.page.is_visible(".card"), "what was read last is still there"
        seen.keep("disconnected")
        assert seen.violations() == []
        node.start()
        seen.expect(f"{STATE} === 'live'")
        assert not seen.page.is_visible("#banner")


def test_readings_that_are_old_are_said_to_be(browser: Browser, node: Gpumon) -> None:
    """A gpumon that stands still keeps its connections: the page sees by the clock that nothing comes."""
    with visit(browser, node.url) as seen:
        seen.expect(f"{STATE} === 'live'")
        node.signal(signal.SIGSTOP)
        try:
            seen.expect_text("#banner", "Stale: readings are ")
            seen.keep("stale")
            assert seen.violations() == []
        finally:
            node.signal(signal.SIGCONT)
        seen.expect(f"{STATE} === 'live'")


def test_readings_change_without_a_reload(browser: Browser, node: Gpumon) -> None:
    """Each snapshot is shown."""
    with visit(browser, node.url) as seen:
        all_values = "[...document.querySelectorAll('.card .value')].map((each) => each.textContent).join()"
        before = seen.page.evaluate(all_values)
        seen.expect(f"{all_values} !== {before!r}", "no number changes")
        assert seen.troubles == []


def test_a_hidden_page_reads_nothing_until_it_is_seen_again(browser: Browser, node: Gpumon) -> None:
    """A tab in the background costs neither side anything."""
    with visit(browser, node.url) as seen:
        hide = (
            "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        seen.expect(f"{STATE} === 'live'")
        seen.page.evaluate(hide % "true")
        with seen.page.expect_request("**/api/stream"):
            seen.page.evaluate(hide % "false")
        seen.expect(f"{STATE} === 'live'")


def test_a_token_is_asked_for_and_kept_for_the_tab(browser: Browser, tmp_path: Path) -> None:
    """Without it nothing is shown; a wrong one is said to be; the right one opens, also after a reload."""
    with (
        gpumon(tmp_path, "--simulate", "t4x1", interval=TICK, GPUMON_API_TOKEN=TOKEN) as node,
        visit(browser, node.url, ready="#sign-in:not([hidden])") as seen,
    ):
        assert not seen.page.is_visible("#readings")
        seen.page.fill("#token", "not-the-token-at-all")
        seen.page.click("#sign-in button")
        seen.page.wait_for_selector("#wrong:not([hidden])")
        seen.keep("sign-in")
        assert seen.violations() == []
        seen.page.fill("#token", TOKEN)
        seen.page.keyboard.press("Enter")
        seen.page.wait_for_selector(".card .value")
        seen.page.reload()
        seen.page.wait_for_selector(".card .value")
        assert all("401" in trouble for trouble in seen.troubles), (
            "the browser itself notes the refusals, and nothing else"
        )
        assert TOKEN not in seen.page.url
        assert seen.page.evaluate("Object.keys(localStorage).concat(document.cookie)") == [""]


def test_a_gpu_that_fails_is_told_in_words_and_marked_in_its_charts(browser: Browser, tmp_path: Path) -> None:
    """An XID and a hung driver call come up on the card, among the events, and as marks; the other GPU goes on."""
    try:
        library = stub.build(tmp_path / "nvml")
    except stub.UnbuildableError as missing:
        pytest.skip(f"the page is NOT tested with a failing GPU: {missing}")
    control = tmp_path / "control"
    stub.order(control)
    variables = stub.environment(library, gpus=2, control=control)
    with (
        gpumon(tmp_path / "home", interval=TICK, **variables) as node,
        visit(browser, node.url, hash_="#gpu=1", reduced_motion="reduce") as seen,
    ):
        seen.expect(f"{STATE} === 'live'")
        assert not seen.page.is_visible("#badge"), "a real driver is not called simulated"
        stub.order(control, "xid 1 79")
        seen.expect_text("#event-rows", "XID 79")
        stub.order(control, "hang 1")
        seen.expect_text('.card[data-key="1"] .state', "hung: the driver does not return")
        assert seen.texts('.card[data-key="1"] .value') == ["–"] * 4
        assert "–" not in seen.texts('.card[data-key="0"] .value')
        seen.expect_text("#event-rows", "GPU 1 does not answer")
        seen.expect_text("#state", "Live, 1 GPU down")
        seen.keep("hung")
        assert seen.violations() == []
        seen.page.get_by_role("button", name="XID 79 on GPU 1").click()
        seen.page.wait_for_selector("#reset", state="visible")
        seen.expect("document.querySelector('#charts').ariaBusy !== 'true'")
        plot = seen.page.locator(".chart .u-over").first
        width = plot.evaluate("(node) => node.clientWidth")
        said = set()
        for pixel in range(1, 24, 2):  # what has just happened is at the right end
            plot.hover(position={"x": width - pixel, "y": 30})
            said |= set(seen.texts("#mark-note"))
        assert any("XID 79" in text for text in said), said
        assert any("GPU 1 does not answer" in text for text in said), said
        seen.keep("zoomed")
        stub.order(control)
        seen.expect(f"{STATE} === 'live'")
        assert seen.troubles == []
