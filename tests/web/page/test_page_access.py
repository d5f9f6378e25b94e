"""The page can be used by everyone: by keyboard, by a screen reader, on a telephone, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from tests.web.page.browser import Gpumon, gpumon, visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.e2e

TELEPHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpumon]:
    """Give a node of eight GPUs."""
    with gpumon(tmp_path_factory.mktemp("gpumon"), "--simulate", "h100x8", interval=2) as running:
        yield running


@pytest.mark.parametrize("size", [{"width": 1440, "height": 900}, TELEPHONE], ids=["desk", "telephone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_wrong(browser: Browser, node: Gpumon, scheme: str, size: dict[str, int]) -> None:
    """Names, roles, order and contrast."""
    with visit(browser, node.url, color_scheme=scheme, viewport=size) as seen:
        seen.expect("document.querySelectorAll('#process-rows tr').length > 0")
        seen.keep(f"{scheme}-{size['width']}")
        assert seen.violations() == []
        assert seen.troubles == []


def test_a_telephone_shows_all_without_scrolling_sideways(browser: Browser, node: Gpumon) -> None:
    """360 pixels are enough."""
    with visit(browser, node.url, viewport=TELEPHONE) as seen:
        seen.expect("document.querySelectorAll('#process-rows tr').length > 0")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= TELEPHONE["width"]


def test_the_switch_of_the_theme_goes_before_the_system(browser: Browser, node: Gpumon) -> None:
    """From the system's to light, to dark; kept for the next visit."""
    with visit(browser, node.url, color_scheme="light") as seen:
        background = "getComputedStyle(document.body).backgroundColor"
        light = seen.page.evaluate(background)
        seen.page.click("#theme")
        assert seen.page.evaluate(background) == light
        seen.page.click("#theme")
        assert seen.page.evaluate(background) != light
        seen.page.reload()
        assert seen.page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_everything_can_be_done_by_keyboard(browser: Browser, node: Gpumon) -> None:
    """Pick a GPU, pick a span of time, read a chart, zoom and come back; the focus is seen all along."""
    with visit(browser, node.url) as seen:
        press = seen.page.keyboard.press
        focused = "document.activeElement"
        seen.page.locator(".pick").first.focus()
        for key, gpu in (("ArrowRight", "1"), ("ArrowDown", "5"), ("End", "7"), ("Home", "0"), ("ArrowRight", "1")):
            press(key)
            assert seen.page.evaluate(f"{focused}.closest('.card').dataset.key") == gpu
        press("Enter")
        seen.expect_text("#gpu-title", "GPU 1")
        outline = seen.page.evaluate(f"getComputedStyle({focused}).outlineStyle")
        assert outline != "none"

        seen.page.locator("#range-live").focus()
        press("ArrowRight")
        seen.expect("document.querySelector('#range-1h').checked")

        seen.page.locator(".chart").first.focus()
        press("ArrowLeft")
        seen.expect("document.querySelector('.chart').dataset.here === ''", "the chart says no value under the cursor")
        press("+")
        seen.page.wait_for_selector("#reset", state="visible")
        press("Escape")
        seen.page.wait_for_selector("#reset", state="hidden")
        assert seen.troubles == []


def test_tab_reaches_every_control_in_the_order_of_reading(browser: Browser, node: Gpumon) -> None:
    """No control is only for the mouse, and none is a trap."""
    with visit(browser, node.url) as seen:
        places = []
        for _ in range(60):
            seen.page.keyboard.press("Tab")
            places.append(
                seen.page.evaluate("(document.activeElement.id || document.activeElement.className).split(' ')[0]")
            )
            if places[-1] == "only-events":
                break
        wanted = ["skip", "theme", *["pick"] * 8, "range-live", *["chart"] * 6, "only-processes", "only-events"]
        assert places == wanted
