"""Servers are those that someone named and those whose processes are known; no port is guessed."""

from __future__ import annotations

import pytest

from gpumon.llm.discovery import Runner, ServerProcess, Target, address, named, running, unique
from gpumon.load import load
from gpumon.settings import Llm, Ollama, SettingsError

NO_OLLAMA = Ollama(enabled=False)


def test_ollama_is_where_the_settings_say() -> None:
    """At its port on this machine, where it may be absent, or at a URL, where it must be; or nowhere."""
    (default,) = named(Ollama(api_port=1234), Llm())
    assert default == Target(urls=("http://127.0.0.1:1234",), kind="ollama", found_by="settings", expected=False)
    (given,) = named(Ollama(api_url="http://gpu-box:11434/"), Llm())
    assert (given.urls, given.expected) == (("http://gpu-box:11434",), True)
    assert named(NO_OLLAMA, Llm()) == ()


def test_servers_are_named_with_or_without_their_kind() -> None:
    """Separated by spaces or commas; the same address is one server."""
    text = "vllm=http://a:8000, http://b:9000/ llama.cpp=http://[::1]:8080,http://a:8000"
    targets = named(NO_OLLAMA, Llm(servers=text))
    assert [(target.urls[0], target.kind) for target in targets] == [
        ("http://a:8000", "vllm"),
        ("http://b:9000", None),
        ("http://[::1]:8080", "llama.cpp"),
    ]
    assert all(target.expected for target in targets)


def test_a_kind_that_is_none_is_named_in_one_sentence() -> None:
    """With what is allowed."""
    with pytest.raises(SettingsError, match=r'"lamma" is no kind of server; allowed is ollama, vllm,'):
        named(NO_OLLAMA, Llm(servers="lamma=http://a:1"))


@pytest.mark.parametrize("text", ["a:8000", "vllm=a:8000", "http://", "http://a:99999", "http://a:1 b", "vllm="])
def test_what_is_no_server_is_refused_with_the_settings(text: str) -> None:
    """Before anything is started."""
    with pytest.raises(SettingsError, match=r"llm\.servers is .* allowed is URLs that begin with"):
        load(None, {"GPUMON_LLM_SERVERS": text, "HOME": "/nonexistent"})


def test_addresses_are_written_one_way() -> None:
    """Names of this machine are its address; ports are always there."""
    assert address("http://localhost:11434") == "127.0.0.1:11434"
    assert address("https://models.example/v1") == "models.example:443"
    assert address("http://[::1]:8080") == "[::1]:8080"


def test_processes_are_servers_at_their_own_ports() -> None:
    """Without a port there is nothing to ask, and what is no known kind is not asked."""
    processes = (
        ServerProcess(pid=1, kind="vllm", ports=(8000, 40001)),
        ServerProcess(pid=2, kind="tgi", ports=()),
        ServerProcess(pid=3, kind="nginx", ports=(80,)),
    )
    targets, runners = running(processes)
    assert [(target.pid, target.urls) for target in targets] == [
        (1, ("http://127.0.0.1:8000", "http://127.0.0.1:40001"))
    ]
    assert runners == ()


def test_ollamas_children_are_runners_not_servers() -> None:
    """By their parent or by the weights they load; a child that is Ollama itself has nothing to ask."""
    weights = f"/root/.ollama/models/blobs/sha256-{'b' * 64}"
    processes = (
        ServerProcess(pid=1, kind="ollama", ports=(11434,)),
        ServerProcess(pid=2, kind="llama.cpp", ports=(50001,), parent=1, model=weights),
        ServerProcess(pid=3, kind="llama.cpp", ports=(50002,), model=weights),  # its parent is not visible
        ServerProcess(pid=4, kind="ollama", ports=(50003,), parent=1),  # its own engine: neither metrics nor slots
        ServerProcess(pid=5, kind="llama.cpp", ports=(8080,), parent=99, model="/models/tiny.gguf"),
    )
    targets, runners = running(processes)
    assert [target.pid for target in targets] == [1, 5]
    assert runners == (
        (1, Runner(2, "http://127.0.0.1:50001", "b" * 64)),
        (None, Runner(3, "http://127.0.0.1:50002", "b" * 64)),
    )


def test_a_server_that_was_named_and_found_is_one() -> None:
    """It keeps what the settings say and learns its process."""
    targets, _ = running([ServerProcess(pid=7, kind="ollama", ports=(11434,))])
    (both,) = unique((*named(Ollama(), Llm()), *targets))
    assert both == Target(urls=("http://127.0.0.1:11434",), kind="ollama", found_by="settings", expected=False, pid=7)
