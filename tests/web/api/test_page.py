"""The page's files: those of its folder, by a list made at the start, with a strict policy."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import pytest
from tests.web.api.serving import serving
from tests.web.serving import Answer, ask

from gpumon.web.api.page import FOLDER, POLICY, Page


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a small page, beside things that are not to be served."""
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("<!doctype html><title>page</title>" + "x" * 2000)
    (page / "main.js").write_text("export const a = 1;")
    (page / "sw.js").write_text("// worker")
    (page / "manifest.webmanifest").write_text("{}")
    (page / "icon.png").write_bytes(b"\x89PNG")
    (page / "notes.md").write_text("not for everyone")
    (page / "folder.js").mkdir()
    (tmp_path / "secret.js").write_text("secret")
    return page


def get(folder: Path, path: str, **headers: str) -> Answer:
    """Ask for a file of the page."""

    async def run() -> Answer:
        async with serving(options={"page": Page(folder)}) as server:
            return await ask(server.port, path, headers=headers)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "media", "body"),
    [
        ("/static/main.js", "text/javascript; charset=utf-8", b"export const a = 1;"),
        ("/static/icon.png", "image/png", b"\x89PNG"),
        ("/manifest.webmanifest", "application/manifest+json", b"{}"),
        ("/sw.js", "text/javascript; charset=utf-8", b"// worker"),
    ],
)
def test_a_file_is_served_as_what_it_is(folder: Path, path: str, media: str, body: bytes) -> None:
    """With its type, and the policy."""
    answer = get(folder, path)
    assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, media, body)
    assert answer.headers["Content-Security-Policy"] == POLICY


def test_the_page_is_compressed_and_not_sent_again(folder: Path) -> None:
    """By its ETag; a browser asks each time, so that a new gpumon is not mixed with an old page."""
    plain, packed = get(folder, "/"), get(folder, "/", **{"Accept-Encoding": "gzip, br"})
    assert plain.body == (folder / "index.html").read_bytes()
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < 100
    assert packed.headers["Cache-Control"] == "no-cache"
    assert get(folder, "/", **{"If-None-Match": plain.headers["ETag"]}).status == 304


@pytest.mark.parametrize(
    "path",
    [
        *("/index.html", "/static/index.html", "/static/notes.md", "/static/", "/static/folder.js", "/page/main.js"),
        *("/static/../secret.js", "/static/..%2fsecret.js", "/static/%2e%2e/secret.js", "//static/main.js"),
    ],
)
def test_nothing_else_is_served(folder: Path, path: str) -> None:
    """The path is looked up in a list, never in the file system."""
    assert get(folder, path).status == 404


def test_a_package_without_a_page_serves_the_api(tmp_path: Path) -> None:
    """Somebody may have taken it out."""
    assert get(tmp_path / "none", "/").status == 404
    assert get(tmp_path / "none", "/api/info").status == 200


def test_every_file_of_the_page_can_be_served() -> None:
    """A file of a type that is not known here would be missing in browsers only."""
    served = {content.rpartition("/")[2] or "index.html" for content in Page().paths}
    assert served == {path.name for path in FOLDER.iterdir() if path.is_file()}
