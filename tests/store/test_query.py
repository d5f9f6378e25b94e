"""A question whose asker has gone costs nothing any more."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from gpumon.store.database import connect, read
from gpumon.store.query import Unwanted, on_thread

# Nobody lives to see its answer.
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def test_who_has_gone_leaves_no_query_behind(tmp_path: Path) -> None:
    """Else whoever asks and goes has many at work at once, and gpumon could not end before the longest of them."""
    database = tmp_path / "gpumon.db"
    connect(database).close()
    begun, ended = threading.Event(), []

    def count(unwanted: Unwanted) -> None:
        connection = read(database, 60.0, unwanted)
        begun.set()
        try:
            connection.execute(ENDLESS)
        except sqlite3.OperationalError as error:
            ended.append(str(error))
        finally:
            connection.close()

    async def ask_and_go() -> None:
        asking = asyncio.create_task(on_thread(count))
        await asyncio.to_thread(begun.wait, 10)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert ended == ["interrupted"]

    asyncio.run(asyncio.wait_for(ask_and_go(), 20))


def test_what_a_thread_gives_or_raises_is_what_is_got() -> None:
    """Nothing is lost on the way between threads."""

    def fail(_: Unwanted) -> int:
        raise sqlite3.OperationalError("no such table")

    assert asyncio.run(on_thread(lambda unwanted: unwanted())) is False
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        asyncio.run(on_thread(fail))
