"""What `--simulate` puts in the driver's place: a simulated node, or a capture that is replayed."""

from __future__ import annotations

from pathlib import Path

from gpumon.gpu.capture.file import read_file
from gpumon.gpu.capture.replay import ReplayLibrary
from gpumon.gpu.simulate import SimulatedLibrary, parse_profile


def is_capture(text: str) -> bool:
    """Say whether `text` names a capture and not a profile."""
    return text.endswith(".json")


def stand_in(text: str) -> object:
    """Give the library that a profile such as h100x8, or a capture's file name (*.json), names.

    ValueError says in one sentence what is wrong with it.
    """
    if is_capture(text):
        return ReplayLibrary(read_file(Path(text)))
    return SimulatedLibrary(parse_profile(text))
