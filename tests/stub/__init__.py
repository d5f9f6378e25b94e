"""Builds and steers the C stand-in for the driver's library; `stub.h` says what it answers and obeys."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

SOURCES = sorted(Path(__file__).parent.glob("*.c"))
LIBRARY = "libnvidia-ml.so.1"


class UnbuildableError(Exception):
    """The library cannot be built on this machine; the text says what is missing."""


class Count(NamedTuple):
    """What clients did, from the file NVML_STUB_COUNT: calls but waits, waits for events; the rest is in being now."""

    calls: int
    waits: int
    initialised: int
    event_sets: int
    gpm_samples: int


def build(folder: Path, without: Iterable[str] = ()) -> Path:
    """Compile the library into `folder`, which is made and returned; functions named in `without` are left out.

    Raises UnbuildableError without a C compiler or NVIDIA's header, CalledProcessError when the source does not fit the header.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise UnbuildableError("no C compiler (cc)")
    folder.mkdir(parents=True, exist_ok=True)
    exports = folder / "exports.map"
    hidden = " ".join(f"{name};" for name in (*without, "*"))
    exports.write_text(f"{{ global: nvml*; local: {hidden} }};")
    flags = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{_header()}")
    command = [
        compiler,
        *flags,
        f"-Wl,--version-script={exports}",
        *map(str, SOURCES),
        "-o",
        str(folder / LIBRARY),
        "-lm",
        "-pthread",
    ]
    subprocess.run(command, check=True)
    return folder


def _header() -> Path:
    try:
        files = metadata.files("nvidia-nvml-dev") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "nvml.h":
            return Path(str(file.locate())).parent
    raise UnbuildableError("no nvml.h (package nvidia-nvml-dev)")


def environment(
    folder: Path,
    *,
    gpus: int = 1,
    mig: bool = False,
    pids: Iterable[int] = (),
    clock: float | None = None,
    control: Path | None = None,
    count: Path | None = None,
) -> dict[str, str]:
    """Give the environment for a child that shall find the library in `folder`; the rest as `stub.h` says."""
    settings = {
        "LD_LIBRARY_PATH": str(folder),
        "NVML_STUB_GPUS": str(gpus),
        "NVML_STUB_MIG": str(int(mig)),
        "NVML_STUB_PIDS": " ".join(map(str, pids)),
        "NVML_STUB_CLOCK": clock,
        "NVML_STUB_CONTROL": control,
        "NVML_STUB_COUNT": count,
    }
    return os.environ | {name: str(value) for name, value in settings.items() if value is not None}


def order(control: Path, *orders: str) -> None:
    """Replace the orders in force by `orders`; the library obeys from its next call on."""
    draft = control.with_suffix(".new")
    draft.write_text("".join(f"{line}\n" for line in orders))
    draft.replace(control)


def read_count(count: Path) -> Count:
    """Give what has been counted so far."""
    return Count(*struct.unpack("5Q", count.read_bytes()))
