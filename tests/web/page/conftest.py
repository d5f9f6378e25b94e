"""The browser that all tests of the page share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from tests.web.page.browser import CHROMIUM_ARGUMENTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Give a Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is NOT tested in a browser: no playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("the page is NOT tested in a browser: no chromium on the path")
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=chromium, args=list(CHROMIUM_ARGUMENTS))
        yield found
        found.close()
