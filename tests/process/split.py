"""Command lines as they are written in tests and documents."""

from __future__ import annotations

import shlex


def split(line: str) -> list[str]:
    """Split a line as a shell does; a Windows path and a title that a process gave itself are one word."""
    if "::" in line.split(" ", 1)[0] or line.startswith("="):
        return [line.removeprefix("=")]
    if "\\" in line:
        program, dot, rest = line.partition(".exe")
        return [program + dot, *rest.split()]
    return shlex.split(line)
