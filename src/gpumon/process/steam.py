"""Steam's libraries: which folder is a game's, from libraryfolders.vdf and the app manifests (Valve's KeyValues text)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

# Where Steam keeps its data below a home folder: as a package, as its own installer does, as Flatpak and as Snap.
ROOTS = (
    ".steam/steam",
    ".local/share/Steam",
    ".steam/debian-installation",
    ".var/app/com.valvesoftware.Steam/.local/share/Steam",
    "snap/steam/common/.local/share/Steam",
)
# What Steam installs like games but is none.
_TOOLS = re.compile(r"proton\b.*|steam linux runtime.*|steamvr.*|steamworks.*|steam controller configs.*|steam\.dll.*")
_IN_LIBRARY = re.compile(r"^(?P<library>.*?)/?(?:^|/)steamapps/common/(?P<folder>[^/]+)/", re.IGNORECASE)
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|([{}])')

GAME, TOOL = "steam", "steam-tool"

# A manifest is 1 kB; what is larger is none.
_MOST_BYTES = 1 << 20

KeyValues = dict[str, "str | KeyValues"]


def parse(text: str) -> KeyValues:
    """Give Valve's KeyValues text as nested dictionaries with keys in lower case; what is malformed is left out."""
    root: KeyValues = {}
    stack = [root]
    key: str | None = None
    for word, brace in _TOKEN.findall(text):
        if brace == "{":
            inner: KeyValues = {}
            stack[-1][key or ""] = inner
            stack.append(inner)
            key = None
        elif brace == "}":
            key = None
            if len(stack) > 1:
                stack.pop()
        elif key is None:
            key = word.lower()
        else:
            stack[-1][key] = word.replace("\\\\", "\\").replace('\\"', '"')
            key = None
    return root


def libraries(home: Path) -> Iterator[Path]:
    """Give every Steam library that a user has set up."""
    for root in ROOTS:
        folders = parse(_text(home / root / "steamapps/libraryfolders.vdf")).get("libraryfolders")
        if isinstance(folders, dict):
            for entry in folders.values():
                # Until 2021 an entry was the path itself.
                path = entry.get("path") if isinstance(entry, dict) else entry
                if isinstance(path, str) and path.startswith("/"):
                    yield Path(path)


def apps(library: Path) -> dict[str, str]:
    """Give the name of each app in a library by its folder, both in lower case."""
    found = {}
    for manifest in sorted((library / "steamapps").glob("appmanifest_*.acf")):
        state = parse(_text(manifest)).get("appstate")
        if isinstance(state, dict):
            folder, name = state.get("installdir"), state.get("name")
            if isinstance(folder, str) and folder:
                found[folder.lower()] = name.lower() if isinstance(name, str) else folder.lower()
    return found


class Steam:
    """What is installed, read when a process first runs from a folder of a Steam library."""

    def __init__(self) -> None:
        self._libraries: dict[Path | None, set[Path]] = {}
        self._apps: dict[Path, dict[str, str]] = {}

    def place(self, path: str, home: Path | None) -> str:
        """Say what the program at `path` is, by the library of the user whose home is given: GAME, TOOL or "".

        A path of Windows is one seen through Wine: Z: is the whole file system, S: what Proton makes of the library.
        """
        drive, path = _drive(path)
        if drive == "s" and path.startswith("/common/"):
            path = f"/steamapps{path}"
        match = _IN_LIBRARY.match(path)
        if match is None:
            return ""
        library, folder = Path(match["library"] or "/"), match["folder"].lower()
        if home is not None and home not in self._libraries:
            self._libraries[home] = set(libraries(home))
        known = self._libraries.get(home, set())
        name = self._installed(library).get(folder)
        # Where the user's libraries cannot be read, as from a container, the layout alone must do.
        if name is None and known and drive != "s" and library not in known:
            return ""
        return TOOL if _TOOLS.match(name or folder) or _TOOLS.match(folder) else GAME

    def _installed(self, library: Path) -> dict[str, str]:
        if library not in self._apps:
            self._apps[library] = apps(library)
        return self._apps[library]


def _drive(path: str) -> tuple[str, str]:
    """Take a path of Windows apart; the drive is "" for one of Linux."""
    path = path.replace("\\", "/")
    return (path[0].lower(), path[2:]) if path[1:3] == ":/" else ("", path)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode(errors="replace")
    except OSError:
        return ""
