"""`gpumon check` says what is wrong and what to do, and nothing it looks at can make it fail or hang."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpumon.apart import apart
from gpumon.check import CHECKS, Check, alerts, driver, examine, line, machine, models, processes
from gpumon.check.finding import Finding, Status
from gpumon.gpu.nvml import Nvml, load_error
from gpumon.settings import Settings, options
from tests import stub
from tests.llm.servers import Imitation, ollama, resident, serving, vllm

DEFAULT = Settings()


def with_options(section: str, **options: object) -> Settings:
    """Give the default settings with some options of one section changed."""
    return replace(DEFAULT, **{section: replace(getattr(DEFAULT, section), **options)})


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a driver's library in C."""
    try:
        return stub.build(tmp_path_factory.mktemp("nvml"))
    except stub.UnbuildableError as missing:
        pytest.skip(str(missing))


def report(environ: dict[str, str], *arguments: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Run `gpumon check`; give its exit code and, by name, each line's status and text."""
    done = subprocess.run(
        [sys.executable, "-m", "gpumon", "check", *arguments],
        env=environ | {"PYTHONPATH": os.pathsep.join(sys.path), "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    lines: dict[str, tuple[str, str]] = {}
    for text in done.stdout.splitlines():
        name = next(name for name in ("settings", *(row.name for row in CHECKS)) if text[5:].startswith(f"{name} "))
        lines[name] = text[:5].strip(), text[5 + len(name) :].strip()
    assert list(lines) == ["settings", *(row.name for row in CHECKS)]
    return done.returncode, lines


# The report as a whole


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def plain_environment(**variables: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "GPUMON_TELEMETRY_METRICS_PORT": free_port(),
        "GPUMON_API_PORT": free_port(),
    } | variables


def test_a_node_without_a_driver_can_work() -> None:
    """No driver is a warning with its reason, not a failure: CPU nodes are served, too."""
    if load_error() == "":
        pytest.skip("this machine has a driver")
    code, lines = report(plain_environment())
    assert code == 0, lines
    assert lines["driver"][0] == "warn"
    assert "cannot open shared object file" in lines["driver"][1]
    assert lines["GPUs"] == ("info", "not looked at without a driver")


def test_a_whole_driver_is_ok(library: Path) -> None:
    """With a driver that answers, its version and its GPUs are named."""
    code, lines = report(stub.environment(library, gpus=3, mig=True) | plain_environment())
    assert code == 0, lines
    assert lines["driver"][0] == "ok"
    assert lines["driver"][1].startswith("driver ")
    assert lines["GPUs"][0] == "ok"
    assert lines["GPUs"][1].startswith("3 x ")
    assert lines["readings"] == ("ok", "none is refused for want of permission")


@pytest.mark.parametrize(
    ("code", "reason", "advice"),
    [
        (4, "NO_PERMISSION", "/dev/nvidiactl"),
        (9, "DRIVER_NOT_LOADED", "modprobe nvidia"),
        (18, "LIB_RM_VERSION_MISMATCH", "different versions"),
        (999, "UNKNOWN", "create the container anew"),
    ],
)
def test_a_driver_that_refuses_is_a_failure(library: Path, tmp_path: Path, code: int, reason: str, advice: str) -> None:
    """Where nothing can be read the check fails, with NVML's reason and what to do."""
    stub.order(tmp_path / "orders", f"fail {code}")
    exit_code, lines = report(stub.environment(library, control=tmp_path / "orders") | plain_environment())
    assert exit_code == 1
    assert lines["driver"][0] == "fail"
    assert reason in lines["driver"][1]
    assert advice in lines["driver"][1]


def test_a_library_that_is_none_is_a_failure(tmp_path: Path) -> None:
    """A library that is there but cannot be loaded is named with the loader's own words."""
    (tmp_path / stub.LIBRARY).write_bytes(b"\x7fELF, but no more of it")
    code, lines = report(plain_environment(LD_LIBRARY_PATH=str(tmp_path)))
    assert code == 1, lines
    assert lines["driver"][0] == "fail"
    assert "file too short" in lines["driver"][1] or "invalid ELF header" in lines["driver"][1]


def test_a_lost_gpu_is_named_and_the_others_are_counted(library: Path, tmp_path: Path) -> None:
    """One GPU that is gone is a warning; the rest can be read."""
    stub.order(tmp_path / "orders", "lost 1")
    code, lines = report(stub.environment(library, gpus=4, control=tmp_path / "orders") | plain_environment())
    assert code == 0, lines
    assert lines["GPUs"][0] == "warn"
    assert "GPU 1 answers GPU_IS_LOST" in lines["GPUs"][1]
    assert "3 x " in lines["GPUs"][1]


HANGING = """
from gpumon.check import CHECKS, examine, line
from gpumon.settings import Settings, options
row = next(row for row in CHECKS if row.name == "GPUs")
print(line(row.name, examine(row, Settings(), limit_secs=0.5)), end="")
"""


def test_a_driver_that_hangs_does_not_hang_the_check(library: Path, tmp_path: Path) -> None:
    """A call that never returns is a failure after the limit, with what to do."""
    stub.order(tmp_path / "orders", "hang 0")
    environ = stub.environment(library, control=tmp_path / "orders") | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", HANGING], env=environ, capture_output=True, text=True, timeout=20)
    assert done.stderr == ""
    assert done.stdout.startswith("fail GPUs ")
    assert "hangs: no answer within 0.5 s; a GPU may have to be reset" in done.stdout


def test_wrong_settings_fail_and_the_rest_is_still_looked_at(tmp_path: Path) -> None:
    """The sentence of the settings is a line like the others."""
    code, lines = report(plain_environment(), "--config", str(tmp_path / "none.toml"))
    assert code == 1, lines
    assert lines["settings"][0] == "fail"
    assert "none.toml: No such file or directory; correct it" in lines["settings"][1]


def test_settings_without_effect_are_named() -> None:
    """What is set but does nothing yet is a warning, not a silence."""
    reserved = next((option for option in options() if option.reserved and isinstance(option.default, bool)), None)
    if reserved is None:
        pytest.skip("every option has an effect")
    variables = {reserved.variable: "no" if reserved.default else "yes"}
    code, lines = report(plain_environment(**variables))
    assert code == 0, lines
    assert lines["settings"][0] == "warn"
    assert f"environment variables: 2; without effect in this version: {reserved.name}" in lines["settings"][1]


def test_the_report_can_be_cut_short() -> None:
    """A reader that has seen enough is no reason for a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "gpumon", "check"],
            env=plain_environment(PYTHONPATH=os.pathsep.join(sys.path), HOME="/nowhere"),
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == ""


# One check at a time


def raises(settings: Settings) -> Finding:
    raise RuntimeError("two\nlines")


def dies(settings: Settings) -> Finding:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hangs(settings: Settings) -> Finding:
    signal.pause()
    raise AssertionError


@pytest.mark.parametrize(
    ("look", "said"),
    [
        (raises, "the check itself failed: RuntimeError: two lines"),
        (dies, "the check was ended: ended by signal 9"),
        (hangs, "hangs: no answer within 0.3 s; do this"),
    ],
)
def test_a_check_that_goes_wrong_is_that_checks_failure(look: Any, said: str) -> None:
    """Whatever a check does, its line says so, and there is a next one."""
    text = line("row", examine(Check("row", look, "do this"), DEFAULT, limit_secs=0.3 if look is hangs else 30))
    assert text.split() == ["fail", "row", *said.split()]
    assert text.count("\n") == 1


class Denying:
    """A driver's library with one GPU and one MIG device, that denies some functions and answers nothing of interest."""

    def __init__(self, *denied: str) -> None:
        self.denied = denied
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> int:
            self.asked.append(name)
            # The GPU's memory is asked for first, its MIG device's second.
            if name in self.denied or (f"second {name}" in self.denied and self.asked.count(name) == 2):
                return 4
            if "Count" in name:
                args[-1]._obj.value = 1
            if name == "nvmlDeviceGetMemoryInfo":
                args[1]._obj.total = 1
            return 0

        return call


@pytest.mark.parametrize(
    ("denied", "status", "said"),
    [
        ((), Status.OK, "none is refused"),
        (("nvmlDeviceGetPowerUsage",), Status.WARN, "nvmlDeviceGetPowerUsage"),
        (driver.PROBES, Status.FAIL, "nvmlDeviceGetMemoryInfo"),
        (("second nvmlDeviceGetMemoryInfo",), Status.WARN, "on MIG devices"),
    ],
)
def test_readings_denied_are_named(denied: tuple[str, ...], status: Status, said: str) -> None:
    """What this process may not read is named; it is a failure only when that is everything."""
    finding = apart(lambda: driver.readings(DEFAULT, Nvml(Denying(*denied))))
    assert finding.status is status
    assert said in finding.found
    assert (finding.advice == "") == (status is Status.OK)


def test_what_is_switched_off_is_not_looked_at() -> None:
    """Each switch is named by the check that it makes needless."""
    off = replace(
        DEFAULT,
        gpu=replace(DEFAULT.gpu, enable_nvml=False, read_kernel_log=False),
        ollama=replace(DEFAULT.ollama, enabled=False),
        telemetry=replace(DEFAULT.telemetry, enable_prometheus=False),
    )
    for look, name in (
        (driver.library, "gpu.enable_nvml"),
        (machine.nvidia_smi, "gpu.fallback_to_nvidia_smi"),
        (machine.kernel_log, "gpu.read_kernel_log"),
        (machine.metrics_port, "telemetry.enable_prometheus"),
        (models.model_servers, "ollama.enabled"),
    ):
        finding = look(off)
        assert finding.status is Status.INFO
        assert f"{name} is false" in finding.found


def test_a_library_missing_where_a_driver_is_there_is_a_failure(tmp_path: Path) -> None:
    """A container that was given devices but not the library would read nothing."""
    reason = "libnvidia-ml.so.1: cannot open shared object file: No such file or directory"
    assert driver.library(DEFAULT, why_not_loaded=lambda: reason, dev=tmp_path).status is Status.WARN
    (tmp_path / "nvidiactl").touch()
    finding = driver.library(DEFAULT, why_not_loaded=lambda: reason, dev=tmp_path)
    assert finding.status is Status.FAIL
    assert "capability utility" in finding.advice


def test_nvidia_smi_is_looked_for_where_it_is_wanted(tmp_path: Path) -> None:
    """Its path is given, or that there is none."""
    wanted = with_options("gpu", fallback_to_nvidia_smi=True, nvidia_smi_path=str(tmp_path / "smi"))
    assert machine.nvidia_smi(wanted).status is Status.WARN
    (tmp_path / "smi").touch(0o755)
    assert machine.nvidia_smi(wanted) == Finding(Status.OK, str(tmp_path / "smi"))


def test_kernel_log(tmp_path: Path) -> None:
    """A log that cannot be opened is a warning, because NVML's own events remain."""
    (tmp_path / "kmsg").touch()
    assert machine.kernel_log(DEFAULT, tmp_path / "kmsg").status is Status.OK
    finding = machine.kernel_log(DEFAULT, tmp_path / "none")
    assert finding.status is Status.WARN
    assert "CAP_SYSLOG" in finding.advice


@pytest.mark.parametrize(
    ("namespace", "comm", "status"),
    [
        ("pid:[4026531836]", None, Status.OK),
        ("pid:[4026532201]", "kthreadd", Status.WARN),
        (None, "kthreadd\n", Status.OK),
        (None, "sleep\n", Status.WARN),
        (None, None, Status.WARN),
    ],
)
def test_pid_view(tmp_path: Path, namespace: str | None, comm: str | None, status: Status) -> None:
    """The host's view is told by the namespace, or else by the kernel threads; another is a warning with both remedies."""
    if namespace:
        (tmp_path / "self/ns").mkdir(parents=True)
        (tmp_path / "self/ns/pid").symlink_to(namespace)
    if comm:
        (tmp_path / "2").mkdir()
        (tmp_path / "2/comm").write_text(comm)
    finding = processes.pid_view(DEFAULT, tmp_path)
    assert finding.status is status
    if status is Status.WARN:
        assert "--pid=host" in finding.advice
        assert "hostPID: true" in finding.advice


def test_kubelet(tmp_path: Path) -> None:
    """Its socket is wanted in Kubernetes only, and must be one that can be opened."""
    path = tmp_path / "kubelet.sock"
    assert processes.kubelet(DEFAULT, path, in_kubernetes=False).status is Status.INFO
    assert processes.kubelet(DEFAULT, path, in_kubernetes=True).status is Status.WARN
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert "Connection refused" in processes.kubelet(DEFAULT, path, in_kubernetes=True).found
        server.listen()
        finding = processes.kubelet(DEFAULT, path, in_kubernetes=True)
        assert finding.status is Status.WARN
        assert "does not answer" in finding.found
    path.unlink()
    from tests.process.kubelet import Kubelet, always

    with Kubelet(path, always([("ns", "pod", "c", "nvidia.com/gpu", ["GPU-1"])])):
        finding = processes.kubelet(DEFAULT, path, in_kubernetes=True)
    assert (finding.status, finding.found) == (Status.OK, f"answers at {path}: pods with GPUs: 1")


def test_pid_view_of_a_mounted_proc(tmp_path: Path) -> None:
    """With processes.proc_root it is that /proc which must be the host's."""
    mounted = with_options("processes", proc_root=str(tmp_path))
    finding = processes.pid_view(mounted)
    assert finding.status is Status.WARN
    assert str(tmp_path) in finding.found
    (tmp_path / "2").mkdir()
    (tmp_path / "2/comm").write_text("kthreadd\n")
    assert processes.pid_view(mounted).status is Status.OK
    assert processes.pid_view(with_options("processes", enabled=False)).status is Status.INFO


def test_process_facts(tmp_path: Path) -> None:
    """Without the right to look into others' processes some rules cannot be tried, for root, too; a wrong rule is a failure."""
    wrong = processes.facts(with_options("processes", rules='[{"category": "games"}]'))
    assert wrong.status is Status.FAIL
    assert "allowed is one of gaming" in wrong.found
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text("CapEff:\t0000000000080000\n")
    assert processes.facts(DEFAULT, tmp_path).status is Status.OK
    (tmp_path / "self/status").write_text("CapEff:\t0000000000000000\n")
    assert processes.facts(DEFAULT, tmp_path).status is Status.INFO


def test_data_dir(tmp_path: Path) -> None:
    """A folder that is there, one that can be made, and ones that cannot be; nothing is made or left behind."""
    good = machine.data_dir(with_options("service", data_dir=str(tmp_path)))
    new = machine.data_dir(with_options("service", data_dir=str(tmp_path / "a/b")))
    assert {good.status, new.status} <= {Status.OK, Status.WARN}  # WARN where this machine's disk is nearly full
    assert "GiB free" in good.found
    assert "(will be made)" in new.found
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for path, said in ((tmp_path / "file/a", "cannot be made in"), (Path("/proc/fs"), "cannot be written to")):
        finding = machine.data_dir(with_options("service", data_dir=str(path)))
        assert finding.status is Status.WARN
        assert said in finding.found
        assert "service.data_dir" in finding.advice


def look_at_port(address: str, number: int) -> Finding:
    return machine.metrics_port(with_options("telemetry", metrics_address=address, metrics_port=number))


def test_a_port_in_use_is_a_failure_that_names_the_setting() -> None:
    """The process that has it is named, and the setting that changes it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        for address in ("127.0.0.1", "0.0.0.0", "localhost"):
            finding = look_at_port(address, number)
            assert finding.status is Status.FAIL
            assert f"{address}:{number} is in use by " in finding.found
            assert f"(pid {os.getpid()})" in finding.found
            assert "GPUMON_TELEMETRY_METRICS_PORT" in finding.advice
    assert look_at_port("127.0.0.1", number) == Finding(Status.OK, f"127.0.0.1:{number} is free")


def test_an_address_of_another_machine_is_a_failure() -> None:
    """192.0.2.1 is reserved for examples, so it is nobody's."""
    finding = look_at_port("192.0.2.1", 9090)
    assert finding.status is Status.FAIL
    assert finding.advice == "set telemetry.metrics_address"


def test_an_api_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    """Unless it has a token; one that cannot be used is a failure with the start's own sentence."""
    number = int(free_port())
    local = with_options("api", port=number)
    assert machine.api_port(local) == Finding(Status.OK, f"127.0.0.1:{number} is free")
    for address in ("0.0.0.0", "::"):
        finding = machine.api_port(with_options("api", address=address, port=number))
        assert finding.status is Status.WARN
        assert "api.token" in finding.advice
        guarded = with_options("api", address=address, port=number, token="0123456789abcdef")
        assert machine.api_port(guarded).status is Status.OK
    finding = machine.api_port(with_options("api", token_file=str(tmp_path / "none")))
    assert (finding.status, "api.token_file" in finding.found) == (Status.FAIL, True)
    assert machine.api_port(with_options("api", enabled=False)).status is Status.INFO


def test_web_config(tmp_path: Path) -> None:
    """A file that would stop the start is a failure with the same sentence."""
    file = tmp_path / "web.yml"
    settings = with_options("telemetry", web_config_file=str(file))
    assert machine.web_config(DEFAULT).status is Status.INFO
    assert f"cannot read {file}" in machine.web_config(settings).found
    file.write_text("rate_limit: fast\n")
    finding = machine.web_config(settings)
    assert finding.status is Status.FAIL
    assert "rate_limit" in finding.found
    assert "telemetry.web_config_file" in finding.advice
    file.write_text("{}\n")
    assert machine.web_config(settings) == Finding(Status.OK, f"{file} is valid")


LISTENER = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); sys.stdin.read()"


@pytest.fixture
def running_gpumon() -> Iterator[int]:
    """Give the port of a process that is called gpumon."""
    command = ["gpumon", "-c", LISTENER]
    with subprocess.Popen(
        command, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        assert process.stdin is not None
        process.stdin.close()


def test_a_port_in_use_by_gpumon_itself_is_ok(running_gpumon: int) -> None:
    """`gpumon check` beside the running service, as in kubectl exec, is no failure."""
    finding = look_at_port("127.0.0.1", running_gpumon)
    assert finding.status is Status.OK
    assert "is in use by gpumon (pid " in finding.found


def test_ollama_is_looked_for_where_the_settings_say() -> None:
    """Its absence at the default address is no failure; at an address that was set it is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
    finding = models.model_servers(with_options("ollama", api_port=number))
    assert finding.status is Status.INFO
    assert f"Ollama at 127.0.0.1:{number} cannot be reached (Connection refused)" in finding.found
    assert "right without Ollama" in finding.advice
    finding = models.model_servers(with_options("ollama", api_url=f"http://127.0.0.1:{number}"))
    assert finding.status is Status.WARN


def test_each_model_server_is_told_with_its_way_and_what_would_show_more() -> None:
    """By the same questions that the service asks, on a thread of their own because the check has a loop of its own."""

    async def work() -> Finding:
        mute = Imitation(**{"/metrics": 501, "/slots": 501, "/props": {"default_generation_settings": {}}})
        async with serving(ollama(resident())) as one, serving(vllm()) as two, serving(mute) as three:
            settings = with_options("ollama", api_url=one.url)
            settings = replace(settings, llm=replace(settings.llm, servers=f"vllm={two.url} {three.url}"))
            return await asyncio.to_thread(models.model_servers, settings)

    finding = asyncio.run(work())
    assert finding.status is Status.OK
    lines = [re.sub(r":\d+:", ":N:", part) for part in finding.found.split("; ")]
    assert lines == [
        "Ollama 0.33.2 at 127.0.0.1:N: read by /api/ps",
        "vLLM 0.11.0 at 127.0.0.1:N: read by /metrics",
        "llama.cpp server at 127.0.0.1:N: answers, but gives no readings, /metrics switched off (501), /slots switched off (501)",
    ]
    assert "to see tokens of Ollama: set LLAMA_ARG_ENDPOINT_METRICS=1" in finding.advice
    assert "to see tokens of llama.cpp server: start it with --metrics" in finding.advice
    assert "vLLM" not in finding.advice


# Alerts


def test_alerts_say_how_many_and_where_they_are_told(tmp_path: Path) -> None:
    """Nothing is sent; what listens is fine, and who is told nothing is told so."""
    (tmp_path / "token").write_text("secret")
    own = '[{"name": "own", "metric": "gpumon_up", "below": 1}]'
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/secret"
        token = str(tmp_path / "token")
        settings = with_options("alerts", webhook_url=url, webhook_bearer_token_file=token, rules=own)
        found = alerts.alerts(settings, {})
        assert found.status is Status.OK
        assert ", 1 of the settings; told to the log, webhook 127.0.0.1:" in found.found
        assert "secret" not in found.found
    silent = alerts.alerts(with_options("alerts", log=False), {})
    assert "told to nobody, but kept as events and in /metrics" in silent.found
    assert alerts.alerts(with_options("alerts", enabled=False), {}).status is Status.INFO


def test_alerts_that_nobody_would_get_are_a_warning_with_what_to_do(tmp_path: Path) -> None:
    """A server that is not there, a token that cannot be read, a desktop without a session."""
    settings = with_options(
        "alerts",
        alertmanager_urls=f"http://127.0.0.1:{free_port()}",
        alertmanager_bearer_token_file=str(tmp_path / "none"),
        enable_desktop_notifications=True,
    )
    found = alerts.alerts(settings, {"XDG_RUNTIME_DIR": str(tmp_path)})
    assert found.status is Status.WARN
    for words in ("cannot be reached (Connection refused)", "there is no session bus", "none cannot be read"):
        assert words in found.advice


def test_alerts_of_the_settings_that_are_wrong_are_a_failure() -> None:
    """With the sentence that would stop the start."""
    found = alerts.alerts(with_options("alerts", disabled="gpu_heat"), {})
    assert found.status is Status.FAIL
    assert found.found.startswith("alerts.disabled names 'gpu_heat'")
