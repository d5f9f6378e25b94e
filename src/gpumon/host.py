"""The source of what the kernel tells of the machine and of gpumon itself, from /proc by psutil."""

from __future__ import annotations

import os
import resource

import psutil

from gpumon.catalog import HOST, PROCESS, Entity
from gpumon.source import SourceReading


class HostSource:
    """The machine, and gpumon's own process on it."""

    name = "host"

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._started = self._process.create_time()
        self._max_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._cpus = psutil.cpu_count() or 1
        self._booted = psutil.boot_time()

    async def read(self, now: float, timeout: float) -> SourceReading:
        """Read the machine; takes well under a millisecond."""
        return SourceReading((self._host(), self._daemon()), success=True)

    def _host(self) -> Entity:
        cpu = psutil.cpu_times()
        # guest time is part of user time already (proc_stat(5)).
        busy = cpu.user + cpu.nice + cpu.system + cpu.irq + cpu.softirq + cpu.steal
        memory = psutil.virtual_memory()
        return Entity(HOST, (), (busy, self._cpus, os.getloadavg()[0], memory.total, memory.available, self._booted))

    def _daemon(self) -> Entity:
        # psutil's own CPU times and thread count parse two long files, which was a tenth of a tick.
        cpu = os.times()
        memory = self._process.memory_info()
        files, threads = self._process.num_fds(), len(os.listdir("/proc/self/task"))  # noqa: PTH208 - a Path per entry
        return Entity(
            PROCESS,
            (),
            (cpu.user + cpu.system, memory.rss, memory.vms, self._started, files, self._max_files, threads),
        )
