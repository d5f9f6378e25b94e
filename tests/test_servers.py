"""Model servers are found among the processes on GPUs and their parents, and are told what energy they used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpumon.llm.discovery import ServerProcess, running
from gpumon.llm.energy import EnergyUse
from gpumon.process.command import parse
from gpumon.process.examine import Person
from gpumon.process.proc import Facts, Origin, Proc
from gpumon.process.tracked import OnGpu, Tracked
from gpumon.servers import Servers, kind_of

WEIGHTS = "b" * 64


def origin(pid: int, line: str, parent: Origin | None = None) -> Origin:
    """Give a process that was started by a command line."""
    return Origin(pid, pid, "name", parse(line.split()), "", (), parent)


def on_gpu(one: Origin, **joules: float) -> Tracked:
    """Give it as it is tracked, with its energy by GPU."""
    facts = Facts(one, 0.0, 0, "root", None, ())
    tracked = Tracked(one.pid, None, Person(one.name, facts))
    tracked.key = one.pid
    tracked.gpus = {uuid: OnGpu(0, 0.0, energy_joules=used) for uuid, used in joules.items()}
    return tracked


class Listening(Proc):
    """A /proc in which every process is in gpumon's network and listens where the test says."""

    def __init__(self, folder: Path, **ports: tuple[int, ...]) -> None:
        super().__init__(str(folder))
        self.ports = {int(pid.removeprefix("pid")): frozenset(some) for pid, some in ports.items()}
        for pid in (*self.ports, *range(1, 9)):
            (folder / str(pid) / "ns").mkdir(parents=True, exist_ok=True)
            (folder / str(pid) / "ns" / "net").unlink(missing_ok=True)
            (folder / str(pid) / "ns" / "net").symlink_to(Path("/proc/self/ns/net").readlink())

    def listening(self, pid: int) -> frozenset[int] | None:
        """Give what the test said."""
        return self.ports.get(pid)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("/usr/bin/python3 /usr/local/bin/vllm serve meta-llama/Llama-3.1-8B-Instruct", "vllm"),
        ("python3 -m vllm.entrypoints.openai.api_server --model m", "vllm"),
        ("python3 -m sglang.launch_server --model-path m", "sglang"),
        ("/app/llama-server -m /models/q.gguf", "llama.cpp"),
        ("python3 -m llama_cpp.server --model m.gguf", "llama.cpp"),
        ("text-generation-router --port 80", "tgi"),
        ("tritonserver --model-repository /models", "triton"),
        ("trtllm-serve m", "trtllm"),
        ("/opt/py3/bin/python /opt/py3/bin/lmdeploy serve api_server m", "lmdeploy"),
        ("/usr/local/bin/ollama serve", "ollama"),
        ("python3 /home/ollama/train.py --vllm", None),
        ("VLLM::EngineCore x", None),
    ],
)
def test_a_server_is_known_by_the_name_of_its_program(line: str, kind: str | None) -> None:
    """And not by a folder or an option."""
    assert kind_of(origin(1, line)) == kind


def test_ollama_and_its_runner_are_found_from_the_runner_on_the_gpu(tmp_path: Path) -> None:
    """Ollama holds no GPU; it is the parent of one that does. The runner's port and weights are on its command line."""
    serve = origin(1, "/usr/local/bin/ollama serve")
    child = origin(
        2, f"/usr/lib/ollama/llama-server --model /root/.ollama/models/blobs/sha256-{WEIGHTS} --port 41231", serve
    )
    proc = Listening(tmp_path, pid1=(11434,))
    servers = Servers(lambda: [on_gpu(child)], proc)
    assert servers.processes() == (
        ServerProcess(pid=2, kind="llama.cpp", ports=(41231,), parent=1, model=f"/sha256-{WEIGHTS}"),
        ServerProcess(pid=1, kind="ollama", ports=(11434,)),
    )
    targets, runners = running(servers.processes())
    assert [target.urls for target in targets] == [("http://127.0.0.1:11434",)]
    assert [(owner, runner.blob) for owner, runner in runners] == [(1, WEIGHTS)]


def test_workers_of_a_server_are_not_servers(tmp_path: Path) -> None:
    """Engines and ranks are found once, as the parent that listens."""
    api = origin(1, "python3 /usr/local/bin/vllm serve m --port=8123")
    workers = [on_gpu(origin(pid, "VLLM::Worker_TP x", origin(3, "VLLM::EngineCore x", api))) for pid in (4, 5)]
    servers = Servers(lambda: workers, Listening(tmp_path))
    assert servers.processes() == (ServerProcess(pid=1, kind="vllm", ports=(8123,)),)
    ollama = origin(6, "ollama runner --ollama-engine --port 9", origin(7, "ollama serve"))
    found = Servers(lambda: [on_gpu(ollama)], Listening(tmp_path, pid7=(11434,))).processes()
    assert [server.pid for server in found] == [7]


def test_a_server_in_another_network_is_not_asked(tmp_path: Path) -> None:
    """Its port there may be somebody else's here."""
    proc = Listening(tmp_path, pid1=(8000,))
    (tmp_path / "1" / "ns" / "net").unlink()
    (tmp_path / "1" / "ns" / "net").symlink_to("net:[1]")
    (server,) = Servers(lambda: [on_gpu(origin(1, "vllm serve m"))], proc).processes()
    assert server.ports == ()
    assert running([server])[0] == ()


def test_energy_is_summed_over_processes_and_gpus_and_stays_when_they_end(tmp_path: Path) -> None:
    """What was used on a GPU that others used as well is the error."""
    mine, other = on_gpu(origin(1, "vllm serve m"), a=100.0, b=50.0), on_gpu(origin(2, "train"), b=70.0)
    here: list[Any] = [mine, other]
    servers = Servers(lambda: here, Listening(tmp_path))

    def whose(pids: set[int]) -> tuple[str, str, str | None] | None:
        return ("s", "vllm", None) if 1 in pids else None

    (use,) = servers.energy(whose)
    assert use == EnergyUse("s", "vllm", None, 150.0, pytest.approx(1 / 3))
    mine.gpus["a"].energy_joules = 250.0
    (use,) = servers.energy(whose)
    assert use.joules == 300.0
    here.remove(mine)
    (use,) = servers.energy(whose)
    assert use.joules == 300.0
    here.append(on_gpu(origin(1, "vllm serve m"), a=10.0))
    here[-1].key = "another start"
    (use,) = servers.energy(whose)
    assert use.joules == 310.0
