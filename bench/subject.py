"""What is measured: the exporters, how each is started over the C library, and what /proc says of one that runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "bench" / ".tools"


class UnavailableError(Exception):
    """An exporter cannot be measured here; the text says why."""


@dataclass(frozen=True, slots=True)
class Exporter:
    """One exporter in one configuration.

    `power` matches a line of its text that gives a GPU's power, with the GPU in group 1 and the value in group 2;
    `ready` is what its text holds once it has readings of GPUs.
    """

    name: str
    gpus: int
    interval: float | None  # seconds between its own readings; None reads when it is scraped
    command: Callable[[int], list[str]]  # from the port
    power: re.Pattern[str]
    ready: str
    settings: Mapping[str, str]

    @property
    def pace(self) -> str:
        """Give how often it reads, in words."""
        return f"{self.interval:g} s" if self.interval else "at scrape"

    @property
    def title(self) -> str:
        """Give the name to show, with what sets this configuration apart."""
        return f"{self.name}, {self.gpus} GPUs, {self.pace}"


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process in MB (2^20 bytes, as `top` and the limits of containers count it)."""

    resident: float
    anonymous: float


def gpumon(gpus: int, interval: float) -> Exporter:
    """Give gpumon as this checkout has it, on all its defaults but address, port and interval."""
    return Exporter(
        "gpumon",
        gpus,
        interval,
        lambda _port: [sys.executable, "-m", "gpumon", "run"],
        re.compile(r'^gpumon_gpu_power_watts\{gpu_id="(\d+)".*\} (\S+)', re.MULTILINE),
        "gpumon_gpu_power_watts{",
        # Without history and API: what they take is measured by bench/store.py and bench/api.py.
        {
            "GPUMON_SERVICE_POLL_INTERVAL_SECS": f"{interval:g}",
            "GPUMON_STORAGE_ENABLED": "false",
            "GPUMON_API_ENABLED": "false",
            "PYTHONPATH": str(ROOT / "src"),
        },
    )


def nvitop_exporter(gpus: int, interval: float) -> Exporter:
    """Give nvitop-exporter, installed into a virtual environment of its own on first use. Raises UnavailableError."""
    python = TOOLS / "nvitop" / "bin" / "python"
    lock = ROOT / "bench" / "requirements.lock"
    stamp = TOOLS / "nvitop" / "stamp"
    if not stamp.exists() or stamp.stat().st_mtime < lock.stat().st_mtime:
        pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(lock)]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(TOOLS / "nvitop")], check=True)
            subprocess.run([str(python), *pip], check=True)
        except subprocess.CalledProcessError as error:
            raise UnavailableError(f"nvitop-exporter could not be installed ({error})") from error
        stamp.touch()
    return Exporter(
        "nvitop-exporter",
        gpus,
        interval,
        # The host name is given so that it is not looked up.
        lambda port: (
            f"{python} -m nvitop_exporter --bind-address 127.0.0.1 --port {port} --interval {interval:g} --hostname bench".split()
        ),
        re.compile(r'^gpu_power_usage_W\{.*index="(\d+)".*\} (\S+)', re.MULTILINE),
        "gpu_power_usage_W{",
        {},
    )


def nvidia_gpu_exporter(gpus: int, binary: str | None) -> Exporter:
    """Give nvidia_gpu_exporter on its NVML backend. Raises UnavailableError when there is no such program."""
    found = binary or shutil.which("nvidia_gpu_exporter") or shutil.which(TOOLS / "nvidia_gpu_exporter")
    if found is None:
        raise UnavailableError("no program nvidia_gpu_exporter in PATH (its NVML build, made with cgo)")
    return Exporter(
        "nvidia_gpu_exporter",
        gpus,
        None,
        lambda port: [found, "--web.listen-address", f"127.0.0.1:{port}", "--collect.backend", "nvml"],
        re.compile(r'^nvidia_smi_power_draw_watts\{.*uuid="(?:gpu-)?0*(\d+)-.*\} (\S+)', re.MULTILINE | re.IGNORECASE),
        "nvidia_smi_power_draw_watts{",
        {},
    )


class Running:
    """An exporter that runs. Use it as a context; it is ended with it."""

    def __init__(self, exporter: Exporter, environment: Mapping[str, str], folder: Path) -> None:
        self.exporter = exporter
        self.port = free_port()
        settings = {
            "HOME": str(folder),
            "GPUMON_TELEMETRY_METRICS_ADDRESS": "127.0.0.1",
            "GPUMON_TELEMETRY_METRICS_PORT": str(self.port),
            "GPUMON_SERVICE_DATA_DIR": str(folder / "data"),
        }
        environment = os.environ | dict(environment) | settings | dict(exporter.settings)
        self.log = (folder / f"{exporter.title.replace(' ', '-')}.log").open("wb")
        self.started = time.perf_counter()
        self.process = subprocess.Popen(
            exporter.command(self.port), env=environment, cwd=folder, stdout=self.log, stderr=subprocess.STDOUT
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def wait(self, holds: str = "", limit: float = 30) -> float:
        """Wait until /metrics answers with text that holds `holds`; give the seconds since the start."""
        while True:
            try:
                if holds in self.text():
                    return time.perf_counter() - self.started
            except (OSError, ValueError):
                pass
            if self.process.poll() is not None or time.perf_counter() - self.started > limit:
                raise UnavailableError(f"{self.exporter.title} did not answer; see {self.log.name}")
            time.sleep(0.005)

    def text(self, timeout: float = 15) -> str:
        """Give /metrics as plain text, on a connection of its own. Raises OSError, or ValueError for another answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
            connection.sendall(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n")
            received = b"".join(iter(lambda: connection.recv(1 << 20), b""))
        head, _, body = received.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise ValueError(head.decode(errors="replace"))
        return body.decode()

    def cpu(self) -> float:
        """Give the CPU seconds all threads have used, past ones too, to the nanosecond.

        This is the sum of utime and stime of /proc/PID/stat, which has it to 10 ms only: the process's CPU clock
        (clock_getcpuclockid(3) builds its number like this).
        """
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def memory(self) -> Memory:
        """Give what the kernel counts as the process's memory now."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        sizes = dict(re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE))
        return Memory(int(sizes["Rss"]) / 1024, int(sizes["Anonymous"]) / 1024)

    def threads(self) -> int:
        """Give how many threads it has."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/task").iterdir())

    def files(self) -> int:
        """Give how many files it has open."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def powers(self) -> dict[int, str]:
        """Give the power of each GPU as /metrics has it now."""
        return {int(gpu): value for gpu, value in self.exporter.power.findall(self.text())}


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
