"""A real Prometheus scrapes the port: compressed, and through TLS with a client certificate and a password."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import bcrypt
import pytest
import trustme
import yaml
from tests.snapshots import node
from tests.web.serving import ask, serving

from gpumon.export.prometheus import Form
from gpumon.hub import Hub
from gpumon.web.webconfig import WebConfig, load_web_config

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="PROMETHEUS IS NOT INSTALLED: the port was not checked with it"
)


def guarded(folder: Path) -> WebConfig:
    """Write a web-config that asks for everything, and what a scraper needs to get past it."""
    ca = trustme.CA()
    server, scraper = ca.issue_cert("localhost"), ca.issue_cert("prometheus")
    for name, certificate in (("server", server), ("scraper", scraper)):
        (folder / f"{name}.crt").write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
        (folder / f"{name}.key").write_bytes(certificate.private_key_pem.bytes())
    (folder / "ca.crt").write_bytes(ca.cert_pem.bytes())
    config = {
        "tls_server_config": {
            "cert_file": "server.crt",
            "key_file": "server.key",
            "client_auth_type": "RequireAndVerifyClientCert",
            "client_ca_file": "ca.crt",
            "client_allowed_sans": ["prometheus"],
            "min_version": "TLS13",
        },
        "basic_auth_users": {"prometheus": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()},
    }
    (folder / "web.yml").write_text(yaml.safe_dump(config))
    return load_web_config(folder / "web.yml")


def jobs(plain: int, guarded: int) -> dict[str, Any]:
    """Give Prometheus's configuration for both servers."""
    return {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "scrape_configs": [
            {"job_name": "plain", "static_configs": [{"targets": [f"localhost:{plain}"]}]},
            {
                "job_name": "guarded",
                "scheme": "https",
                "static_configs": [{"targets": [f"localhost:{guarded}"]}],
                "tls_config": {"ca_file": "ca.crt", "cert_file": "scraper.crt", "key_file": "scraper.key"},
                "basic_auth": {"username": "prometheus", "password": "secret"},
            },
        ],
    }


async def query(port: int, expression: str) -> dict[str, float]:
    """Give the values of an expression by job, empty while Prometheus does not answer yet."""
    try:
        answer = await ask(port, f"/api/v1/query?query={quote(expression)}")
    except OSError:
        return {}
    if answer.status != 200:
        return {}
    return {row["metric"]["job"]: float(row["value"][1]) for row in json.loads(answer.body)["data"]["result"]}


def test_prometheus_takes_every_sample(tmp_path: Path) -> None:
    """As many as the page has, with the age that was added to it; it asks for OpenMetrics and for gzip."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        own_port = probe.getsockname()[1]

    async def scenario() -> None:
        hub = Hub()
        hub.publish(node(monotonic=100.0))
        clock = {"clock": lambda: 100.25}
        async with serving(hub, **clock) as plain, serving(hub, web_config=guarded(tmp_path), **clock) as behind:
            (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(jobs(plain.port, behind.port)))
            prometheus = await asyncio.create_subprocess_exec(
                "prometheus",
                f"--config.file={tmp_path}/prometheus.yml",
                f"--storage.tsdb.path={tmp_path}/data",
                f"--web.listen-address=127.0.0.1:{own_port}",
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                async with asyncio.timeout(30):
                    while await query(own_port, "up") != {"plain": 1.0, "guarded": 1.0}:
                        await asyncio.sleep(0.1)
                page = (await ask(plain.port)).body.decode()
                samples = sum(not line.startswith("#") for line in page.splitlines())
                both = {"plain", "guarded"}
                assert await query(own_port, "scrape_samples_scraped") == dict.fromkeys(both, samples)
                assert await query(own_port, "gpumon_snapshot_age_seconds") == dict.fromkeys(both, 0.25)
                assert await query(own_port, "count by (job) (gpumon_gpu_temperature_celsius)") == dict.fromkeys(
                    both, 8
                )
                assert plain.renders[Form.OPENMETRICS, True] == behind.renders[Form.OPENMETRICS, True] == 1
                assert (Form.TEXT, True) not in behind.renders
            finally:
                prometheus.terminate()
                await prometheus.wait()

    asyncio.run(scenario())
