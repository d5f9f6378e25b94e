"""An API server on a free port of this machine, over a snapshot and a history that are known."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.snapshots import node
from tests.store.nodes import START, Node

from gpumon.catalog import Snapshot
from gpumon.catalog.records import Event, LlmSession, ProcessEvent
from gpumon.hub import Hub
from gpumon.settings import Api, Settings
from gpumon.store.database import connect
from gpumon.store.writer import Writer, pack, pack_records
from gpumon.web.api.server import ApiServer

# An hour and a half of two GPUs, every 10 s; what tests ask for as the past.
INTERVAL, TICKS = 10.0, 540
NOW = START + INTERVAL * TICKS


def settings(data_dir: Path | None = None, **api: Any) -> Settings:
    """Give settings for a server under test; without a folder nothing is kept."""
    defaults = Settings()
    return replace(
        defaults,
        api=Api(port=0, **api),
        service=replace(defaults.service, data_dir=str(data_dir or "/nonexistent")),
        storage=replace(defaults.storage, enabled=data_dir is not None),
    )


@asynccontextmanager
async def serving(
    hub: Hub | None = None, data_dir: Path | None = None, *, options: Any = None, **api: Any
) -> AsyncIterator[ApiServer]:
    """Serve for the length of the block."""
    server = ApiServer(settings(data_dir, **api), hub or filled(), started=START, wall=lambda: NOW, **(options or {}))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@contextmanager
def serving_apart(data_dir: Path | None = None, **api: Any) -> Iterator[str]:
    """Serve on a loop in another thread, for clients that wait; give the URL."""
    started: list[str] = []
    ready = threading.Event()
    stopping: list[Callable[[], None]] = []

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        stopping.append(lambda: loop.call_soon_threadsafe(stop.set) and None)
        hub, now = filled(), time.monotonic()  # for the snapshot to stay new, time stands still
        options = {"processes": lambda: (), "clock": lambda: now}
        async with serving(hub, data_dir, options=options, **api) as server:
            started.append(f"http://127.0.0.1:{server.port}")
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield started[0]
    finally:
        stopping[0]()
        thread.join(10)


def filled(snapshot: Snapshot | None = None) -> Hub:
    """Give a hub with a snapshot of this moment."""
    hub = Hub()
    hub.latest = replace(snapshot or node(gpus=2, links=2), monotonic=time.monotonic())
    return hub


def history(folder: Path) -> Path:
    """Write a history of two GPUs up to NOW, with some records of every kind and a weekly summary."""
    connection = connect(folder / "gpumon.db")
    writer = Writer(connection)
    snapshots = [pack(snapshot) for snapshot in Node(gpus=2, interval=INTERVAL).snapshots(TICKS)]
    writer.write([*snapshots, pack_records(records())])
    with connection:
        connection.execute(
            "INSERT INTO weekly_summaries (week_start, week_end, subject, name, gpu_id, busy_hours) VALUES (?, ?, ?, ?, ?, ?)",
            ("2026-11-16 00:00:00.000", "2026-11-23 00:00:00.000", "gpu", "GPU-0", 0, 31.5),
        )
    connection.close()
    return folder


def records() -> Iterator[Event | LlmSession | ProcessEvent]:
    """Give ten records of each kind, one every 500 s."""
    for i in range(10):
        moment = START + 500.0 * i
        yield Event(
            timestamp=moment,
            kind="xid" if i % 2 else "device_lost",
            message=f"event {i}",
            gpu_id=i % 3 % 2,
            detail='{"xid": "79", "advice": "Restart the node."}' if i % 2 else None,
        )
        yield LlmSession(started_at=moment, model="llama3.1:8b" if i % 2 else "qwen3", total_tokens=i)
        yield ProcessEvent(timestamp=moment, event="start", pid=100 + i, category="ml_training", gpu_id=0)
