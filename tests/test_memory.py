"""What is not needed is not in memory, and what is needed is there."""

from __future__ import annotations

import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from gpumon.memory import EXTRAS, limit_bytes, speaks_tls
from gpumon.settings import Settings
from tests.daemon import PATIENCE, environment, free_port, until


def test_tls_is_needed_for_a_port_or_an_address_that_speaks_it() -> None:
    """Nothing speaks TLS by default; a port does when it is told to, and a client when an address of ours says https."""
    settings = Settings()
    assert not speaks_tls(settings, {"HTTPS_PROXY": "https://proxy"}, served=False)
    assert speaks_tls(settings, {}, served=True)
    assert speaks_tls(settings, {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector:4318"}, served=False)
    ollama = replace(settings, ollama=replace(settings.ollama, api_url="https://ollama.example"))
    assert speaks_tls(ollama, {}, served=False)


@contextmanager
def running(home: Path, port: int, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a simulated node, and end it."""
    command = [sys.executable, "-m", "gpumon", "run", "--simulate", "rtx4090x1"]
    process = subprocess.Popen(
        command,
        env=environment(home, port) | variables,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


def answers(url: str, context: ssl.SSLContext | None = None) -> bool:
    """Say whether a page can be had."""
    try:
        with urllib.request.urlopen(url, timeout=10, context=context) as answer:
            return b"gpumon_up 1" in answer.read()
    except OSError:
        return False


def maps(process: subprocess.Popen[bytes], library: str) -> bool:
    """Say whether a process has a shared library in memory."""
    return library in Path(f"/proc/{process.pid}/maps").read_text()


def test_without_tls_no_tls_library_is_in_memory(tmp_path: Path) -> None:
    """It would take 3.7 MB of the 44."""
    port = free_port()
    with running(tmp_path, port) as process:
        until(process, lambda: answers(f"http://127.0.0.1:{port}/metrics"))
        assert not maps(process, "/_ssl.")


def test_with_tls_configured_the_port_speaks_it(tmp_path: Path) -> None:
    """A web-config file with a certificate brings the library back."""
    ca, port = trustme.CA(), free_port()
    certificate = ca.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: cert.pem, key_file: key.pem}\n")
    context = ssl.create_default_context()
    ca.configure_trust(context)
    with running(tmp_path, port, GPUMON_TELEMETRY_WEB_CONFIG_FILE=str(tmp_path / "web.yml")) as process:
        until(process, lambda: answers(f"https://127.0.0.1:{port}/metrics", context))
        assert maps(process, "/_ssl.")


@pytest.mark.parametrize("name", ["aiohttp", "asyncio"])
def test_libraries_do_without_ssl(name: str) -> None:
    """The libraries gpumon stands on still allow for a Python without ssl."""
    code = f"import sys; sys.modules['ssl'] = None; import {name}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_what_only_lies_around_is_not_in_memory() -> None:
    """Packages of the environment that others would import are left out, and everything is imported without them."""
    code = (
        "import sys; from gpumon.memory import leave_extras_out; leave_extras_out(); import gpumon.app, gpumon.web.metrics; "
        f"print(*(name for name, module in sys.modules.items() if module and name.split('.')[0] in {EXTRAS}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
    # Else this test could not fail: structlog does import one of them here.
    ran = subprocess.run(
        [sys.executable, "-c", code.replace("leave_extras_out();", "")], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() != []


@pytest.mark.parametrize(
    ("name", "text", "limit"),
    [
        ("memory.max", "100663296\n", 100663296),
        ("memory.max", "max\n", None),
        ("memory/memory.limit_in_bytes", "100663296\n", 100663296),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", None),
    ],
)
def test_a_containers_limit_is_known(name: str, text: str, limit: int | None, tmp_path: Path) -> None:
    """Both versions of cgroups, each with its own word for none; without either there is no limit."""
    assert limit_bytes(tmp_path) is None
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert limit_bytes(tmp_path) == limit
