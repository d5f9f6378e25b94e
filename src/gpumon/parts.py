"""The parts of the daemon: each is built, started, and stopped again, in one function.

A part is an async context manager over the Daemon. What it imports only for itself is imported inside it, so that who
has switched it off does not pay its memory.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gpumon import __version__
from gpumon.catalog import BUILD, Entity
from gpumon.daemon import Daemon, StartError
from gpumon.gpu.kmsg import KernelLog
from gpumon.gpu.nvml import RefusedError
from gpumon.gpu.source import GAP_TICKS, GpuSource
from gpumon.gpu.xid import XidLog
from gpumon.health import trouble
from gpumon.host import HostSource
from gpumon.llm.discovery import named
from gpumon.llm.names import ModelNames
from gpumon.llm.sessions import WAITING_LIMIT, Sessions
from gpumon.llm.source import LlmSource
from gpumon.settings import Settings
from gpumon.trace import OFF, Recorder

if TYPE_CHECKING:
    from gpumon.catalog.records import Event
    from gpumon.llm.proxy.exchange import Measured
    from gpumon.process.rules import Rule

Part = Callable[[Daemon], AbstractAsyncContextManager[None]]

# SIGTERM ends the service within 3 s whatever the driver does; this much is for giving it back.
STOP_SECONDS = 2.0


@asynccontextmanager
async def _ended_beside_the_rest(daemon: Daemon, end: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Begin to end a part as soon as the daemon is to stop: who does not answer it takes most of the time there is."""

    async def flush() -> None:
        await daemon.stop.wait()
        await end()

    flushing = asyncio.create_task(flush())
    try:
        yield
    finally:
        daemon.stop.set()
        await flushing


@asynccontextmanager
async def telling(daemon: Daemon) -> AsyncIterator[None]:
    """Send readings by OTLP, where there is somewhere to send them to."""
    from gpumon.export import otlp

    settings = daemon.settings
    recorder = Recorder() if settings.telemetry.otlp_traces else OFF
    export = otlp.start(
        settings,
        lambda: daemon.hub.latest,
        environ=os.environ,
        version=__version__,
        started=daemon.started,
        logger=daemon.logger,
        recorder=recorder,
    )
    if export is None:
        yield
        return
    daemon.recorder = recorder  # without an export nobody would drain it
    daemon.own.append(export.entities)
    async with _ended_beside_the_rest(daemon, lambda: asyncio.to_thread(export.stop)):
        yield


@asynccontextmanager
async def alerts(daemon: Daemon) -> AsyncIterator[None]:
    """Look for alerts, keep them as events, and send them on."""
    if not daemon.settings.alerts.enabled:
        yield
        return
    from gpumon.export.alerts import make

    def record(event: Event) -> None:
        if daemon.store is not None:
            daemon.store.append(event)

    watch = make(daemon.settings, daemon.hub, environ=os.environ, logger=daemon.logger, record=record)
    daemon.own.append(watch.entities)
    watch.start()
    async with _ended_beside_the_rest(daemon, watch.stop):
        yield


@asynccontextmanager
async def gpus(daemon: Daemon) -> AsyncIterator[None]:
    """Read the GPUs, and the XIDs that the kernel's log has."""
    settings, interval = daemon.settings.gpu, daemon.settings.service.poll_interval_secs
    xids, smi = XidLog(), None
    if settings.fallback_to_nvidia_smi:
        from gpumon.gpu.smi import LONGEST_GAP_SECONDS, NvidiaSmi

        longest_gap = max(LONGEST_GAP_SECONDS, GAP_TICKS * interval)
        smi = NvidiaSmi(settings.nvidia_smi_path, longest_gap_seconds=longest_gap, xids=xids)
    daemon.gpu = source = GpuSource(
        settings,
        daemon.nvml,
        daemon.logger,
        interval=interval,
        xids=xids,
        smi=smi,
        processes=_with_processes(daemon),
        recorder=daemon.recorder,
    )
    daemon.sources.append(source)
    daemon.own.append(lambda: _build(daemon))
    kernel_log = KernelLog(xids) if settings.read_kernel_log and not daemon.stands_in else None
    if kernel_log is not None and not kernel_log.start():
        daemon.logger.info("the kernel log is not read for XIDs", reason=kernel_log.problem)
    try:
        yield
    finally:
        if kernel_log is not None:
            kernel_log.close()
        await source.stop(STOP_SECONDS)


def _build(daemon: Daemon) -> Iterator[Entity]:
    yield Entity(BUILD, (__version__, platform.python_version(), daemon.gpu.nvml_version, daemon.driver), (1,))


def _with_processes(daemon: Daemon) -> bool:
    # The pids of a replayed capture are of another machine, or of another time.
    return daemon.settings.processes.enabled and daemon.opened_driver != "replayed"


def user_rules(settings: Settings) -> tuple[Rule, ...]:
    """Give the rules of the settings. Raises SettingsError."""
    if not settings.processes.rules:
        return ()
    from gpumon.process.userrules import parse_rules

    return parse_rules(settings.processes.rules)


@asynccontextmanager
async def processes(daemon: Daemon) -> AsyncIterator[None]:
    """Find out who uses the GPUs, and ask the kubelet for the names of pods."""
    if not _with_processes(daemon):
        yield
        return
    from gpumon.process.classify import Classifier
    from gpumon.process.jobs import Jobs
    from gpumon.process.podlabels import ApiServer
    from gpumon.process.pods import Pods
    from gpumon.process.rules import RULES
    from gpumon.process.source import ProcessSource
    from gpumon.servers import Servers

    settings, kubernetes = daemon.settings.processes, daemon.settings.kubernetes
    wanted = frozenset(label.strip() for label in kubernetes.pod_labels.split(",") if label.strip())
    async with AsyncExitStack() as stack:
        api = ApiServer(kubernetes.node_name, wanted) if wanted else None
        if api is not None:
            stack.push_async_callback(api.close)
        pods = Pods(kubernetes, daemon.logger, api, in_kubernetes="KUBERNETES_SERVICE_HOST" in os.environ)
        asking = asyncio.create_task(pods.run())
        stack.callback(asking.cancel)
        simulated = daemon.opened_driver == "simulated"
        daemon.processes = source = ProcessSource(
            settings,
            lambda: daemon.gpu.uses,
            interval=daemon.settings.service.poll_interval_secs,
            classifier=Classifier((*user_rules(daemon.settings), *RULES)),
            places=(pods, Jobs(Path(settings.job_mapping_dir))) if settings.job_mapping_dir else (pods,),
            simulated_name=(lambda pid: _simulated_name(daemon, pid)) if simulated else None,
        )
        stack.push_async_callback(source.stop)
        daemon.then.append(source)
        if not simulated:  # else none of the processes is real
            daemon.servers = Servers(source.tracked, source.proc)
        yield


def _simulated_name(daemon: Daemon, pid: int) -> str | None:
    """Give what a simulated driver calls one of its processes, which are in no /proc."""
    assert daemon.nvml is not None
    try:
        return str(daemon.nvml.call("nvmlSystemGetProcessName", pid))
    except RefusedError:
        return None


@asynccontextmanager
async def models(daemon: Daemon) -> AsyncIterator[None]:
    """Watch model servers."""
    settings = daemon.settings
    waiting_limit = WAITING_LIMIT if settings.storage.enabled else 0
    daemon.sessions = Sessions(ModelNames(settings.llm.model_limit), waiting_limit=waiting_limit)
    targets = named(settings.ollama, settings.llm)
    if settings.proxy.listen:
        from gpumon.llm.proxy.server import watched

        targets = watched(targets, settings)
    source = LlmSource(
        targets,
        daemon.sessions,
        daemon.logger,
        interval=settings.llm.poll_interval_secs,
        servers=lambda: () if daemon.servers is None else daemon.servers.processes(),
        energy=lambda whose: () if daemon.servers is None else daemon.servers.energy(whose),
    )
    daemon.sources.append(source)
    source.start()
    try:
        yield
    finally:
        await source.stop()


@asynccontextmanager
async def proxy(daemon: Daemon) -> AsyncIterator[None]:
    """Pass requests on to a model server and measure them."""
    settings = daemon.settings
    if not settings.proxy.listen:
        yield
        return
    from gpumon.llm.proxy.server import Proxy, upstream

    def take(measured: Measured) -> None:
        daemon.sessions.record(measured.request)
        if daemon.recorder is not OFF:
            daemon.recorder.add(measured.span())

    source = Proxy(settings.proxy, upstream(settings), daemon.logger, take)
    await source.start()
    daemon.sources.append(source)
    daemon.logger.info("proxy listens", listen=settings.proxy.listen, upstream=source.upstream)
    try:
        yield
    finally:
        await source.stop()


@asynccontextmanager
async def host(daemon: Daemon) -> AsyncIterator[None]:
    """Read what the kernel tells of the machine and of gpumon."""
    daemon.sources.append(HostSource())
    yield


@asynccontextmanager
async def history(daemon: Daemon) -> AsyncIterator[None]:
    """Keep history; StartError where the database is a newer gpumon's."""
    if not daemon.settings.storage.enabled:
        yield
        return
    from gpumon.store.database import NewerDatabaseError, refuse_newer
    from gpumon.store.incident import nobody
    from gpumon.store.job import Job
    from gpumon.store.sink import Store

    job = Job.of(daemon.settings)
    try:
        refuse_newer(job.database)
    except NewerDatabaseError as error:
        raise StartError(str(error)) from error
    except (OSError, sqlite3.Error):
        pass  # said, once, by the store
    holders = nobody if daemon.processes is None else daemon.processes.holders
    daemon.store = store = Store(job, logger=daemon.logger, holders=holders)

    def own() -> Iterator[Entity]:
        store.append(*daemon.sessions.drain())
        if daemon.processes is not None:
            store.append(*daemon.processes.drain_events())
        yield from store.entities()

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            daemon.logger.error("history is no longer kept", exc_info=task.exception())

    daemon.own.append(own)
    store.start()
    keeping = asyncio.create_task(store.run(daemon.hub))
    keeping.add_done_callback(ended)
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        store.stop(STOP_SECONDS)


@asynccontextmanager
async def metrics(daemon: Daemon) -> AsyncIterator[None]:
    """Serve /metrics, /healthz and /readyz; StartError where the port cannot be had."""
    if not daemon.settings.telemetry.enable_prometheus:
        yield
        return
    from gpumon.web.metrics import MetricsServer

    web_config = daemon.web_config
    server = MetricsServer(
        daemon.settings,
        daemon.hub,
        alive=lambda: trouble(daemon),
        release=daemon.gpu.release,
        resume=daemon.gpu.resume,
        web_config=web_config,
    )
    try:
        await server.start()
    except OSError as error:
        raise StartError(str(error)) from error
    scheme = "https" if web_config is not None and web_config.tls is not None else "http"
    daemon.listens["metrics"] = f"{scheme}://localhost:{server.port}/metrics"
    try:
        yield
    finally:
        await server.stop()


@asynccontextmanager
async def api(daemon: Daemon) -> AsyncIterator[None]:
    """Serve the API and the page."""
    if not daemon.settings.api.enabled:
        yield
        return
    from gpumon.web.api.server import ApiServer

    records = None if daemon.processes is None else daemon.processes.records
    server = ApiServer(daemon.settings, daemon.hub, started=daemon.started, processes=records)
    await server.start()
    daemon.listens["page"] = f"http://localhost:{server.port}/"
    try:
        yield
    finally:
        await server.stop()


# In the order in which they start: each may use what those before it put into the Daemon. They stop the other way round.
PARTS: tuple[Part, ...] = (telling, alerts, gpus, processes, metrics, api, history, models, proxy, host)
