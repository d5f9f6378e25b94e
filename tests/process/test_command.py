"""A command line leads to what it runs, whatever interpreter, option or folder stands around it."""

from __future__ import annotations

import pytest

from gpumon.process.command import Command, parse
from tests.process.split import split


@pytest.mark.parametrize(
    ("line", "program", "script", "module"),
    [
        ("python train.py", "python", "train.py", ""),
        ("/opt/conda/envs/x/bin/python3.11 -u -W ignore -X dev /a/b/Train.py --lr 1", "python3.11", "train.py", ""),
        ("python -Bsu -m torch.distributed.run x.py", "python", "", "torch.distributed.run"),
        ("/usr/bin/python3 /usr/local/bin/vllm serve m", "python3", "vllm", ""),
        ("/bin/bash -x run.sh", "bash", "run.sh", ""),
        ("java -Xmx4G -cp /a:/b net.minecraft.client.main.Main", "java", "net.minecraft.client.main.main", ""),
        ("java -jar /opt/server.jar", "java", "", "server.jar"),
        ("julia --project=. -t 8 run.jl", "julia", "run.jl", ""),
        ("node --require x /opt/app/server.js", "node", "server.js", ""),
        ("-bash", "bash", "", ""),
        ("python", "python", "", ""),
        ("=VLLM::EngineCore", "vllm::enginecore", "", ""),
        ("=postgres: writer process", "postgres", "", ""),
        ("=python train.py --lr 1", "python", "train.py", ""),
        ("=", "", "", ""),
        ("=  ", "", "", ""),
        ("C:\\Program Files\\X\\Game.exe -w", "game.exe", "", ""),
    ],
)
def test_what_runs_is_found(line: str, program: str, script: str, module: str) -> None:
    """Program, script and module, in lower case and without folders."""
    found = parse(split(line))
    assert (found.program, found.script, found.module) == (program, script, module)


def test_code_on_the_command_line_is_no_word() -> None:
    """What is in the code decides nothing."""
    for line in ("python -c 'import vllm; train()' a", "bash -lc 'ollama serve'", "sh -c vllm"):
        found = parse(split(line))
        assert found.inline
        assert list(found.names) == [found.program]
        assert "vllm" not in " ".join(found.arguments)


def test_paths_lose_their_folders_and_keep_a_slash() -> None:
    """So that /data/fit is not taken for the word fit."""
    found = parse(["work", "--in=/data/vllm/a.gguf", "/data/fit", "fit", "--Learning_Rate", "1"])
    assert found.arguments == ("--in", "/a.gguf", "/fit", "fit", "--learning-rate", "1")


def test_without_a_command_line_the_kernels_name_counts() -> None:
    """A process that is ending has none any more."""
    assert parse([], "Ollama") == Command("ollama")
    assert parse([""], "x") == Command("x")
