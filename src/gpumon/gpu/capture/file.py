"""A capture: what a driver answered, as a file that people can read and machines can replay."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


class CaptureError(ValueError):
    """A file is no capture that can be read; the message says why in one sentence."""


@dataclass(frozen=True, slots=True)
class Out:
    """The memory behind one argument after a call: its ctypes type, its bytes without the zeros that end them.

    `handles` are names of devices by the offset of their handle ("new" for a buffer's); `arrays` is what it points to.
    """

    type: str
    data: bytes = b""
    handles: dict[int, str] = field(default_factory=dict)
    arrays: dict[int, Out] = field(default_factory=dict)


@dataclass(slots=True)
class Answer:
    """A return code and what was filled, by the argument's position; `times` it was given in a row."""

    code: int
    outs: dict[int, Out]
    times: int = 1


@dataclass(slots=True)
class Capture:
    """All answers by the key of their call, in the order of time. `missing` symbols were not in the library."""

    gpumon: str
    driver: str
    masked: bool = False
    missing: set[str] = field(default_factory=set)
    answers: dict[str, list[Answer]] = field(default_factory=dict)


def dump(capture: Capture) -> str:
    """Give the text of a capture: JSON, with one line for each key."""
    head = {
        "format": FORMAT,
        "gpumon": capture.gpumon,
        "driver": capture.driver,
        "masked": capture.masked,
        "missing": sorted(capture.missing),
    }
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    rows = [
        f" {json.dumps(key)}: {json.dumps([_answer(one) for one in answers], separators=(',', ':'))}"
        for key, answers in sorted(capture.answers.items())
    ]
    body = ",\n".join(rows)
    return "{" + ",\n".join(lines) + ',\n"answers": {\n' + body + "\n}}\n"


def load(text: str) -> Capture:
    """Give the capture that a text holds; CaptureError says what is wrong with it."""
    try:
        read = json.loads(text)
        if read["format"] != FORMAT:
            raise CaptureError(f"the capture is of format {read['format']}, and this gpumon reads format {FORMAT}")
        answers = {key: [_read_answer(one) for one in rows] for key, rows in read["answers"].items()}
        return Capture(read["gpumon"], read["driver"], bool(read["masked"]), set(read["missing"]), answers)
    except CaptureError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaptureError(f"the file is no capture of gpumon's: {type(error).__name__} at {error}") from error


def read_file(path: Path) -> Capture:
    """Give the capture in a file; CaptureError names the file and what is wrong with it."""
    try:
        return load(path.read_text())
    except (OSError, CaptureError) as error:
        raise CaptureError(f"{path}: {error}") from error


def _answer(answer: Answer) -> list[Any]:
    return [answer.times, answer.code, {str(place): _out(out) for place, out in answer.outs.items()}]


def _out(out: Out) -> dict[str, Any]:
    row: dict[str, Any] = {"type": out.type}
    if out.type.startswith("c_char_Array") and out.data.isascii() and out.data.decode().isprintable():
        row["text"] = out.data.decode()
    else:
        row["hex"] = out.data.hex()
    if out.handles:
        row["handles"] = {str(offset): name for offset, name in out.handles.items()}
    if out.arrays:
        row["arrays"] = {str(offset): _out(array) for offset, array in out.arrays.items()}
    return row


def _read_answer(row: list[Any]) -> Answer:
    times, code, outs = row
    return Answer(int(code), {int(place): _read_out(out) for place, out in outs.items()}, int(times))


def _read_out(row: dict[str, Any]) -> Out:
    return Out(
        str(row["type"]),
        row["text"].encode() if "text" in row else bytes.fromhex(row["hex"]),
        {int(offset): str(name) for offset, name in row.get("handles", {}).items()},
        {int(offset): _read_out(array) for offset, array in row.get("arrays", {}).items()},
    )
