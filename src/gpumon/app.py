"""The service: puts its parts together, and keeps them running until told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from gpumon import __version__, log
from gpumon.catalog import DAEMON, Entity
from gpumon.daemon import STAND_INS, Daemon, StartError
from gpumon.gpu.nvml import Nvml, RefusedError
from gpumon.health import data_dir_trouble
from gpumon.memory import use_one_arena
from gpumon.parts import PARTS, user_rules
from gpumon.sampler import Sampler
from gpumon.settings import Settings, reserved_in_use

if TYPE_CHECKING:
    from gpumon.web.webconfig import WebConfig

# The node that `--simulate auto` shows where there is no GPU.
DEFAULT_PROFILE = "h100x8"


def run(settings: Settings, simulate: str | None, web_config: WebConfig | None = None) -> int:
    """Serve until SIGTERM or SIGINT; give the exit code. Raises StartError and ValueError before anything is started."""
    use_one_arena()
    log.configure(settings.service.log_level, settings.service.log_format)
    user_rules(settings)
    nvml, driver = _library(settings, simulate)
    return asyncio.run(_serve(Daemon(settings, structlog.get_logger(), nvml, driver, web_config)))


def _library(settings: Settings, simulate: str | None) -> tuple[Nvml | None, str]:
    """Give the door to the driver, and what to call the driver when it is open."""
    if simulate == "auto":
        simulate = None if settings.gpu.enable_nvml and _has_gpus() else DEFAULT_PROFILE
    if simulate is not None:
        # Only here, so that a daemon on real GPUs does not carry the simulation.
        from gpumon.gpu.standin import is_capture, stand_in

        try:
            return Nvml(stand_in(simulate)), "replayed" if is_capture(simulate) else "simulated"
        except ValueError as error:
            raise StartError(f"--simulate: {error}") from error
    return (Nvml(), "nvml") if settings.gpu.enable_nvml else (None, "none")


def _has_gpus() -> bool:
    nvml = Nvml()
    try:
        nvml.open()
        count: int = nvml.call("nvmlDeviceGetCount")
        nvml.close()
    except RefusedError:
        return False
    return count > 0


async def _serve(daemon: Daemon) -> int:
    """Run all parts until stopped; give the exit code."""
    logger = daemon.logger
    _warn(daemon)
    async with AsyncExitStack() as stack:  # what is started is stopped, the last first
        for part in PARTS:
            await stack.enter_async_context(part(daemon))
        stack.callback(daemon.stop.set)  # the first thing that all parts learn
        _handle_signals(daemon)
        sampler = Sampler(
            tuple(daemon.sources),
            daemon.hub,
            logger,
            interval=daemon.settings.service.poll_interval_secs,
            own=lambda ticks, late: _own(daemon, ticks, late),
            then=tuple(daemon.then),
            recorder=daemon.recorder,
        )
        logger.info("gpumon is running", version=__version__, **daemon.listens)
        await _until_stopped(daemon, sampler.run())
    if daemon.gpu.fatal is not None:
        logger.error("cannot read GPUs in this process any more", reason=daemon.gpu.fatal)
        return 1
    logger.info("stopped")
    return 0


def _warn(daemon: Daemon) -> None:
    """Say at the start what is not as it should be."""
    logger, settings = daemon.logger, daemon.settings
    if daemon.stands_in:
        logger.warning(STAND_INS[daemon.opened_driver])
    for setting in reserved_in_use(settings):
        logger.warning("setting has no effect in this version", setting=setting)
    for note in daemon.web_config.notes if daemon.web_config is not None else ():
        logger.warning("web-config", note=note)
    data_dir = Path(settings.service.data_dir).expanduser()
    trouble = data_dir_trouble(data_dir)
    if trouble is not None:
        logger.warning("data directory cannot be used", data_dir=str(data_dir), reason=trouble)


def _own(daemon: Daemon, ticks: int, late: int) -> Iterator[Entity]:
    """Give what gpumon says of itself with a snapshot."""
    if daemon.gpu.fatal is not None:
        daemon.stop.set()
    yield Entity(DAEMON, (), (1, daemon.gpu.gpu_count, ticks, late, daemon.started))
    for own in daemon.own:
        yield from own()


async def _until_stopped(daemon: Daemon, sampling: Coroutine[object, object, None]) -> None:
    """Sample until told to stop; raises what ended the sampling before."""
    tasks = asyncio.create_task(sampling), asyncio.create_task(daemon.stop.wait())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    if tasks[0].done():
        tasks[0].result()


def _handle_signals(daemon: Daemon) -> None:
    """Stop on SIGTERM and SIGINT; give the driver back and take it again on SIGUSR1 and SIGUSR2."""
    loop = asyncio.get_running_loop()
    working: set[asyncio.Task[None]] = set()  # the loop itself keeps no task alive

    def begin(work: Coroutine[object, object, object]) -> None:
        async def carry_out() -> None:
            daemon.logger.info("maintenance", answer=await work)

        task = asyncio.create_task(carry_out())
        working.add(task)
        task.add_done_callback(working.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop.set)
    loop.add_signal_handler(signal.SIGUSR1, lambda: begin(daemon.gpu.release()))
    loop.add_signal_handler(signal.SIGUSR2, lambda: begin(daemon.gpu.resume()))
