"""The metrics port answers what is asked rightly, refuses the rest, and never stands in the way of the sampling."""

from __future__ import annotations

import asyncio
import gzip
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text
from tests.snapshots import node
from tests.web.serving import ask, say, serving, settings

from gpumon.export.prometheus import Form
from gpumon.hub import Hub
from gpumon.settings import SettingsError
from gpumon.web.metrics import MetricsServer


def fresh(gpus: int = 1, links: int = 1) -> tuple[Hub, Any]:
    """Give a hub with a snapshot, and a clock by which it is half a second old."""
    hub = Hub()
    hub.publish(node(gpus, links, monotonic=100.0))
    return hub, lambda: 100.5


def test_metrics_are_served_in_the_form_and_encoding_the_client_asks_for() -> None:
    """Each with its content type, and each the same numbers."""

    async def scenario() -> None:
        hub, clock = fresh()
        async with serving(hub, clock=clock) as server:
            plain = await ask(server.port)
            assert plain.status == 200
            assert plain.headers["Content-Type"] == Form.TEXT.value
            assert "Content-Encoding" not in plain.headers
            assert b"gpumon_snapshot_age_seconds 0.5\n" in plain.body
            openmetrics = await ask(server.port, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
            assert openmetrics.headers["Content-Type"] == Form.OPENMETRICS.value
            assert openmetrics.body.endswith(b"\n# EOF\n")
            compressed = await ask(server.port, headers={"Accept-Encoding": "gzip"})
            assert compressed.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(compressed.body) == plain.body
            assert len(compressed.body) < len(plain.body)

    asyncio.run(scenario())


def test_curl_reads_the_compressed_page_whole(tmp_path: Path) -> None:
    """The age at its end included, which is not part of what is cached."""

    async def scenario() -> None:
        hub, clock = fresh()
        async with serving(hub, clock=clock) as server:
            url = f"http://127.0.0.1:{server.port}/metrics"
            command = ["curl", "--silent", "--show-error", "--fail", "--compressed", "--output", str(tmp_path / "page")]
            process = await asyncio.create_subprocess_exec(*command, url)
            assert await process.wait() == 0
            assert (tmp_path / "page").read_bytes() == (await ask(server.port)).body

    try:
        subprocess.run(["curl", "--version"], capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip("CURL IS NOT INSTALLED: compression was not checked with it")
    asyncio.run(scenario())


def test_health_says_why_it_is_not_well() -> None:
    """200 while there is no reason, 503 with the reason otherwise."""

    async def scenario() -> None:
        reasons = [None, "GPU 3 has not answered for 301 s"]
        async with serving(alive=lambda: reasons.pop(0)) as server:
            well = await ask(server.port, "/healthz")
            assert (well.status, well.body) == (200, b"ok\n")
            ill = await ask(server.port, "/healthz")
            assert (ill.status, ill.body) == (503, b"GPU 3 has not answered for 301 s\n")

    asyncio.run(scenario())


def test_ready_is_said_once_there_is_a_snapshot() -> None:
    """Until then /metrics is served all the same, and says that gpumon is not up."""

    async def scenario() -> None:
        hub = Hub()
        async with serving(hub) as server:
            assert (await ask(server.port, "/readyz")).status == 503
            assert b"gpumon_up 0.0\n" in (await ask(server.port)).body
            hub.publish(node(1, 1))
            assert (await ask(server.port, "/readyz")).status == 200

    asyncio.run(scenario())


def test_other_paths_and_methods_are_refused_by_the_right_code() -> None:
    """404 for what is not there, 405 with the methods that are for what is; HEAD is GET without the body."""

    async def scenario() -> None:
        hub, clock = fresh()
        async with serving(hub, clock=clock) as server:
            for path in ("/nothing", "/metrics/", "//metrics", "/-/release", "/-/resume", "/..%2fetc/passwd"):
                assert (await ask(server.port, path)).status == 404
            for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
                answer = await ask(server.port, "/metrics", method)
                assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
            for path in ("/", "/metrics", "/healthz", "/readyz"):
                whole = await ask(server.port, path)
                head = await ask(server.port, path, "HEAD")
                assert (head.status, head.body) == (200, b"")
                assert head.headers["Content-Length"] == str(len(whole.body))
                assert head.headers["Server"] == "gpumon"
            assert (await ask(server.port, "/metrics?name[]=up")).status == 200

    asyncio.run(scenario())


def test_the_driver_is_released_and_resumed_only_from_this_machine() -> None:
    """By POST, and not through a browser or a proxy, whose address says nothing of who asks."""

    async def scenario() -> None:
        done: list[str] = []

        async def act(what: str) -> str:
            done.append(what)
            return f"{what}: done"

        actions = {"release": lambda: act("release"), "resume": lambda: act("resume")}
        async with serving(**actions) as server:
            for action in actions:
                path = f"/-/{action}"
                answer = await ask(server.port, path, "POST")
                assert (answer.status, answer.body) == (200, f"{action}: done\n".encode())
                wrong = await ask(server.port, path)
                assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")
                for name in ("Origin", "X-Forwarded-For", "Via", "Forwarded", "X-Forwarded-Proto"):
                    assert (await ask(server.port, path, "POST", {name: "somewhere"})).status == 403
        assert done == ["release", "resume"]

    asyncio.run(scenario())


def test_the_driver_is_not_released_for_another_machine() -> None:
    """Asked from an address of this machine that is not loopback, as another machine would be."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; picks the address we would be seen with
        except OSError:
            pytest.skip("THIS MACHINE HAS LOOPBACK ONLY: the refusal of other addresses was not checked")
        outside = probe.getsockname()[0]

    async def scenario() -> None:
        async def act() -> str:
            raise AssertionError

        server = MetricsServer(settings(outside), Hub(), alive=lambda: None, release=act)
        await server.start()
        try:
            reader, writer = await asyncio.open_connection(outside, server.port)
            writer.write(b"POST /-/release HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 403 ")
            writer.close()
        finally:
            await server.stop()

    asyncio.run(scenario())


def test_a_port_in_use_is_said_with_the_setting_that_changes_it() -> None:
    """One sentence; nothing stays open."""

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            server = MetricsServer(settings(port=port), Hub(), alive=lambda: None)
            with pytest.raises(SettingsError) as caught:
                await server.start()
            await server.stop()
        assert str(caught.value) == (
            f"Port {port} on 127.0.0.1 is in use by another program; set telemetry.metrics_port to a free one."
        )

    asyncio.run(scenario())


@pytest.mark.parametrize("address", ["203.0.113.7", "no.such.host.invalid", "a\0b", "x" * 300, "256.1.1.1"])
def test_an_address_that_is_not_ours_is_said_with_the_setting_that_changes_it(address: str) -> None:
    """One sentence."""

    async def scenario() -> None:
        server = MetricsServer(settings(address), Hub(), alive=lambda: None)
        with pytest.raises(SettingsError, match=r"^telemetry\.metrics_address is .* no address of this machine"):
            await server.start()

    asyncio.run(scenario())


def test_ten_scrapers_at_once_share_one_render() -> None:
    """Each gets a whole page, over connections that they keep."""

    async def scenario() -> None:
        hub, clock = fresh(8, 43)
        async with serving(hub, clock=clock) as server:
            head = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n"

            async def scraper() -> set[bytes]:
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                pages = set()
                for _ in range(5):
                    writer.write(head)
                    answer = await reader.readuntil(b"\r\n\r\n")
                    length = int(answer.split(b"Content-Length: ")[1].split(b"\r\n")[0])
                    pages.add(await reader.readexactly(length))
                writer.close()
                return pages

            pages = set().union(*await asyncio.gather(*(scraper() for _ in range(10))))
            assert len(pages) == 1
            samples = [sample for f in parse_text(gzip.decompress(pages.pop()).decode()) for sample in f.samples]
            assert len(samples) > 1900
            assert server.renders == {(Form.TEXT, True): 1}

    asyncio.run(scenario())


def test_an_error_of_ours_is_an_answer_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """500, a log line with the traceback, and the next request is served."""

    async def scenario() -> None:
        def broken() -> str:
            raise ZeroDivisionError

        async with serving(alive=broken) as server:
            for _ in range(3):
                assert (await ask(server.port, "/healthz")).status == 500
            assert (await ask(server.port, "/readyz")).status == 503

    asyncio.run(scenario())
    written = capsys.readouterr()
    assert (written.out + written.err).count("Traceback") == 1


def test_what_is_not_http_is_refused_without_a_word_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """TLS on a plain port, another protocol, a request line or headers too long: 400 and the connection ends."""

    async def scenario() -> None:
        async with serving() as server:
            for data in (
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
                b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
                b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_000 + b"\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n",
                b"\0" * 100_000,
            ):
                answer = await say(server.port, data)
                assert answer.startswith(b"HTTP/1.0 400 ") or answer == b"", data[:40]
            assert (await ask(server.port, "/")).status == 200

    asyncio.run(scenario())
    written = capsys.readouterr()
    assert written.out + written.err == ""


async def read_response(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
    """Read one response: its headers, status line included under "", and its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {"": head[0]} | dict(line.split(": ", 1) for line in head[1:] if line)
    return headers, await reader.readexactly(int(headers["Content-Length"]))


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_the_same_request_again_gets_the_page_as_of_then(encoding: str) -> None:
    """A scraper that asks byte for byte the same gets the same headers, the newest snapshot and its age of that moment."""

    async def scenario() -> None:
        hub, now = Hub(), [100.5]
        hub.publish(node(1, 1, monotonic=100.0))
        request = f"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {encoding}\r\n\r\n".encode()
        async with serving(hub, clock=lambda: now[0]) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            pages = []
            for i in range(4):
                now[0] = 100.5 + i
                if i == 3:
                    hub.publish(node(2, 1, monotonic=103.0))
                writer.write(request)
                headers, body = await read_response(reader)
                pages.append((headers, gzip.decompress(body) if encoding == "gzip" else body))
            assert {page[0][""] for page in pages} == {"HTTP/1.1 200 OK"}
            volatile = ("Date", "Content-Length")
            first, *others = [{k: v for k, v in page[0].items() if k not in volatile} for page in pages]
            assert all(other == first for other in others)
            ages = [page[1].split(b"gpumon_snapshot_age_seconds ")[-1].split()[0] for page in pages]
            assert ages == [b"0.5", b"1.5", b"2.5", b"0.5"]
            assert pages[3][1].count(b"gpumon_gpu_up{") == 2
            # Something else on the same connection is answered as what it is, and so is what comes after it.
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await read_response(reader))[1] == b"ok\n"
            writer.write(request[:20])
            await asyncio.sleep(0)
            writer.write(request[20:] + request)
            for _ in range(2):
                assert (await read_response(reader))[0]["Content-Type"] == Form.TEXT.value
            writer.close()

    asyncio.run(scenario())
