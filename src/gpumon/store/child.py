"""Child processes, so that pyarrow is never in the daemon."""

from __future__ import annotations

import asyncio
import os
import sys

# One malloc arena, and memory given back at once: a child of 200 MB that ends soon needs no speed from keeping it.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "MIMALLOC_PURGE_DELAY": "0"}


class ChildError(Exception):
    """A child process failed; the message is the last it said."""


async def run_child(module: str, request: str, seconds: float) -> str:
    """Run `python -m module` with `request` on its standard input and give its output.

    Raises ChildError when it fails or takes longer than that; it is killed then, and when this is cancelled.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module), stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ | ENVIRONMENT
    )
    try:
        async with asyncio.timeout(seconds):
            output, errors = await process.communicate(request.encode())
    except TimeoutError:
        raise ChildError(f"{module} took longer than {seconds:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = errors.decode(errors="replace").strip().splitlines()
        raise ChildError(lines[-1] if lines else f"{module} ended with {process.returncode}")
    return output.decode()
