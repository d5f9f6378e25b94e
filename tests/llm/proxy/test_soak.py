"""The proxy does not grow, however many requests and connections pass."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from tests.llm.proxy.learning import CASES
from tests.llm.proxy.test_pump import run
from tests.llm.proxy.through import Through, through

NAMES = sorted(name for name, case in CASES.items() if len(case.response) < 3000 and not case.close)


def resident_bytes() -> int:
    """Give the process's resident memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    """Give how many files the process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def pour(t: Through, requests: int) -> None:
    """Send requests of every kind, 20 at a time; most keep their connection, one in ten leaves in the middle."""

    async def client(number: int) -> None:
        reader = writer = None
        for i in range(requests // 20):
            case = CASES[NAMES[(number + i) % len(NAMES)]]
            if writer is None:
                reader, writer = await t.connect()
            assert reader is not None
            t.server.scripts[case.path.partition("?")[0]] = case.response
            writer.write(case.request_bytes)
            if i % 10 == 9:
                await reader.read(100)
                writer.transport.abort()
                writer = None
            else:
                await reader.readexactly(len(case.response))
            t.server.got.clear()
            while not t.measured.empty():
                t.measured.get_nowait()
        if writer is not None:
            writer.close()

    # One kind of request at a time, because the answers are the server's for all.
    for number in range(20):
        await client(number)
    await t.idle()


@pytest.mark.parametrize("requests", [4_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_requests_leave_nothing_behind(requests: int) -> None:
    """Memory within 1 MB of what it was after the first, and no file more open."""

    async def main() -> None:
        async with through({}, seconds=1200) as t:
            await pour(t, 2_000)
            before, files = resident_bytes(), open_files()
            await pour(t, requests)
            health = await t.health()
            assert health["connections_total"] > requests / 10
            assert health["requests_running"] == 0
            assert open_files() <= files
            assert resident_bytes() - before <= 1 << 20

    run(main())
