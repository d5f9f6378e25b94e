"""Questions to the database from the loop: answered on a thread, which stops when nobody waits for the answer any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
Unwanted = Callable[[], bool]


async def on_thread(work: Callable[[Unwanted], T]) -> T:
    """Give what `work` gives; its argument tells it, from any thread, that the answer is not wanted any more.

    When this is cancelled it ends only with the thread: else who comes and goes would have many at work, however few
    are let in at a time, and the process could not end before them.
    """
    gone = threading.Event()
    working = asyncio.ensure_future(asyncio.to_thread(work, gone.is_set))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        gone.set()
        await asyncio.gather(working, return_exceptions=True)
        raise
