"""A real browser at the built-in page of a real gpumon, and what must never be seen in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.daemon import PATIENCE, environment, free_port, until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

ARTEFACTS = Path(__file__).parents[2] / "artefacts" / "page"
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Of one tick: nothing on the page or on /metrics changes after the first.
ONE_TICK = 300.0


class Gpumon:
    """A gpumon in a process of its own, which can be stopped and started again at the same ports."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], settings: dict[str, str]) -> None:
        self.port, self._metrics_port = free_port(), free_port()
        self._arguments = arguments
        self._log = folder / "gpumon.log"
        own = {"GPUMON_API_ENABLED": "true", "GPUMON_API_PORT": f"{self.port}"}
        # Last what keeps it off this machine's own files and ports.
        self._environ = settings | environment(folder, self._metrics_port) | own
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Give the page's address."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start it and wait for its first readings."""
        command = [sys.executable, "-m", "gpumon", "run", *self._arguments]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, env=os.environ | self._environ, stdout=log, stderr=log)
        until(self.process, lambda: "gpumon_gpu_power_watts{" in self.metrics(), self._log.read_text)

    def stop(self) -> None:
        """End it at once, as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def metrics(self) -> str:
        """Scrape; an empty text while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def values(self, name: str) -> dict[str, float]:
        """Give a metric's values by `gpu_id`, of those that have no labels but the GPU's."""
        found = re.findall(
            rf'^{name}{{gpu_id="(\d+)",gpu_name="[^"]*",gpu_uuid="[^"]*"}} (\S+)$', self.metrics(), re.MULTILINE
        )
        return {gpu: float(value) for gpu, value in found}


@contextmanager
def gpumon(folder: Path, *arguments: str, interval: float = ONE_TICK, **settings: str) -> Iterator[Gpumon]:
    """Run gpumon for the length of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    running = Gpumon(folder, arguments, {"GPUMON_SERVICE_POLL_INTERVAL_SECS": f"{interval}"} | settings)
    running.start()
    try:
        yield running
    finally:
        running.stop()


class Visit:
    """A page in a browser, and the troubles it had: errors, broken policies, requests to anyone else."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.page: Page = context.new_page()
        self.troubles: list[str] = []
        self._own = url
        self.page.on("console", lambda told: self._console(told.type, told.text))
        self.page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        self.page.on("request", lambda request: self._request(request.url))
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error('policy: ' + e.violatedDirective + ' ' + e.blockedURI))"
        )

    def _console(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.troubles.append(f"{kind}: {text}")

    def _request(self, url: str) -> None:
        if not url.startswith(self._own):
            self.troubles.append(f"request to {url}")

    def expect(self, script: str, what: str = "") -> None:
        """Wait until a JavaScript expression holds; asked from outside, because the policy lets nothing be evaluated inside."""
        deadline = time.monotonic() + PATIENCE
        while not self.page.evaluate(script):
            assert time.monotonic() < deadline, f"{what or script}; troubles: {self.troubles}"
            self.page.wait_for_timeout(50)  # lets the browser's events through

    def expect_text(self, selector: str, text: str) -> None:
        """Wait until an element contains a text."""
        self.expect(
            f"document.querySelector({selector!r})?.textContent.includes({text!r})",
            f"{selector} does not come to say {text!r}",
        )

    def texts(self, selector: str) -> list[str]:
        """Give the texts of all elements that a selector finds."""
        return [text.strip() for text in self.page.locator(selector).all_text_contents()]

    def violations(self) -> list[str]:
        """Give what axe finds wrong with the page as it is."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [
            f"{each['id']}: {node['html'][:200]} {node['failureSummary']}" for each in found for node in each["nodes"]
        ]

    def keep(self, name: str) -> None:
        """Keep a picture of the whole page beside the tests."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)


@contextmanager
def visit(
    browser: Browser, url: str, *, hash_: str = "", ready: str = "#cards .card .value", **options: object
) -> Iterator[Visit]:
    """Open the page for the length of the block, which begins when an element that `ready` selects is there."""
    options.setdefault("viewport", {"width": 1440, "height": 900})
    context = browser.new_context(**options)  # type: ignore[arg-type]
    try:
        visited = Visit(context, url)
        visited.page.goto(url + hash_)
        visited.page.wait_for_selector(ready)
        yield visited
    finally:
        context.close()
