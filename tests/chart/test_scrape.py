"""What `helm test` runs in its pod tells a gpumon that works from one that does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.chart.rendered import objects, only
from tests.daemon import environment, free_port, until


def scrape(url: str) -> subprocess.CompletedProcess[str]:
    """Run the command of the test's pod, with this Python and another address."""
    (container,) = only("Pod", objects({}))["spec"]["containers"]
    assert container["command"] == ["/usr/bin/python3", "-c"]  # as the image has it
    script, given = container["args"]
    assert given == "http://gpumon.monitoring:9090/metrics"
    script = script.replace("tries = sys.argv[1], 30", "tries = sys.argv[1], 1")
    return subprocess.run([sys.executable, "-c", script, url], capture_output=True, text=True, check=False)


def test_it_passes_on_a_gpumon_and_on_nothing_else(tmp_path: Path) -> None:
    """A page of gpumon's is a success; another one, and silence, are failures that say so."""
    port = free_port()
    root = f"http://127.0.0.1:{port}"
    environ = environment(tmp_path, port) | {"GPUMON_STORAGE_ENABLED": "false"}
    command = [sys.executable, "-m", "gpumon", "run", "--simulate=rtx4090x1"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as gpumon:
        try:
            until(gpumon, lambda: scrape(f"{root}/metrics").returncode == 0)
            other = scrape(root)
        finally:
            gpumon.terminate()
    assert (other.returncode, other.stderr) == (1, f"{root} has no gpumon_up 1\n")
    silent = scrape(f"{root}/metrics")
    assert silent.returncode == 1
    assert "does not answer: " in silent.stderr
