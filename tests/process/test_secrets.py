"""What is kept of a command line has no secret in it."""

from __future__ import annotations

import pytest

from gpumon.process.secrets import HIDDEN, KEPT_CHARACTERS, redact

SECRET = "hunter2"


@pytest.mark.parametrize(
    "argv",
    [
        ["x", "--token", SECRET],
        ["x", "--token=hunter2"],
        ["x", "--hf_token", SECRET],
        ["x", "--HF-TOKEN=hunter2"],
        ["x", "--api-key", SECRET, "--model", "m"],
        ["x", "--apikey=hunter2"],
        ["x", "--openai_api_key=hunter2"],
        ["x", "--password", SECRET],
        ["x", "--db-passwd=hunter2"],
        ["x", "-p", SECRET],
        ["x", "--secret", SECRET],
        ["x", "--aws-secret-access-key", SECRET],
        ["x", "--auth", SECRET],
        ["x", "--private-key=hunter2"],
        ["x", "--key", SECRET],
        ["WANDB_API_KEY=hunter2", "x"],
        ["env", "HF_TOKEN=hunter2", "python"],
        ["x", "--url", "https://user:hunter2@example.com/path"],
        ["x", "postgres://me:hunter2@db/x"],
        ["x", "https://example.com/?sig=hunter2&a=b"],
        ["x", "--callback=https://example.com/hook?token=hunter2"],
        ["python", "-c", "login('hunter2')"],
        ["bash", "-c", "export A=hunter2; run"],
        ["x", "--webhook", SECRET],
    ],
)
def test_values_of_secrets_are_hidden(argv: list[str]) -> None:
    """In every form an argument or a URL can have."""
    text = redact(argv)
    assert SECRET not in text
    assert HIDDEN in text


@pytest.mark.parametrize(
    "word",
    [
        "hf_abcdefghijklmnopqrstuvwxyz0123456789",
        "sk-proj-abcdefghijklmnop0123",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "AKIAABCDEFGHIJKLMNOP",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
        "0123456789abcdef0123456789abcdef",
        "nvapi-abcdefghijklmnop",
    ],
)
def test_what_looks_like_a_secret_is_hidden(word: str) -> None:
    """Wherever it stands."""
    for argv in (["x", word], ["x", f"--opt={word}"], ["x", f"a,{word}"]):
        assert word not in redact(argv)


def test_ordinary_command_lines_stay_readable() -> None:
    """Model names, ports and paths are what they are kept for."""
    line = "python3 -m vllm.entrypoints.openai.api_server --model meta-llama/Llama-3-8B --port 8000 --dtype bfloat16"
    assert redact(line.split()) == line
    assert redact(["train.py", "--max-tokens", "128", "--lr", "3e-4"]).endswith("--lr 3e-4")


def test_it_is_cut_and_printable() -> None:
    """A line of any length, with anything in it, is one short line."""
    text = redact(["x", "a" * 10_000, "b\nc\x1b[31m"])
    assert len(text) == KEPT_CHARACTERS
    assert redact(["x", "b\nc\x1b[31m"]).isprintable()
    assert redact([]) == ""
