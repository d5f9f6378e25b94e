"""What the page consists of, without a browser: small, nothing inline, names that the catalogue has."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from gpumon.catalog import GPU, KINDS
from gpumon.web.api.page import FOLDER, Page

MOST_BYTES = 150_000
FILES = sorted(FOLDER.iterdir())
OWN = [file for file in FILES if not file.name.startswith("uplot")]
INDEX = (FOLDER / "index.html").read_text()
SCRIPTS = {file.name: file.read_text() for file in OWN if file.suffix == ".js"}


def test_all_files_together_are_small_when_compressed() -> None:
    """A first visit over a slow line is short: 150 kB for everything."""
    assert sum(len(gzip.compress(file.read_bytes(), 9)) for file in FILES) <= MOST_BYTES


def test_every_file_is_served() -> None:
    """What lies in the folder is of a kind that the server knows."""
    assert len(Page().paths) == len(FILES)


def test_nothing_is_inline_and_nothing_is_elsewhere() -> None:
    """The policy allows neither, so the page must not try."""
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", INDEX)
    for file in OWN:
        found = re.findall(
            r"(?:https?:)?//[\w.]+", re.sub(r"^\s*//.*$|\s// .*$", "", file.read_text(), flags=re.MULTILINE)
        )
        assert [url for url in found if "www.w3.org" not in url] == [], file.name


def test_every_module_is_fetched_at_once() -> None:
    """The browser learns of all modules from the page itself, not one after the other."""
    named = set(re.findall(r'(?:href|src)="/static/([\w.]+\.js)"', INDEX))
    assert named == set(SCRIPTS) | {"uplot.min.js"}


def test_the_charting_library_has_its_licence_beside_it() -> None:
    """It is someone else's work."""
    assert "MIT License" in (FOLDER / "uplot.LICENSE.txt").read_text()


def test_every_reading_the_page_names_is_in_the_catalogue() -> None:
    """A reading that is renamed or taken away cannot leave the page with a gap that nobody notices."""
    columns = {name for kind in KINDS for name in kind.index}
    named = re.findall(r'column: "(\w+)"', SCRIPTS["readings.js"] + SCRIPTS["live.js"])
    used = re.findall(r"\bgpu\.([a-z_]+[a-z])\b", SCRIPTS["readings.js"])
    assert named
    assert {name for name in named + used if name not in columns} == set()
    series = {kind.series(column) for kind in KINDS for column in kind.columns}
    metrics = re.findall(r'"(gpumon_[^"]+)"', "".join(SCRIPTS.values()))
    assert metrics
    assert {name for name in metrics if name not in series} == set()


def test_every_kind_the_page_names_is_in_the_catalogue() -> None:
    """As the readings, so the kinds of entities."""
    kinds = {kind.name for kind in KINDS}
    node, models, events = SCRIPTS["node.js"], SCRIPTS["models.js"], SCRIPTS["events.js"]
    named = re.findall(r'\b(?:all|of)\("(\w+)"', node + models + events)
    by_gpu = re.search(r'BY_GPU = "([\w ]+)"', node)
    assert by_gpu is not None
    assert {name for name in named + by_gpu[1].split() if name not in kinds} == set()


def test_throttling_that_the_page_warns_of_is_what_gpumon_measures() -> None:
    """Reasons are put together with the name of their reading."""
    table = re.search(r"THROTTLING = {(.*?)};", SCRIPTS["words.js"], re.DOTALL)
    assert table is not None
    reasons = re.findall(r"^\s+(\w+):", table[1], re.MULTILINE)
    assert reasons
    assert {f"throttle_active_{reason}" for reason in reasons} <= set(GPU.index)


def test_the_manifest_makes_an_app_of_it() -> None:
    """What a browser wants before it offers to install a page."""
    manifest = json.loads((FOLDER / "manifest.webmanifest").read_text())
    assert manifest["display"] == "standalone"
    assert manifest["start_url"] == "/"
    paths = Page().paths
    assert all(icon["src"] in paths for icon in manifest["icons"])


@pytest.mark.parametrize("theme", ['[data-theme="dark"]', '[data-theme="auto"]'])
def test_dark_has_every_colour_that_light_has(theme: str) -> None:
    """The dark colours stand twice, for the switch and for the system's wish; neither may lag behind."""
    style = (FOLDER / "style.css").read_text()

    def colours(selector: str) -> dict[str, str]:
        block = re.search(re.escape(selector) + r" {(.*?)}", style, re.DOTALL)
        assert block is not None
        return dict(re.findall(r"--([\w-]+): (#\w+);", block[1]))

    assert colours(f":root{theme}").keys() == colours(":root").keys()
    assert colours(f":root{theme}") == colours(':root[data-theme="dark"]')
