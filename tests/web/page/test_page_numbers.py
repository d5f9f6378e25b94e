"""What the page shows is what /metrics says, for one GPU, for sixteen, and where readings are missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from tests.web.page.browser import Gpumon, gpumon, visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.e2e

PROFILES = {"rtx4090x1": 1, "h100x16": 16, "h100x2-mig": 2}


@pytest.fixture(scope="module", params=PROFILES)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Gpumon]]:
    """Give a simulated node that takes one snapshot and no other, so that all who look see the same."""
    with gpumon(tmp_path_factory.mktemp("gpumon"), "--simulate", request.param) as running:
        yield request.param, running


def round_half_up(value: float) -> int:
    """Round as JavaScript does."""
    return int(value + 0.5)


def expected(running: Gpumon) -> dict[str, dict[str, str]]:
    """Give the texts of all gauges by GPU, from /metrics."""
    use, used, total, heat, power = (
        running.values(f"gpumon_gpu_{name}")
        for name in (
            "utilization_percent",
            "memory_used_bytes",
            "memory_total_bytes",
            "temperature_celsius",
            "power_watts",
        )
    )
    return {
        gpu: {
            "use": f"{round_half_up(use[gpu])} %" if gpu in use else "–",
            "memory": f"{used[gpu] / 2**30:.1f} / {total[gpu] / 2**30:.1f} GiB",
            "heat": f"{round_half_up(heat[gpu])}",
            "power": f"{round_half_up(power[gpu])}",
        }
        for gpu in power
    }


def test_the_page_shows_what_metrics_says(browser: Browser, node: tuple[str, Gpumon]) -> None:
    """Every gauge of every GPU, and no trouble: no error, no broken policy, no request to anyone else."""
    profile, running = node
    wanted = expected(running)
    assert len(wanted) == PROFILES[profile]
    with visit(browser, running.url) as seen:
        assert seen.page.locator(".card").count() == len(wanted)
        for gpu, gauges in wanted.items():
            card = seen.page.locator(f'.card[data-key="{gpu}"]')
            for name, text in gauges.items():
                shown = card.locator(f".is-{name} .value").text_content() or ""
                assert shown == text or shown.startswith(f"{text} / "), (gpu, name)
        assert seen.texts("#badge") == ["SIMULATED"]
        seen.expect("document.querySelectorAll('#process-rows tr').length > 0", "no process is shown")
        seen.keep(profile)
        assert seen.troubles == []


def test_what_is_missing_is_a_dash_with_a_reason(browser: Browser, node: tuple[str, Gpumon]) -> None:
    """A GPU in MIG mode has no utilisation, a GeForce no profiling: the page says so, and nothing is 0 that is not known."""
    profile, running = node
    with visit(browser, running.url) as seen:
        if profile == "h100x2-mig":
            assert seen.texts(".is-use .value") == ["–"] * 2
            assert seen.texts(".is-use .reason") == ["not supported"] * 2
        elif profile == "rtx4090x1":
            seen.expect_text("#charts", "– not supported")
            seen.expect_text("#facts", "– (not supported)")
        else:
            seen.expect("document.querySelector('#facts').textContent !== ''")
            assert not any(seen.texts(".gauge .reason"))


def test_mig_instances_are_shown(browser: Browser, node: tuple[str, Gpumon]) -> None:
    """Each with its profile and memory, in the detail of their GPU; without any there is no such table."""
    profile, running = node
    with visit(browser, running.url) as seen:
        rows = seen.texts("#mig-rows tr")
        if profile == "h100x2-mig":
            assert len(rows) == 4
            assert rows[0].startswith("3g.40gb1/0")
        else:
            assert not seen.page.is_visible("#migs")


# The charts are made anew for another range; so many frames later they are those that stay.
DRAWN = """() => new Promise((done) => {
  const look = (left) => {
    const box = document.querySelector(".chart .u-over")?.getBoundingClientRect();
    if (box?.width && !left) done(true);
    else requestAnimationFrame(() => look(box?.width ? left - 1 : 10));
  };
  look(10);
})"""


def test_history_can_be_asked_for_and_zoomed_into(browser: Browser, node: tuple[str, Gpumon]) -> None:
    """A range takes its readings from the store, a drag picks a part of it, Reset goes back."""
    profile, running = node
    with visit(browser, running.url) as seen:
        with seen.page.expect_response(lambda answer: "/api/chart" in answer.url and "hours=6" in answer.url) as answer:
            seen.page.get_by_text("6 h", exact=True).click()
        assert answer.value.ok
        seen.page.wait_for_function(DRAWN)
        place = seen.page.locator(".chart .u-over").first.bounding_box()
        assert place is not None
        x, y = place["x"], place["y"] + 20
        with seen.page.expect_response(lambda answer: "/api/chart" in answer.url and "start=" in answer.url) as zoomed:
            seen.page.mouse.move(x + place["width"] * 0.3, y)
            seen.page.mouse.down()
            seen.page.mouse.move(x + place["width"] * 0.6, y, steps=4)
            seen.page.mouse.up()
        assert zoomed.value.ok
        seen.page.click("#reset")
        seen.page.wait_for_selector("#reset", state="hidden")
        assert "range=6h" in seen.page.url
        assert seen.troubles == [], profile
