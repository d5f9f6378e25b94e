"""The command line, run as a user runs it: what it prints, and the exit code."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from gpumon import __version__


def gpumon(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run gpumon to its end."""
    return subprocess.run(
        [sys.executable, "-m", "gpumon", *arguments],
        env={
            "PATH": os.environ["PATH"],
            "HOME": "/nowhere",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "GPUMON_API_ENABLED": "false",
        }
        | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_version(arguments: list[str]) -> None:
    """Both ways print one line."""
    done = gpumon(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"gpumon {__version__}\n", "")


def test_help_names_every_command() -> None:
    """A newcomer sees what there is."""
    done = gpumon("--help")
    assert done.returncode == 0
    for command in ("run", "check", "capture", "docs", "version"):
        assert f"    {command} " in done.stdout
        assert gpumon(command, "--help").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["start"], "'start'"),
        (["run", "--config"], "--config"),
        (["--config"], "--config"),
        (["run", "--conf", "x"], "--conf x"),
        (["check", "--simulate", "auto"], "--simulate auto"),
        (["run", "h100x8"], "h100x8"),
        (["capture"], "FILE"),
        (["version", "--check"], "--check"),
    ],
)
def test_a_wrong_flag_is_refused_by_one_sentence(arguments: list[str], said: str) -> None:
    """Exit code 2, one line that names the flag, and where to look."""
    done = gpumon(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gpumon: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert done.stderr.endswith("; see gpumon --help.\n")


@pytest.mark.parametrize("command", [[], ["run"]])
def test_a_wrong_setting_stops_the_start(command: list[str], tmp_path: Path) -> None:
    """Exit code 2, one sentence, with and without the word run; the same for file, variable and flag."""
    file = tmp_path / "config.toml"
    file.write_text("[telemetry]\nmetrics_port = 70000\n")
    for arguments, environ, said in (
        (["--config", str(file)], {}, f"telemetry.metrics_port is 70000 (file {file}); allowed is a whole number"),
        (["--config", str(tmp_path / "none")], {}, f"Cannot read file {tmp_path}/none: No such file or directory."),
        (["--simulate", "h100"], {}, "--simulate: simulated node 'h100' is not known: give <model>x<count>"),
        ([], {"GPUMON_GPU_ENABLE_NVML": "maybe"}, 'gpu.enable_nvml is "maybe" (environment variable GPUMON_GPU_'),
    ):
        done = gpumon(*command, *arguments, **environ)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"gpumon: {said}")
        assert done.stderr.endswith(".\n")
        assert done.stderr.count("\n") == 1


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
        return number


def test_a_wrong_web_config_stops_the_start(tmp_path: Path) -> None:
    """Nothing is served rather than served without the password that was meant."""
    file = tmp_path / "web.yml"
    file.write_text("basic_auth_users:\n  alice: secret\n")
    done = gpumon(GPUMON_TELEMETRY_WEB_CONFIG_FILE=str(file), GPUMON_TELEMETRY_METRICS_PORT=str(free_port()))
    assert done.returncode == 2
    assert done.stderr.startswith(f"gpumon: Web-config file {file}: basic_auth_users")
    assert done.stderr.count("\n") == 1


def test_a_port_in_use_stops_the_start() -> None:
    """The sentence names the port and the setting that changes it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = str(server.getsockname()[1])
        done = gpumon(GPUMON_TELEMETRY_METRICS_ADDRESS="127.0.0.1", GPUMON_TELEMETRY_METRICS_PORT=number)
    assert done.returncode == 2
    sentence = done.stderr.splitlines()[-1]
    assert sentence.startswith("gpumon: ")
    assert number in sentence
    assert "telemetry.metrics_port" in sentence


@pytest.mark.parametrize("command", [[], ["run"]])
def test_the_service_runs_until_it_is_told_to_stop(command: list[str]) -> None:
    """`gpumon` and `gpumon run` serve what was asked for; SIGTERM ends them with exit code 0."""
    number = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "gpumon", *command, "--simulate", "h100x8"],
        env={
            "HOME": "/nowhere",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "GPUMON_TELEMETRY_METRICS_ADDRESS": "127.0.0.1",
            "GPUMON_TELEMETRY_METRICS_PORT": str(number),
            "GPUMON_API_ENABLED": "false",
        },
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        assert service.stderr is not None
        try:
            said = next(line for line in service.stderr if "gpumon is running" in line)
            assert f"http://localhost:{number}/metrics" in said
            with urllib.request.urlopen(f"http://127.0.0.1:{number}/healthz", timeout=10) as answer:
                assert answer.status == 200
        finally:
            service.send_signal(signal.SIGTERM)
        assert service.wait(10) == 0


IMPORTS = """
import sys
from gpumon import cli
given = cli._parser().parse_args(sys.argv[1:])
print(*sorted(m for m in sys.modules if m.split(".")[0] in ("aiohttp", "dynaconf", "structlog", "pynvml", "psutil", "yaml")))
"""


def test_nothing_is_imported_for_the_command_line_itself() -> None:
    """Which command it is decides what is imported; the service does not carry what only others need."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, "run"],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "\n"
