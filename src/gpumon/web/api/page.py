"""The built-in page: the files of one folder of the package, listed when the service starts."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

from gpumon.web.api.answer import Content

FOLDER = Path(__file__).parents[1] / "page"

# Nothing but these files and this API; no inline script or style; in nobody's frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}

# What the page may consist of; other files of the folder are not served.
MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}
PACKED = (".png", ".woff2", ".ico")  # gain nothing by gzip
# A service worker governs what lies beside it and below, so it must not lie in /static/.
AT_ROOT = ("manifest.webmanifest", "sw.js", "favicon.ico")
INDEX = "index.html"


class Page:
    """Gives the page's files by path; compressed when first asked for, and kept so."""

    def __init__(self, folder: Path = FOLDER) -> None:
        files = (
            sorted(path for path in folder.glob("*") if path.suffix in MEDIA and path.is_file())
            if folder.is_dir()
            else []
        )
        self._files: Mapping[str, Path] = {_path(file.name): file for file in files}
        self._contents: dict[str, Content] = {}

    @property
    def paths(self) -> tuple[str, ...]:
        """Give the paths that are served."""
        return tuple(self._files)

    def content(self, path: str) -> Content | None:
        """Give the file at a path, None where there is none."""
        file = self._files.get(path)
        if file is None:
            return None
        content = self._contents.get(path)
        if content is None:
            data = file.read_bytes()
            packed = file.suffix in PACKED
            content = self._contents[path] = Content(
                data if packed else gzip.compress(data, 9, mtime=0),
                MEDIA[file.suffix],
                compressed=not packed,
                headers=HEADERS,
            )
        return content


def _path(name: str) -> str:
    if name == INDEX:
        return "/"
    return f"/{name}" if name in AT_ROOT else f"/static/{name}"
