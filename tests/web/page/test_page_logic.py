"""What the page's modules work out, tried in the browser they run in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest
from tests.web.page.browser import Visit, gpumon, visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def seen(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    """Give a page whose modules can be imported."""
    with (
        gpumon(tmp_path_factory.mktemp("gpumon"), "--simulate", "t4x1", interval=0.5) as node,
        visit(browser, node.url) as seen,
    ):
        yield seen


def call(seen: Visit, module: str, expression: str, *arguments: Any) -> Any:
    """Give the value of an expression over a module `m` and arguments `a`."""
    return seen.page.evaluate(
        f"async (a) => {{ const m = await import('/static/{module}.js'); return {expression} }}", arguments
    )


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("m.number(undefined)", "–"),
        ("m.number(NaN)", "–"),
        ("m.number(0)", "0"),
        ("m.number(0.123)", "0.12"),
        ("m.number(12.34)", "12.3"),
        ("m.number(1234.5)", "1235"),
        ("m.percent(0.4)", "0 %"),
        ("m.percent(undefined)", "–"),
        ("m.ratio(0.555)", "56 %"),
        ("m.bytes(undefined)", "–"),
        ("m.bytes(2 ** 30)", "1.0 GiB"),
        ("m.bytes(5 * 2 ** 20)", "5 MiB"),
        ("m.power(9999)", "9999 W"),
        ("m.power(10400)", "10.4 kW"),
        ("m.latency(0.0123)", "12 ms"),
        ("m.latency(12.3)", "12.3 s"),
        ("m.span(5)", "5 s"),
        ("m.span(600)", "10 min"),
        ("m.span(200000)", "2 days"),
        ("m.shortName('NVIDIA GeForce RTX 4090')", "RTX 4090"),
    ],
)
def test_numbers_are_written_for_people(seen: Visit, expression: str, text: str) -> None:
    """Three digits that count, a unit that fits, and a dash for what is not known."""
    assert call(seen, "format", expression) == text


def test_a_time_of_which_nothing_is_known_is_a_gap(seen: Visit) -> None:
    """No line is drawn over it; a point that is only late is none."""
    lines = call(
        seen,
        "live",
        "(m.openGaps(a[0], a[1], 2, 10), [a[0], a[1]])",
        [0, 2, 4, 12, 40, 42],
        [[1, 1, 1, 1, 2, 2]],
    )
    assert lines == [[0, 2, 4, 12, 14, 40, 42], [[1, 1, 1, 1, None, 2, 2]]]


def test_a_clock_that_is_set_back_does_not_stop_the_live_lines(seen: Visit) -> None:
    """The header says Live, so lines must not stand still for as long as the clock went back."""
    times = seen.page.evaluate(
        """async () => {
            const { Live } = await import("/static/live.js");
            const live = new Live();
            const add = (time) => live.add({ time, stale: false, gpus: [{ id: "0", gpu: { power: time } }] });
            [5000, 5002, 5002, 1404, 1406].forEach(add);
            return live.of("0").times;
        }"""
    )
    assert times == [1404, 1406]


def test_the_past_is_put_before_what_was_seen_whatever_comes_first(seen: Visit) -> None:
    """The store answers when it does: no time stands twice, and all rise."""
    script = """async ([order, now]) => {
        const { Live } = await import('/static/live.js');
        const live = new Live();
        live.stored = true;
        const see = (time) => live.add({ time, stale: false, gpus: [{ id: '0', gpu: { power: 1 } }] });
        const steps = { see: () => see(now), more: () => see(now + 2), sparks: () => live.recallSparks(), past: () => live.recall('0') };
        for (const step of order) await steps[step]();
        return live.of('0').times;
    }"""
    for order in permutations(("see", "sparks", "past")):
        times = seen.page.evaluate(script, [[*order, "more"], time.time() + 5])
        assert len(times) >= 3, order
        assert times == sorted(set(times)), order


def event(kind: str, second: int, gpu: int | None = 0, subject: str | None = None, **detail: str) -> dict[str, Any]:
    """Give an event as the API tells it."""
    told = {"kind": kind, "time": f"2026-01-01T00:00:{second:02}.000Z", "message": f"{kind} {second}", "gpu_id": gpu}
    return {name: value for name, value in told.items() if value is not None} | {"subject": subject, "detail": detail}


def test_events_become_moments_and_spans(seen: Visit) -> None:
    """What begins and ends is one span, per alert; what has not ended lasts until now, unless gpumon was restarted since."""
    start = 1767225600
    events = [
        event("alert_end", 50, subject="gpu_temperature"),
        event("xid", 40),
        event("device_back", 35),
        event("alert_start", 30, subject="gpu_memory_temperature", severity="critical"),
        event("device_lost", 25),
        event("alert_start", 20, subject="gpu_temperature", severity="warning"),
        event("throttle_sw_thermal_start", 17),
        event("alert_start", 15, subject="gpu_memory", severity="info"),
        event("xid", 10, gpu=1),
        event("model_load", 5, gpu=None),
        event("throttle_hw_thermal_end", 2),
    ]
    marks = call(seen, "marks", "m.marks(a[0], '0', a[1])", events, {"time": start + 60, "started": start + 18})
    assert [
        (mark["word"], mark["grade"], mark["time"] - start, mark["end"] and mark["end"] - start) for mark in marks
    ] == [
        ("Slowed", "warn", 17, None),
        ("Alert", "warn", 20, 50),
        ("Lost", "bad", 25, 35),
        ("Alert", "bad", 30, 60),
        ("XID", "bad", 40, None),
    ]


def test_a_reason_that_stands_for_all_labels_of_a_reading_is_found(seen: Visit) -> None:
    """Where no clock can be read, gpumon says so once, not for each clock."""
    support = [
        {"reading": "gpumon_gpu_clock_hertz", "reason": "NOT_SUPPORTED", "reading_supported": 0},
        {"reading": "gpumon_gpu_power_watts", "reason": "estimated", "reading_supported": 1},
    ]
    why = "m.whyMissing({ up: true, support: a[0] }, a[1])"
    assert call(seen, "node", why, support, "gpumon_gpu_clock_hertz{clock=sm}") == "not supported"
    assert call(seen, "node", why, support, "gpumon_gpu_power_watts") == "not read this time"


def test_it_can_be_installed(seen: Visit) -> None:
    """The browser finds nothing that is missing for an app."""
    session = seen.page.context.new_cdp_session(seen.page)
    assert session.send("Page.getAppManifest")["errors"] == []
    missing = session.send("Page.getInstallabilityErrors")["installabilityErrors"]
    assert [error for error in missing if error["errorId"] != "in-incognito"] == []
