"""Steam's files say which folder is a game's, and a folder that only looks like one is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumon.process.steam import GAME, TOOL, Steam, apps, libraries, parse

MANIFEST = '"AppState"\n{\n\t"appid"\t\t"%s"\n\t"name"\t\t"%s"\n\t"installdir"\t\t"%s"\n}\n'


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Give a home folder with Steam, and a second library elsewhere."""
    first, second = tmp_path / "home/.local/share/Steam", tmp_path / 'games/Steam "Library"'
    for library in (first, second):
        (library / "steamapps/common").mkdir(parents=True)
    quoted = str(second).replace('"', '\\"')
    folders = f'"libraryfolders"\n{{\n "0"\n {{\n "path" "{first}"\n "apps" {{ "570" "1" }}\n }}\n "1" "{quoted}"\n}}'
    (first / "steamapps/libraryfolders.vdf").write_text(folders)
    (first / "steamapps/appmanifest_570.acf").write_text(MANIFEST % (570, "Dota 2", "dota 2 beta"))
    (first / "steamapps/appmanifest_228980.acf").write_text(MANIFEST % (1, "Proton 9.0", "Proton 9.0 (Beta)"))
    (second / "steamapps/appmanifest_620.acf").write_text(MANIFEST % (620, "Portal 2", "Portal 2"))
    return tmp_path / "home"


def test_libraries_and_apps_are_read(home: Path) -> None:
    """Entries of both forms that Steam has written, quotes in paths included."""
    first, second = libraries(home)
    assert apps(first) == {"dota 2 beta": "dota 2", "proton 9.0 (beta)": "proton 9.0"}
    assert apps(second) == {"portal 2": "portal 2"}


def test_programs_of_installed_games_are_games(home: Path) -> None:
    """On Linux, and on Windows seen through Wine; Proton itself is a tool."""
    steam, (first, second) = Steam(), libraries(home)
    wine = str(second / "steamapps/common/Portal 2/p.exe").replace("/", "\\")
    assert steam.place(str(first / "steamapps/common/dota 2 beta/game/dota2"), home) == GAME
    assert steam.place(f"Z:{wine}", home) == GAME
    assert steam.place("S:\\common\\Portal 2\\p.exe", home) == GAME
    assert steam.place(str(first / "steamapps/common/Proton 9.0 (Beta)/files/bin/wine64-preloader"), home) == TOOL


def test_other_folders_are_none(home: Path) -> None:
    """A folder called like a library, of a user whose libraries are known, is none; nor is one above the game."""
    steam, (first, _) = Steam(), libraries(home)
    assert steam.place("/srv/steamapps/common/x/y", home) == ""
    assert steam.place(str(first / "ubuntu12_32/steam"), home) == ""
    assert steam.place("/home/steam/game.exe", home) == ""
    assert steam.place("", home) == ""


def test_where_libraries_cannot_be_read_the_layout_counts() -> None:
    """As from a container, or of another user."""
    steam = Steam()
    assert steam.place("/mnt/g/steamapps/common/Half-Life 3/hl3", None) == GAME
    assert steam.place("/mnt/g/steamapps/common/SteamVR/bin/vrserver", None) == TOOL


@pytest.mark.parametrize(
    "text", ["", "}", '"a" "b" }}} {', '"a" {', '"unfinished', '{{{{ "x" "y"', "\0\0", '"a" "b" "c"']
)
def test_malformed_files_do_no_harm(text: str) -> None:
    """What can be read of them is read."""
    assert isinstance(parse(text), dict)
