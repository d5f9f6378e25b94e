"""What gpumon does to stay small: one heap, no TLS library where nothing speaks TLS, nothing that only lies around."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from pathlib import Path

from gpumon.settings import Settings, options

_M_ARENA_MAX = -8  # malloc.h of glibc
_NO_LIMIT = 1 << 60  # version 1 writes the largest number of pages

# What structlog and aiohttp import where they find it, and gpumon has no use for: colours, green threads, codings that
# no scraper asks for. With all of them a daemon took 5 MB more.
EXTRAS = ("rich", "better_exceptions", "greenlet", "brotli", "brotlicffi", "aiodns")


def use_one_arena() -> None:
    """Have glibc keep one heap for all threads; to be called before a second thread is started.

    By default each thread gets a heap of its own, and what one thread frees another cannot use: over 10,000 ticks
    that was 0.8 MB of growth, with one heap 0.3 MB. The interpreter's lock keeps threads from contending for it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # not musl
        mallopt(_M_ARENA_MAX, 1)


def limit_bytes(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Give the memory limit of the container this runs in; None where there is none, or this is no container."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroups version 2, version 1
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None
    return None


def give_back() -> None:
    """Give the system back what is free inside the heap, after work that took much for a moment; takes about 1 ms."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # not musl
        trim(0)


def speaks_tls(settings: Settings, environ: Mapping[str, str], *, served: bool) -> bool:
    """Say whether anything will speak TLS: a port (`served`), or a client for an https address of ours."""
    addresses = [str(settings[option.name]) for option in options()]
    addresses += [value for name, value in environ.items() if name.startswith("OTEL_")]
    return served or any("https://" in address for address in addresses)


def leave_tls_out() -> None:
    """Have `import ssl` fail from here on, as in a Python that was built without it, which asyncio and aiohttp allow for.

    To be called before either is imported. Importing ssl takes 3.7 MB.
    """
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]


def leave_extras_out() -> None:
    """Have imports of EXTRAS fail from here on, which their importers allow for; to be called before these are."""
    for name in EXTRAS:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
