"""The proxy as people start it: in the daemon, and as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.llm.proxy.imitation import TAGS, Imitation, Script, whole
from tests.llm.proxy.learning import CASES
from tests.test_cli import free_port, gpumon

CHAT = CASES["ollama chat"]


@asynccontextmanager
async def started(*command: str, **environ: str) -> AsyncIterator[str]:
    """Run gpumon until it is to end, and give what it said when the proxy listened."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gpumon", *command),
        env={"HOME": "/nowhere", "PYTHONPATH": os.pathsep.join(sys.path), **environ},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async for line in process.stderr:
            if b"proxy listens" in line:
                yield line.decode()
                break
    finally:
        process.send_signal(signal.SIGTERM)
        await process.stderr.read()
        assert await process.wait() == 0


@pytest.mark.parametrize("command", [("proxy",), ("run", "--simulate", "h100x8")])
def test_requests_pass_and_are_counted(command: tuple[str, ...]) -> None:
    """Through both; /metrics has what was measured, and GPUs in the daemon only."""

    async def main() -> None:
        listen, metrics = free_port(), free_port()
        scripts: dict[str, Script | bytes] = {
            "/api/tags": TAGS,
            "/api/chat": CHAT.response,
            "/api/version": whole(b'{"version":"0.30.0"}'),
            "/api/ps": whole(b'{"models":[]}'),
        }
        async with asyncio.timeout(50), Imitation(scripts) as server:
            settings = {
                "GPUMON_PROXY_LISTEN": f"127.0.0.1:{listen}",
                "GPUMON_PROXY_UPSTREAM": server.url,
                "GPUMON_OLLAMA_API_PORT": str(listen),  # as clients know it: the proxy is not watched
                "GPUMON_TELEMETRY_METRICS_ADDRESS": "127.0.0.1",
                "GPUMON_TELEMETRY_METRICS_PORT": str(metrics),
                "GPUMON_API_ENABLED": "false",
                "GPUMON_SERVICE_POLL_INTERVAL_SECS": "0.25",
            }
            async with started(*command, **settings) as said, aiohttp.ClientSession() as session:
                assert server.url in said
                url = f"http://127.0.0.1:{listen}/api/chat"
                async with session.post(url, data=CHAT.request_bytes.split(b"\r\n\r\n")[1]) as answer:
                    assert answer.status == 200
                    assert (await answer.read()).endswith(b'"eval_duration":2000000000}\n')
                where = f'server="127.0.0.1:{server.port}"'
                labels = f'{where},source="proxy"'
                wanted = (
                    f"gpumon_llm_proxy_requests_total{{{where}}} 1.0\n",
                    f'gpumon_llm_generated_tokens_total{{kind="ollama",model="tiny",{labels}}} 5.0\n',
                    f'gpumon_llm_prompt_tokens_total{{kind="ollama",model="tiny",{labels}}} 26.0\n',
                    f'gpumon_llm_requests_total{{kind="ollama",model="tiny",outcome="ok",{labels}}} 1.0\n',
                    f'gpumon_llm_time_to_first_token_seconds_count{{kind="ollama",model="tiny",{labels}}} 1.0\n',
                    f'gpumon_llm_server_up{{kind="ollama",{where}}} 1.0\n',
                )
                page = ""
                while not all(line in page for line in wanted):
                    async with session.get(f"http://127.0.0.1:{metrics}/metrics") as answer:
                        page = await answer.text()
                    await asyncio.sleep(0.05)  # another process's ticks cannot be moved
                assert page.count("gpumon_llm_server_up{") == 1
                assert ("gpumon_gpu_power_watts" in page) == (command[0] == "run")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "gpumon: proxy.listen is empty; set it to an address and a port, as in 127.0.0.1:11435.\n"),
        (
            {"GPUMON_PROXY_LISTEN": "11435"},
            'gpumon: proxy.listen is "11435" (environment variable GPUMON_PROXY_LISTEN)',
        ),
        ({"GPUMON_PROXY_LISTEN": "127.0.0.1:11434"}, "the proxy and the model server must have a port each.\n"),
        (
            {"GPUMON_PROXY_LISTEN": "[::1]:1", "GPUMON_PROXY_UPSTREAM": "http://h:1/v1"},
            "allowed is a URL without a path",
        ),
    ],
)
def test_a_wrong_setting_stops_the_start(environ: dict[str, str], said: str) -> None:
    """One sentence and exit code 2."""
    metrics = {"GPUMON_TELEMETRY_METRICS_ADDRESS": "127.0.0.1", "GPUMON_TELEMETRY_METRICS_PORT": str(free_port())}
    done = gpumon("proxy", **metrics, **environ)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
