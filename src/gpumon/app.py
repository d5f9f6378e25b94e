"""The service: builds sources, hub and sinks from the settings, and keeps them running until told to stop."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sqlite3
import time
from collections.abc import Coroutine, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from gpumon import __version__, log
from gpumon.catalog import BUILD, DAEMON, Entity
from gpumon.gpu.kmsg import KernelLog
from gpumon.gpu.nvml import Nvml, RefusedError
from gpumon.gpu.source import GAP_TICKS, GpuSource
from gpumon.gpu.xid import XidLog
from gpumon.host import HostSource
from gpumon.hub import Hub
from gpumon.llm.discovery import named
from gpumon.llm.names import ModelNames
from gpumon.llm.sessions import WAITING_LIMIT, Sessions
from gpumon.llm.source import LlmSource
from gpumon.log import Logger
from gpumon.memory import use_one_arena
from gpumon.sampler import Sampler
from gpumon.settings import Settings, reserved_in_use
from gpumon.source import Source
from gpumon.trace import OFF, Off, Recorder

if TYPE_CHECKING:
    from gpumon.export.otlp import Otlp
    from gpumon.llm.proxy.exchange import Measured
    from gpumon.process.rules import Rule
    from gpumon.process.source import ProcessSource
    from gpumon.servers import Servers
    from gpumon.store.sink import Store
    from gpumon.web.webconfig import WebConfig

# The node that `--simulate auto` shows where there is no GPU.
DEFAULT_PROFILE = "h100x8"

# What is not this machine's own driver, and what to say then.
STAND_INS = {
    "simulated": "GPUs are simulated: no number about them is real",
    "replayed": "GPUs are replayed from a capture: no number about them is of now",
}

# SIGTERM ends the service within 3 s whatever the driver does; this much is for giving it back.
STOP_SECONDS = 2.0

# Without a new snapshot for so many ticks, and at least so many seconds, the sampler is taken for dead.
DEAD_TICKS, DEAD_SECONDS = 10, 30.0


class StartError(Exception):
    """The service cannot start; the message is one sentence that says what to change."""


def run(settings: Settings, simulate: str | None, web_config: WebConfig | None = None) -> int:
    """Serve until SIGTERM or SIGINT; give the exit code. Raises StartError and ValueError before anything is started."""
    use_one_arena()
    log.configure(settings.service.log_level, settings.service.log_format)
    nvml, driver = _library(settings, simulate)
    return asyncio.run(Service(settings, nvml, driver, web_config).serve())


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


def user_rules(settings: Settings) -> tuple[Rule, ...]:
    """Give the rules of the settings. Raises SettingsError."""
    if not settings.processes.rules:
        return ()
    from gpumon.process.userrules import parse_rules

    return parse_rules(settings.processes.rules)


def _has_gpus() -> bool:
    nvml = Nvml()
    try:
        nvml.open()
        count: int = nvml.call("nvmlDeviceGetCount")
        nvml.close()
    except RefusedError:
        return False
    return count > 0


class Service:
    """Everything that runs, put together."""

    def __init__(self, settings: Settings, nvml: Nvml | None, driver: str, web_config: WebConfig | None) -> None:
        self._settings = settings
        self._logger: Logger = structlog.get_logger()
        self._driver = driver
        self._web_config = web_config
        self._nvml = nvml
        self._hub = Hub()
        self._started = time.time()
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._recorder: Recorder | Off = OFF
        self._otlp: Otlp | None = None
        self._otlp_end: asyncio.Task[bool] | None = None
        self._rules = user_rules(settings)
        self._servers: Servers | None = None
        self._store = self._make_store()
        waiting_limit = 0 if self._store is None else WAITING_LIMIT
        self.sessions = Sessions(ModelNames(settings.llm.model_limit), waiting_limit=waiting_limit)
        targets = named(settings.ollama, settings.llm)
        if settings.proxy.listen:
            from gpumon.llm.proxy.server import watched

            targets = watched(targets, settings)
        self._llm = LlmSource(
            targets,
            self.sessions,
            self._logger,
            interval=settings.llm.poll_interval_secs,
            servers=lambda: () if self._servers is None else self._servers.processes(),
            energy=lambda whose: () if self._servers is None else self._servers.energy(whose),
        )
        self._warn()

    def _make_store(self) -> Store | None:
        """Give the store, if history is to be kept; StartError where the database is a newer gpumon's."""
        if not self._settings.storage.enabled:
            return None
        from gpumon.store.database import NewerDatabaseError, refuse_newer
        from gpumon.store.job import Job
        from gpumon.store.sink import Store

        job = Job.of(self._settings)
        try:
            refuse_newer(job.database)
        except NewerDatabaseError as error:
            raise StartError(str(error)) from error
        except (OSError, sqlite3.Error):
            pass  # said, once, by the store
        return Store(job, logger=self._logger)

    def _warn(self) -> None:
        """Say at the start what is not as it should be."""
        if self._driver in STAND_INS:
            self._logger.warning(STAND_INS[self._driver])
        for setting in reserved_in_use(self._settings):
            self._logger.warning("setting has no effect in this version", setting=setting)
        for note in self._web_config.notes if self._web_config is not None else ():
            self._logger.warning("web-config", note=note)
        data_dir = Path(self._settings.service.data_dir).expanduser()
        trouble = data_dir_trouble(data_dir)
        if trouble is not None:
            self._logger.warning("data directory cannot be used", data_dir=str(data_dir), reason=trouble)

    async def serve(self) -> int:
        """Run sources and sinks until stopped; give the exit code."""
        async with AsyncExitStack() as stack:  # what is started is stopped, the last first
            self._start_otlp()
            stack.push_async_callback(self._end_otlp)
            xids = XidLog()
            self._gpu = self._gpu_source(xids)
            self._processes = self._process_source(stack)
            self._servers = self._find_servers()
            stack.push_async_callback(self._gpu.stop, STOP_SECONDS)
            self._read_kernel_log(xids, stack)
            await self._serve_metrics(stack)
            if self._store is not None:
                self._store.start()
                stack.callback(self._store.stop, STOP_SECONDS)
                keeping = asyncio.create_task(self._store.run(self._hub))
                keeping.add_done_callback(self._history_ended)
                stack.push_async_callback(_ended, keeping)
            self._handle_signals()
            self._llm.start()
            stack.push_async_callback(self._llm.stop)
            proxies = await self._serve_proxy(stack)
            sampler = Sampler(
                (self._gpu, self._llm, *proxies, HostSource()),
                self._hub,
                self._logger,
                interval=self._settings.service.poll_interval_secs,
                own=self._own,
                then=() if self._processes is None else (self._processes,),
                recorder=self._recorder,
            )
            stack.callback(self._begin_to_end_otlp)
            await self._until_stopped(sampler.run())
        if self._gpu.fatal is not None:
            self._logger.error("cannot read GPUs in this process any more", reason=self._gpu.fatal)
            return 1
        self._logger.info("stopped")
        return 0

    def _history_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._logger.error("history is no longer kept", exc_info=task.exception())

    async def _until_stopped(self, sampling: Coroutine[object, object, None]) -> None:
        """Sample until told to stop; raises what ended the sampling before."""
        tasks = asyncio.create_task(sampling), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        if tasks[0].done():
            tasks[0].result()

    def _gpu_source(self, xids: XidLog) -> GpuSource:
        settings, interval = self._settings.gpu, self._settings.service.poll_interval_secs
        smi = None
        if settings.fallback_to_nvidia_smi:
            from gpumon.gpu.smi import LONGEST_GAP_SECONDS, NvidiaSmi

            longest_gap = max(LONGEST_GAP_SECONDS, GAP_TICKS * interval)
            smi = NvidiaSmi(settings.nvidia_smi_path, longest_gap_seconds=longest_gap, xids=xids)
        return GpuSource(
            settings,
            self._nvml,
            self._logger,
            interval=interval,
            xids=xids,
            smi=smi,
            processes=self._with_processes,
            recorder=self._recorder,
        )

    def _process_source(self, stack: AsyncExitStack) -> ProcessSource | None:
        """Build the source of processes, and begin to ask the kubelet; None where processes are not wanted."""
        if not self._with_processes:
            return None
        from gpumon.process.classify import Classifier
        from gpumon.process.jobs import Jobs
        from gpumon.process.podlabels import ApiServer
        from gpumon.process.pods import Pods
        from gpumon.process.rules import RULES
        from gpumon.process.source import ProcessSource

        settings = self._settings.processes
        kubernetes = self._settings.kubernetes
        wanted = frozenset(label.strip() for label in kubernetes.pod_labels.split(",") if label.strip())
        api = ApiServer(kubernetes.node_name, wanted) if wanted else None
        if api is not None:
            stack.push_async_callback(api.close)
        pods = Pods(kubernetes, self._logger, api)
        asking = asyncio.create_task(pods.run())
        stack.callback(asking.cancel)
        source = ProcessSource(
            settings,
            lambda: self._gpu.uses,
            interval=self._settings.service.poll_interval_secs,
            classifier=Classifier((*self._rules, *RULES)),
            places=(pods, Jobs(Path(settings.job_mapping_dir))) if settings.job_mapping_dir else (pods,),
            simulated_name=self._simulated_name if self._driver == "simulated" else None,
        )
        stack.push_async_callback(source.stop)
        return source

    def _find_servers(self) -> Servers | None:
        """Give what finds model servers among processes; None where processes are not read, or none of them is real."""
        if self._processes is None or self._driver == "simulated":
            return None
        from gpumon.servers import Servers

        return Servers(self._processes.tracked, self._processes.proc)

    @property
    def _with_processes(self) -> bool:
        # The pids of a replayed capture are of another machine, or of another time.
        return self._settings.processes.enabled and self._driver != "replayed"

    def _simulated_name(self, pid: int) -> str | None:
        """Give what a simulated driver calls one of its processes, which are in no /proc."""
        assert self._nvml is not None
        try:
            return str(self._nvml.call("nvmlSystemGetProcessName", pid))
        except RefusedError:
            return None

    def _start_otlp(self) -> None:
        from gpumon.export import otlp

        recorder = Recorder() if self._settings.telemetry.otlp_traces else OFF
        self._otlp = otlp.start(
            self._settings,
            lambda: self._hub.latest,
            environ=os.environ,
            version=__version__,
            started=self._started,
            logger=self._logger,
            recorder=recorder,
        )
        if self._otlp is not None:  # else nobody would drain the recorder
            self._recorder = recorder

    def _begin_to_end_otlp(self) -> None:
        """Flush beside the rest of the end, because a collector that does not answer takes most of the time there is."""
        if self._otlp is not None:
            self._otlp_end = asyncio.create_task(asyncio.to_thread(self._otlp.stop))

    async def _end_otlp(self) -> None:
        if self._otlp_end is not None:
            await self._otlp_end

    def _read_kernel_log(self, xids: XidLog, stack: AsyncExitStack) -> None:
        if not self._settings.gpu.read_kernel_log or self._driver in STAND_INS:
            return
        kernel_log = KernelLog(xids)
        if kernel_log.start():
            stack.callback(kernel_log.close)
        else:
            self._logger.info("the kernel log is not read for XIDs", reason=kernel_log.problem)

    async def _serve_metrics(self, stack: AsyncExitStack) -> None:
        if not self._settings.telemetry.enable_prometheus:
            return
        from gpumon.web.metrics import MetricsServer

        server = MetricsServer(
            self._settings,
            self._hub,
            alive=self._trouble,
            release=self._gpu.release,
            resume=self._gpu.resume,
            web_config=self._web_config,
        )
        try:
            await server.start()
        except OSError as error:
            raise StartError(str(error)) from error
        stack.push_async_callback(server.stop)
        scheme = "https" if self._web_config is not None and self._web_config.tls is not None else "http"
        url = f"{scheme}://localhost:{server.port}/metrics"
        self._logger.info("gpumon is running", version=__version__, metrics=url)

    async def _serve_proxy(self, stack: AsyncExitStack) -> tuple[Source, ...]:
        if not self._settings.proxy.listen:
            return ()
        from gpumon.llm.proxy.server import Proxy, upstream

        proxy = Proxy(self._settings.proxy, upstream(self._settings), self._logger, self._take_request)
        await proxy.start()
        stack.push_async_callback(proxy.stop)
        self._logger.info("proxy listens", listen=self._settings.proxy.listen, upstream=proxy.upstream)
        return (proxy,)

    def _take_request(self, measured: Measured) -> None:
        """Take a request that the proxy measured."""
        self.sessions.record(measured.request)
        if self._recorder is not OFF:
            self._recorder.add(measured.span())

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR1, lambda: self._spawn(self._gpu.release()))
        loop.add_signal_handler(signal.SIGUSR2, lambda: self._spawn(self._gpu.resume()))

    def _spawn(self, work: object) -> None:
        async def carry_out() -> None:
            self._logger.info("maintenance", answer=await work)  # type: ignore[misc]

        task = asyncio.create_task(carry_out())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _own(self, ticks: int, late: int) -> Iterable[Entity]:
        """Give what gpumon says of itself with a snapshot."""
        if self._gpu.fatal is not None:
            self._stop.set()
        driver = self._driver if self._gpu.driver_name == "nvml" else self._gpu.driver_name
        yield Entity(DAEMON, (), (1, self._gpu.gpu_count, ticks, late, self._started))
        if self._otlp is not None:
            yield from self._otlp.entities()
        yield Entity(BUILD, (__version__, platform.python_version(), self._gpu.nvml_version, driver), (1,))
        if self._store is not None:
            self._store.append(*self.sessions.drain())
            if self._processes is not None:
                self._store.append(*self._processes.drain_events())
            yield from self._store.entities()

    def _trouble(self) -> str | None:
        """Give why the service should be restarted, None while it should not."""
        hung = self._gpu.hung_seconds()
        if hung > self._settings.gpu.hung_limit_secs:
            return f"a GPU driver call has not returned for {hung:.0f} s"
        snapshot = self._hub.latest
        since = time.monotonic() - snapshot.monotonic if snapshot is not None else time.time() - self._started
        if since > max(DEAD_TICKS * self._settings.service.poll_interval_secs, DEAD_SECONDS):
            return f"no snapshot for {since:.0f} s"
        return None


async def _ended(task: asyncio.Task[None]) -> None:
    """End a task and wait until it has."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def data_dir_trouble(data_dir: Path) -> str | None:
    """Give why gpumon could not keep files in `data_dir`, None when it could; creates the folder."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        probe = data_dir / ".gpumon-writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return f"{error.strerror or error}"
    return None
