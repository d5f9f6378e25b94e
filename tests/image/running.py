"""A container of our image, run as hardened as it can be, with the stand-in for the driver's library in it."""

from __future__ import annotations

import json
import sysconfig
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.daemon import free_port
from tests.tools.image import IMAGE, podman

UID = 65532
# Where the NVIDIA runtime mounts the driver's library into an image that has /etc/debian_version.
LIBRARY = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/libnvidia-ml.so.1"
MEGABYTE = 1_000_000
# Only a container that does not do it at all takes so long.
PATIENCE = 30.0


def data_folder(path: Path) -> Path:
    """Make a folder that the container may write to."""
    path.mkdir()
    path.chmod(0o777)
    return path


@dataclass
class Container:
    """A running gpumon; `memory` is its limit in MiB."""

    stub: Path
    data: Path
    memory: int = 96
    library: str = LIBRARY
    environ: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    port: int = 0
    id: str = ""

    def __enter__(self) -> Self:
        self.port = free_port()
        settings = {
            "GPUMON_TELEMETRY_METRICS_PORT": str(self.port),
            "GPUMON_API_PORT": str(free_port()),
            "NVML_STUB_GPUS": "8",
            **self.environ,
        }
        self.started = time.monotonic()
        self.id = podman(
            *("run", "--detach", "--network=host", "--no-healthcheck", "--read-only", "--read-only-tmpfs=false"),
            *("--cap-drop=all", "--security-opt=no-new-privileges", f"--memory={self.memory}m"),
            f"--memory-swap={self.memory}m",
            f"--volume={self.stub}/libnvidia-ml.so.1:{self.library}:ro",
            f"--volume={self.data}:/data",
            *(f"--env={name}={value}" for name, value in settings.items()),
            *self.options,
            IMAGE,
            *self.arguments,
        ).stdout.strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        podman("rm", "--force", "--time=0", self.id)

    def elapsed(self) -> float:
        """Give the seconds since it was told to start."""
        return time.monotonic() - self.started

    def page(self, path: str = "/metrics") -> str:
        """Give a page of the metrics port as soon as there is one."""
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                    return str(answer.read().decode())
            except OSError:
                assert time.monotonic() - self.started < PATIENCE, self.log()
                assert self.inspect("State", "Running"), self.log()
                time.sleep(0.01)

    def until(self, text: str) -> str:
        """Give the first page of metrics that has a text."""
        while text not in (page := self.page()):
            assert time.monotonic() - self.started < PATIENCE, page
            time.sleep(0.05)
        return page

    def run(self, *arguments: str, **environ: str) -> tuple[int, str]:
        """Run gpumon once more inside; give its exit code and what it printed."""
        variables = (f"--env={name}={value}" for name, value in environ.items())
        done = podman("exec", *variables, self.id, "/usr/bin/gpumon", *arguments, check=False)
        return done.returncode, done.stdout + done.stderr

    def log(self) -> str:
        """Give what it logged."""
        done = podman("logs", self.id, check=False)
        return done.stdout + done.stderr

    def inspect(self, *keys: str) -> object:
        """Give what podman knows of the container under these keys."""
        found: object = json.loads(podman("inspect", self.id).stdout)[0]
        for key in keys:
            assert isinstance(found, dict)
            found = found[key]
        return found

    def stop(self) -> float:
        """Send SIGTERM and give the seconds until it ended by itself."""
        began = time.monotonic()
        podman("kill", "--signal=TERM", self.id)
        podman("wait", "--interval=20ms", self.id)
        return time.monotonic() - began

    @property
    def cgroup(self) -> Path:
        """Give the folder of its memory accounting, of either version of cgroups."""
        lines = Path(f"/proc/{self.inspect('State', 'Pid')}/cgroup").read_text().splitlines()
        paths = {controller: path for _, controller, path in (line.split(":", 2) for line in lines)}
        if "memory" in paths:
            return Path(f"/sys/fs/cgroup/memory{paths['memory']}")
        return Path(f"/sys/fs/cgroup{paths['']}")

    def working_set(self) -> int:
        """Give the bytes a kubelet would call its working set: memory less file pages not used lately."""
        version_2 = (self.cgroup / "memory.current").exists()
        usage = int((self.cgroup / ("memory.current" if version_2 else "memory.usage_in_bytes")).read_text())
        rows = dict(line.split() for line in (self.cgroup / "memory.stat").read_text().splitlines())
        return usage - int(rows["inactive_file" if version_2 else "total_inactive_file"])

    def killed_for_memory(self) -> int:
        """Give how often the kernel killed one of its processes because of the limit."""
        version_2 = (self.cgroup / "memory.events").exists()
        text = (self.cgroup / ("memory.events" if version_2 else "memory.oom_control")).read_text()
        return int(dict(line.split() for line in text.splitlines()).get("oom_kill", 0))
