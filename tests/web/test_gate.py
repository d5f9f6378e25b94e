"""With a web-config only those get in who may, and nobody who may not can hold the others up."""

from __future__ import annotations

import asyncio
import base64
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import bcrypt
import pytest
import trustme
import yaml
from tests.web.serving import ask, say, serving

from gpumon.web.listen import Listener
from gpumon.web.webconfig import WebConfig, load_web_config

Files = Callable[..., WebConfig]


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def put(folder: Path, certificate: trustme.LeafCert) -> None:
    """Write the server's certificate and key, with a time of change that no earlier file can have."""
    (folder / "server.crt").write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
    (folder / "server.key").write_bytes(certificate.private_key_pem.bytes())


@pytest.fixture
def files(tmp_path: Path, ca: trustme.CA) -> Files:
    """Give a function that writes a web-config with TLS and the given sections, and reads it."""
    put(tmp_path, ca.issue_cert("localhost"))
    (tmp_path / "ca.crt").write_bytes(ca.cert_pem.bytes())

    def write(*, tls: Mapping[str, object] | None = None, **sections: object) -> WebConfig:
        if tls is not None:
            sections["tls_server_config"] = {"cert_file": "server.crt", "key_file": "server.key", **tls}
        (tmp_path / "web.yml").write_text(yaml.safe_dump(sections))
        return load_web_config(tmp_path / "web.yml")

    return write


def client(ca: trustme.CA, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """Give the TLS side of a scraper."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    if certificate:
        certificate.configure_cert(context)
    return context


async def admitted(port: int, context: ssl.SSLContext) -> bool:
    """Say whether a client gets a page. Under TLS 1.3 it learns only by reading that it was refused."""
    try:
        return (await ask(port, context=context)).status == 200
    except OSError:
        return False


MUTUAL = {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "ca.crt"}


def test_with_tls_only_tls_is_spoken(files: Files, ca: trustme.CA) -> None:
    """A scraper that trusts the authority gets the page, plain HTTP gets nothing."""

    async def scenario() -> None:
        async with serving(web_config=files(tls={})) as server:
            assert await admitted(server.port, client(ca))
            assert not await admitted(server.port, client(trustme.CA()))
            with pytest.raises(OSError):
                await ask(server.port)

    asyncio.run(scenario())


def test_required_client_certificates_must_be_of_the_authority(files: Files, ca: trustme.CA) -> None:
    """None, or one of somebody else, gets nothing."""

    async def scenario() -> None:
        async with serving(web_config=files(tls=MUTUAL)) as server:
            assert await admitted(server.port, client(ca, ca.issue_cert("prometheus")))
            assert not await admitted(server.port, client(ca))
            assert not await admitted(server.port, client(ca, trustme.CA().issue_cert("prometheus")))

    asyncio.run(scenario())


def test_a_certificate_that_need_not_be_given_must_be_right_when_it_is(files: Files, ca: trustme.CA) -> None:
    """VerifyClientCertIfGiven; names are looked at only where there is a certificate."""
    config = files(tls={**MUTUAL, "client_auth_type": "VerifyClientCertIfGiven", "client_allowed_sans": ["prometheus"]})

    async def scenario() -> None:
        async with serving(web_config=config) as server:
            assert await admitted(server.port, client(ca))
            assert await admitted(server.port, client(ca, ca.issue_cert("prometheus")))
            assert not await admitted(server.port, client(ca, ca.issue_cert("grafana")))
            assert not await admitted(server.port, client(ca, trustme.CA().issue_cert("prometheus")))

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["prometheus", "scraper@example.org", "192.0.2.7", "2001:db8::7"])
def test_only_allowed_names_get_in(files: Files, ca: trustme.CA, name: str) -> None:
    """Host names, e-mail and IP addresses, compared whole."""
    config = files(tls={**MUTUAL, "client_allowed_sans": ["other", name.upper() if ":" in name else name]})

    async def scenario() -> None:
        released: list[str] = []

        async def release() -> str:
            released.append("")
            return "released"

        async with serving(web_config=config, release=release) as server:
            assert await admitted(server.port, client(ca, ca.issue_cert("grafana", name)))
            for wrong in ("grafana", "prometheus.example.org", "192.0.2.70"):
                context = client(ca, ca.issue_cert(wrong))
                assert not await admitted(server.port, context)
                with pytest.raises(OSError):
                    await ask(server.port, "/-/release", "POST", context=context)
        assert released == []

    asyncio.run(scenario())


def test_a_client_certificate_may_be_trusted_by_itself(files: Files, ca: trustme.CA, tmp_path: Path) -> None:
    """As in Go, what is in client_ca_file need not be a root."""
    chosen, other = ca.issue_cert("prometheus"), ca.issue_cert("prometheus")
    (tmp_path / "client.crt").write_bytes(chosen.cert_chain_pems[0].bytes())

    async def scenario() -> None:
        async with serving(web_config=files(tls={**MUTUAL, "client_ca_file": "client.crt"})) as server:
            assert await admitted(server.port, client(ca, chosen))
            assert not await admitted(server.port, client(ca, other))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("tls", "version", "cipher"),
    [
        ({"min_version": "TLS13"}, "TLSv1.3", None),
        ({"max_version": "TLS12"}, "TLSv1.2", None),
        (
            {"max_version": "TLS12", "cipher_suites": ["TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"]},
            "TLSv1.2",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        ),
        ({"cipher_suites": ["TLS_AES_128_GCM_SHA256"]}, "TLSv1.3", None),
        ({"curve_preferences": ["CurveP384"]}, "TLSv1.3", None),
    ],
)
def test_versions_and_ciphers_are_those_of_the_file(
    files: Files, ca: trustme.CA, tls: Mapping[str, object], version: str, cipher: str | None
) -> None:
    """As a client that can do all of them sees it; one that can do only the other version gets nothing."""

    async def scenario() -> None:
        async with serving(web_config=files(tls=tls)) as server:
            _, writer = await asyncio.open_connection("localhost", server.port, ssl=client(ca))
            spoken = writer.get_extra_info("ssl_object")
            assert spoken.version() == version
            assert cipher in (None, spoken.cipher()[0])
            writer.close()
            if "curve_preferences" in tls:
                return
            other = client(ca)
            if version == "TLSv1.3":
                other.maximum_version = ssl.TLSVersion.TLSv1_2
            else:
                other.minimum_version = ssl.TLSVersion.TLSv1_3
            assert not await admitted(server.port, other)

    asyncio.run(scenario())


def test_changed_certificates_are_taken_up_and_broken_ones_are_not(
    files: Files, ca: trustme.CA, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a restart; what was in force stays in force, and the trouble is said once."""

    async def serial(port: int) -> str:
        _, writer = await asyncio.open_connection("localhost", port, ssl=client(ca))
        number: str = writer.get_extra_info("peercert")["serialNumber"]
        writer.close()
        return number

    async def scenario() -> None:
        clock = Clock()
        async with serving(web_config=files(tls={}), clock=clock) as server:
            first = await serial(server.port)
            put(tmp_path, ca.issue_cert("localhost"))
            assert await serial(server.port) == first
            clock.now = 1.0
            second = await serial(server.port)
            assert second != first
            for text in ("half of a certif", "half of a certificate"):
                (tmp_path / "server.crt").write_text(text)
                for _ in range(2):
                    clock.now += 11.0
                    assert await serial(server.port) == second
            (tmp_path / "server.crt").unlink()
            clock.now += 11.0
            assert await serial(server.port) == second
            (tmp_path / "web.yml").write_text("")
            clock.now += 11.0
            assert await serial(server.port) == second
            assert "switches TLS on or off" in capsys.readouterr().out
            put(tmp_path, ca.issue_cert("localhost"))
            files(tls={})
            clock.now += 11.0
            assert await serial(server.port) not in (first, second)

    asyncio.run(scenario())
    assert capsys.readouterr().out.count("changed web-config taken up") == 1


def test_handshakes_that_do_not_end_are_bounded_too(files: Files) -> None:
    """They count as connections, and have the time of a request's head."""
    from gpumon.web.gate import Gate

    async def scenario() -> None:
        async def respond(request: object) -> object:
            raise AssertionError

        gate = Gate(files(tls={}), Clock())
        listener = Listener(respond, None, gate, most_connections=3, head_secs=1)  # type: ignore[arg-type]
        port = await listener.start("127.0.0.1", 0, "address", "port")
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        beyond, writer = await asyncio.open_connection("127.0.0.1", port)
        assert (await beyond.read()).startswith(b"HTTP/1.1 503 ")
        writer.close()
        for reader, writer in held:
            assert await reader.read() == b""
            writer.close()
        await listener.stop()

    asyncio.run(scenario())


def hashed(password: bytes, cost: int = 4) -> str:
    return bcrypt.hashpw(password, bcrypt.gensalt(cost)).decode()


def login(name: str, password: str) -> Mapping[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def test_only_users_with_their_password_get_in(files: Files) -> None:
    """To every page; what is not a login of basic auth is refused the same way, and never with an error of ours."""
    long = "ü" * 40  # 80 bytes, of which bcrypt takes 72
    users = {
        "alice": hashed(b"right").replace("$2b$", "$2y$"),
        "bob": hashed(long.encode()[:72]),
        "ü": hashed(":ü:".encode()),
    }
    config = files(basic_auth_users=users)

    async def scenario() -> None:
        async with serving(web_config=config) as server:
            for name, password in (("alice", "right"), ("bob", long), ("ü", ":ü:")):
                for path in ("/metrics", "/healthz"):
                    assert (await ask(server.port, path, headers=login(name, password))).status == 200
            for headers in (
                {},
                login("alice", "wrong"),
                login("alice", ""),
                login("alice", "right "),
                login("Alice", "right"),
                login("", "right"),
                login("mallory", "right"),
                login("bob", "right"),
                login("alice", "x" * 4000),
                {"Authorization": "Basic"},
                {"Authorization": "Basic !!!"},
                {"Authorization": "Basic " + base64.b64encode(b"alice").decode()},
                {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe:right").decode()},
                {"Authorization": "Basic " + base64.b64encode(b"alice:\0").decode()},
                {"Authorization": "Bearer right"},
            ):
                answer = await ask(server.port, headers=headers)
                assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Basic")

    asyncio.run(scenario())


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Give the list of hashes that bcrypt was asked to check."""
    asked: list[bytes] = []
    real = bcrypt.checkpw

    def check(password: bytes, stored: bytes) -> bool:
        asked.append(stored)
        return real(password, stored)

    monkeypatch.setattr(bcrypt, "checkpw", check)
    return asked


def test_a_password_is_computed_once(files: Files, checks: list[bytes]) -> None:
    """Right or wrong, by however many at once; memory for wrong ones is bounded, and they do not push out right ones."""
    config = files(basic_auth_users={"alice": hashed(b"right")})
    checks.clear()

    async def scenario() -> None:
        async with serving(web_config=config) as server:
            await asyncio.gather(*(ask(server.port, headers=login("alice", "right")) for _ in range(5)))
            for _ in range(3):
                assert (await ask(server.port, headers=login("alice", "wrong"))).status == 401
            assert len(checks) == 2
            for number in range(120):
                await ask(server.port, headers=login("alice", f"wrong {number}"))
            assert len(checks) == 122
            assert (await ask(server.port, headers=login("alice", "right"))).status == 200
            assert len(checks) == 122
            assert len(server._gate._passwords._wrong) == 100  # type: ignore[union-attr]

    asyncio.run(scenario())


def test_an_unknown_name_takes_the_time_of_a_known_one(files: Files, checks: list[bytes]) -> None:
    """By a check at the cost of the costliest, so that names cannot be told from times."""
    config = files(basic_auth_users={"alice": hashed(b"right", 5), "bob": hashed(b"right", 4)})
    checks.clear()

    async def scenario() -> None:
        async with serving(web_config=config) as server:
            assert (await ask(server.port, headers=login("mallory", "right"))).status == 401
            assert [stored[:7] for stored in checks] == [b"$2b$05$"]

    asyncio.run(scenario())


def test_a_slow_check_holds_nobody_up_and_too_many_are_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is known is served meanwhile; checks wait in a short line."""
    config = files(basic_auth_users={"alice": hashed(b"right")})
    done = threading.Event()
    real = bcrypt.checkpw

    def slow(password: bytes, stored: bytes) -> bool:
        return done.wait(10) and real(password, stored)

    async def guess(port: int, password: str) -> bytes:
        header = login("alice", password)["Authorization"]
        request = f"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: {header}\r\n\r\n"
        return (await say(port, request.encode())).split()[1]

    async def scenario() -> None:
        async with serving(web_config=config) as server:
            assert (await ask(server.port, headers=login("alice", "right"))).status == 200
            monkeypatch.setattr(bcrypt, "checkpw", slow)
            guesses = [asyncio.ensure_future(guess(server.port, f"wrong {number}")) for number in range(12)]
            answers = asyncio.as_completed(guesses)
            assert [await next(answers) for _ in range(4)] == [b"503"] * 4  # those that find eight waiting
            assert (await ask(server.port, headers=login("alice", "right"))).status == 200
            assert sum(guess.done() for guess in guesses) == 4
            done.set()
            assert [await answer for answer in answers] == [b"401"] * 8

    asyncio.run(scenario())


def test_headers_of_the_file_are_on_every_answer(files: Files) -> None:
    """On refusals too."""
    headers = {"X-Frame-Options": "deny", "Content-Security-Policy": "default-src 'self'"}
    config = files(http_server_config={"headers": headers}, basic_auth_users={"alice": hashed(b"right")})

    async def scenario() -> None:
        async with serving(web_config=config) as server:
            for path, given in (("/", {}), ("/", login("alice", "right")), ("/nothing", login("alice", "right"))):
                answer = await ask(server.port, path, headers=given)
                assert headers.items() <= answer.headers.items()

    asyncio.run(scenario())


def test_requests_beyond_the_rate_limit_are_refused(files: Files) -> None:
    """The burst at once, then one per interval; what is saved up is no more than the burst."""
    config = files(rate_limit={"interval": "2s", "burst": 3})

    async def scenario() -> None:
        clock = Clock()

        async def statuses(count: int) -> list[int]:
            return [(await ask(server.port, "/readyz")).status for _ in range(count)]

        async with serving(web_config=config, clock=clock) as server:
            assert await statuses(5) == [503, 503, 503, 429, 429]
            clock.now += 2.0
            assert await statuses(2) == [503, 429]
            clock.now += 100.0
            assert await statuses(4) == [503, 503, 503, 429]

    asyncio.run(scenario())


def test_users_can_be_changed_without_a_restart(files: Files) -> None:
    """A password that was taken away is no longer remembered."""
    config = files(basic_auth_users={"alice": hashed(b"old")})

    async def scenario() -> None:
        clock = Clock()
        async with serving(web_config=config, clock=clock) as server:
            assert (await ask(server.port, headers=login("alice", "old"))).status == 200
            files(basic_auth_users={"alice": hashed(b"new")})
            clock.now += 1.0
            assert (await ask(server.port, headers=login("alice", "old"))).status == 401
            assert (await ask(server.port, headers=login("alice", "new"))).status == 200

    asyncio.run(scenario())
