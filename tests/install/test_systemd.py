"""The unit is one that systemd takes, and it leaves the service little that it could harm."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="NOT TESTED: systemd-analyze is not installed"),
]

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "examples" / "systemd" / "gpumon.service"


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze over the unit."""
    command = ["systemd-analyze", *arguments, "--no-pager", str(UNIT)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_exposure_is_below_two() -> None:
    """As systemd itself counts it, of ten; 19 is 1.9."""
    done = analyze("security", "--offline=true", "--threshold=19")
    assert done.returncode == 0, done.stdout[-300:]


def test_systemd_understands_every_line() -> None:
    """Nothing is said of it but that the program is not installed here."""
    said = [line for line in analyze("verify").stderr.splitlines() if "gpumon.service" in line]
    assert all("is not executable" in line for line in said), said


def test_the_installer_puts_things_where_the_unit_looks() -> None:
    """Program and settings have the same paths in the unit and in the Makefile."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    program, *_, config = parser["Service"]["ExecStart"].split()
    makefile = (ROOT / "Makefile").read_text()
    assert program == "/opt/gpumon/bin/python"
    assert f"$(DESTDIR){config}" in makefile
    assert "OPT := $(DESTDIR)/opt/gpumon\n" in makefile
