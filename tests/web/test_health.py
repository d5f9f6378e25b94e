"""`gpumon health` says of the metrics port what an orchestrator has to know, whatever guards that port."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import bcrypt
import pytest
import trustme
import yaml
from tests.daemon import free_port
from tests.web.serving import serving

from gpumon.check.health import ask
from gpumon.settings import Telemetry
from gpumon.web.webconfig import WebConfig, load_web_config


def answer(
    web_config: WebConfig | None = None, trouble: str | None = None, address: str = "0.0.0.0"
) -> tuple[bool, str]:
    """Give what health says of a metrics port."""

    async def scenario() -> tuple[bool, str]:
        async with serving(web_config=web_config, alive=lambda: trouble) as server:
            telemetry = Telemetry(metrics_address=address, metrics_port=server.port)
            tls = web_config is not None and web_config.tls is not None
            return await asyncio.to_thread(ask, telemetry, tls=tls)

    return asyncio.run(scenario())


def test_it_says_what_healthz_says() -> None:
    """Well is well; the reason of what is not is told."""
    assert answer() == (True, "ok")
    assert answer(trouble="a GPU driver call has not returned for 301 s") == (
        False,
        "a GPU driver call has not returned for 301 s",
    )


def test_where_nobody_answers_it_fails() -> None:
    """The port that was asked is named."""
    port = free_port()
    well, said = ask(Telemetry(metrics_port=port), tls=False)
    assert not well
    assert said.startswith(f"127.0.0.1:{port} does not answer: ")


def test_without_a_metrics_port_nothing_is_known() -> None:
    """A container is not restarted for what was switched off."""
    assert ask(Telemetry(enable_prometheus=False), tls=False)[0]


@pytest.mark.parametrize("section", ["tls", "client certificates", "login"])
def test_a_guarded_port_is_asked_as_well(section: str, tmp_path: Path) -> None:
    """TLS is spoken with whom has any certificate; to be refused by somebody is to find him alive."""
    ca = trustme.CA()
    certificate = ca.issue_cert("gpu-node-1.example")
    (tmp_path / "server.crt").write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
    (tmp_path / "server.key").write_bytes(certificate.private_key_pem.bytes())
    (tmp_path / "ca.crt").write_bytes(ca.cert_pem.bytes())
    tls = {"cert_file": "server.crt", "key_file": "server.key"}
    sections: dict[str, Mapping[str, str]] = {"tls_server_config": tls}
    if section == "client certificates":
        sections = {
            "tls_server_config": {
                **tls,
                "client_auth_type": "RequireAndVerifyClientCert",
                "client_ca_file": "ca.crt",
            }
        }
    if section == "login":
        hashed = bcrypt.hashpw(b"secret", bcrypt.gensalt(rounds=4)).decode()
        sections = {"basic_auth_users": {"prometheus": hashed}}
    (tmp_path / "web.yml").write_text(yaml.safe_dump(sections))
    well, said = answer(load_web_config(tmp_path / "web.yml"))
    assert well, said
