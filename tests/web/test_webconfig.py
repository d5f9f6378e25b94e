"""A web-config file is read as Prometheus's exporters read it; what is wrong in it is one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import trustme
import yaml
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumon.settings import SettingsError
from gpumon.web.tls import CIPHERS, CIPHERS_13, CURVES
from gpumon.web.webconfig import HEADERS, SECTIONS, TLS_KEYS, load_web_config, load_web_config_apart

HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
SERVER = {"cert_file": "server.crt", "key_file": "server.key"}

Write = Callable[[object], Path]


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def write(tmp_path: Path, ca: trustme.CA) -> Write:
    """Give a function that writes a web-config file beside a server's certificate and key, and gives its path."""
    certificate = ca.issue_cert("localhost")
    (tmp_path / "server.crt").write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
    (tmp_path / "server.key").write_bytes(certificate.private_key_pem.bytes())
    (tmp_path / "ca.crt").write_bytes(ca.cert_pem.bytes())
    (tmp_path / "junk.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "large.pem").write_bytes(bytes(1 << 21))

    def to_file(content: object) -> Path:
        path = tmp_path / "web.yml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return to_file


def refused(path: Path) -> str:
    """Give the sentence by which a file is refused."""
    with pytest.raises(SettingsError) as caught:
        load_web_config(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"Web-config file {path}: ")
    assert sentence.endswith(".")
    assert sentence.isprintable()
    return sentence.removeprefix(f"Web-config file {path}: ")


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "tls_server_config:\n", "---\n", "basic_auth_users: {}\n"])
def test_an_empty_file_asks_for_nothing(write: Write, text: str) -> None:
    """Plain HTTP for everybody."""
    config = load_web_config(write(text))
    assert (config.tls, config.users, config.headers, config.rate_limit, config.notes) == (None, {}, {}, None, ())


def test_every_documented_key_is_read(write: Write) -> None:
    """Paths are taken from the folder of the file; what is read can be sent from a child process."""
    path = write(
        {
            "tls_server_config": {
                **SERVER,
                "client_auth_type": "RequireAndVerifyClientCert",
                "client_ca_file": "ca.crt",
                "client_allowed_sans": ["prometheus", "2001:DB8:0::1"],
                "min_version": "TLS12",
                "max_version": "TLS13",
                "cipher_suites": [*CIPHERS, *CIPHERS_13],
                "prefer_server_cipher_suites": False,
                "curve_preferences": ["X25519"],
            },
            "http_server_config": {
                "http2": True,
                "headers": {
                    "Content-Security-Policy": "default-src 'self'",
                    "X-Frame-Options": "deny",
                    "X-Content-Type-Options": "nosniff",
                    "X-XSS-Protection": 1,
                    "Strict-Transport-Security": "",
                },
            },
            "basic_auth_users": {"alice": HASH, "17": HASH.replace("$2b$", "$2y$")},
            "rate_limit": {"interval": "1m1.5s", "burst": 20},
        }
    )
    config = load_web_config_apart(path)
    assert config == load_web_config(path)
    assert config.tls
    assert config.tls.client_ca == (path.parent / "ca.crt").read_bytes()
    assert config.allowed_sans == {"prometheus", "2001:db8::1"}
    assert config.headers == {
        "Content-Security-Policy": "default-src 'self'",
        "X-Frame-Options": "deny",
        "X-Content-Type-Options": "nosniff",
        "X-XSS-Protection": "1",
    }
    assert list(config.users) == ["17", "alice"]
    assert config.rate_limit == (61.5, 20)
    assert {path.name for path, _ in config.files} == {"web.yml", "server.crt", "server.key", "ca.crt"}
    assert len(config.notes) == 1


def test_certificates_may_stand_in_the_file_itself(write: Write, tmp_path: Path) -> None:
    """All three."""
    inline = {
        "cert": (tmp_path / "server.crt").read_text(),
        "key": (tmp_path / "server.key").read_text(),
        "client_ca": (tmp_path / "ca.crt").read_text(),
        "client_auth_type": "VerifyClientCertIfGiven",
    }
    config = load_web_config(write({"tls_server_config": inline}))
    assert config.tls
    assert [path.name for path, _ in config.files] == ["web.yml"]


def tls(**more: object) -> dict[str, object]:
    return {"tls_server_config": {**SERVER, **more}}


CLIENTS = {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "ca.crt"}
WRONG: tuple[tuple[object, str], ...] = (
    ("[a, b]", "it is a list, not a mapping"),
    ("just a text", "it is a text, not a mapping"),
    ("a: [", "is not YAML in line 1: "),
    ("a: b\na: c", "is not YAML in line 1: a key is there twice"),
    ("\0", "is not YAML"),
    ("{" * 5000, "is nested too deeply"),
    ("a: &a [*a]", "is not YAML in line 1: "),
    ("[a]: b", "is not YAML in line 1: "),
    ("tls_config: {}", "tls_config is not a key there, allowed are tls_server_config, http_server_config, "),
    ({"tls_server_config": {"certfile": "x"}}, "tls_server_config.certfile is not a key there, allowed are cert, "),
    ({"tls_server_config": ["x"]}, "tls_server_config is a list, not a mapping"),
    ({"tls_server_config": {"min_version": "TLS13"}}, "tls_server_config.cert is missing, as is cert_file"),
    ({"tls_server_config": {"cert_file": "server.crt"}}, "tls_server_config.key is missing, as is key_file"),
    (tls(cert="x"), "tls_server_config.cert and cert_file are both set: set one of them"),
    (tls(cert_file=["x"]), "tls_server_config.cert_file is a list, not a text"),
    (
        tls(cert_file="none.crt"),
        "tls_server_config.cert_file: cannot read {folder}/none.crt (No such file or directory)",
    ),
    (tls(cert_file="."), "tls_server_config.cert_file: cannot read {folder} (Is a directory)"),
    (tls(cert_file="a\0b"), "tls_server_config.cert_file: cannot read "),
    (tls(key_file="large.pem"), "tls_server_config.key_file: {folder}/large.pem is larger than 1048576 bytes"),
    (tls(cert_file="junk.pem"), "tls_server_config.cert holds no certificate in PEM"),
    (tls(cert_file="web.yml"), "tls_server_config.cert holds no certificate in PEM"),
    (tls(key_file="web.yml"), "tls_server_config.key holds no private key in PEM"),
    (tls(cert_file="ca.crt"), "tls_server_config.cert and key do not belong together"),
    (tls(client_auth_type="Maybe"), 'tls_server_config.client_auth_type is "Maybe", allowed is one of NoClientCert, '),
    (
        tls(client_auth_type="RequireAnyClientCert"),
        "client_auth_type is RequireAnyClientCert, which takes certificates ",
    ),
    (tls(client_auth_type="RequestClientCert"), "client_auth_type is RequestClientCert, which takes certificates "),
    (tls(client_ca_file="ca.crt"), "tls_server_config.client_ca is set, but client_auth_type lets every client in"),
    (tls(**{**CLIENTS, "client_ca_file": "junk.pem"}), "tls_server_config.client_ca holds no certificate in PEM"),
    (tls(**{**CLIENTS, "client_ca_file": "server.key"}), "tls_server_config.client_ca holds no certificate in PEM"),
    (
        tls(client_allowed_sans=["a"]),
        "tls_server_config.client_allowed_sans is set, but client_auth_type asks no client",
    ),
    (tls(**CLIENTS, client_allowed_sans="a"), "tls_server_config.client_allowed_sans is not a list of texts"),
    (
        tls(min_version="TLS10"),
        "tls_server_config.min_version is TLS10, which is a version that current OpenSSL no longer",
    ),
    (tls(max_version="SSL3"), 'tls_server_config.max_version is "SSL3", allowed is one of TLS12, TLS13'),
    (tls(min_version="TLS13", max_version="TLS12"), "tls_server_config.min_version is TLS13, above max_version"),
    (tls(cipher_suites=["AES"]), 'tls_server_config.cipher_suites has "AES", allowed are TLS_ECDHE_ECDSA_WITH_'),
    (
        tls(cipher_suites=[CIPHERS_13[0]], max_version="TLS12"),
        "tls_server_config.cipher_suites has none that max_version",
    ),
    (tls(curve_preferences=["P1"]), 'tls_server_config.curve_preferences has "P1", allowed are CurveP256, '),
    (
        tls(curve_preferences=list(CURVES)),
        "tls_server_config.curve_preferences has several curves, and Python can only",
    ),
    (tls(prefer_server_cipher_suites="maybe"), 'prefer_server_cipher_suites is "maybe", allowed is true or false'),
    (
        {"http_server_config": {"http3": True}},
        "http_server_config.http3 is not a key there, allowed are http2, headers",
    ),
    ({"http_server_config": {"http2": 7}}, 'http_server_config.http2 is "7", allowed is true or false'),
    ({"http_server_config": {"headers": {"Server": "x"}}}, "http_server_config.headers.Server is not a key there"),
    (
        {"http_server_config": {"headers": {"X-Frame-Options": "no"}}},
        'X-Frame-Options is "no", allowed is deny or same',
    ),
    (
        {"http_server_config": {"headers": {"X-XSS-Protection": "a\r\nb"}}},
        "headers.X-XSS-Protection has characters that",
    ),
    ({"basic_auth_users": ["alice"]}, "basic_auth_users is a list, not a mapping"),
    ({"basic_auth_users": {"alice": "secret"}}, 'basic_auth_users."alice" has no bcrypt hash, which is $2y$10$'),
    ({"basic_auth_users": {"alice": HASH[:-1]}}, 'basic_auth_users."alice" has no bcrypt hash, which is $2y$10$'),
    ({"basic_auth_users": {"alice": HASH.replace("$04$", "$03$")}}, 'basic_auth_users."alice" has no bcrypt hash'),
    (
        {"basic_auth_users": {"alice": HASH.replace("$04$", "$18$")}},
        '"alice" has a bcrypt cost of 18, allowed is at most',
    ),
    ({"basic_auth_users": {"alice": f"$2b$04${'z' * 53}"}}, 'basic_auth_users."alice" has no bcrypt hash'),
    ({"basic_auth_users": {"a:b": HASH}}, 'basic_auth_users."a:b" is no name that basic auth can send'),
    ({"basic_auth_users": {"": HASH}}, 'basic_auth_users."" is no name that basic auth can send'),
    (
        {"rate_limit": {"interval": "fast"}},
        'rate_limit.interval is "fast", allowed is a duration as in 1s, 1m30s or 250ms',
    ),
    ({"rate_limit": {"interval": "-1s", "burst": 1}}, 'rate_limit.interval is "-1s", allowed is a duration'),
    ({"rate_limit": {"interval": "1s"}}, "rate_limit.burst is 0, which lets no request through: at least 1"),
    ({"rate_limit": {"interval": "1s", "burst": -1}}, 'rate_limit.burst is "-1", allowed is a whole number from 0 on'),
)


@pytest.mark.parametrize(("content", "trouble"), WRONG, ids=[trouble[:60] for _, trouble in WRONG])
def test_what_is_wrong_is_one_sentence_with_file_and_key(write: Write, content: object, trouble: str) -> None:
    """Unknown keys, unreadable files, impossible combinations, and what Python cannot honour."""
    path = write(content)
    assert trouble.replace("{folder}", str(path.parent)) in refused(path)


def test_a_file_that_cannot_be_read_is_said_to_be(tmp_path: Path) -> None:
    """With the reason."""
    assert refused(tmp_path / "none.yml") == f"cannot read {tmp_path}/none.yml (No such file or directory)."


def test_an_encrypted_key_is_refused_without_asking_for_its_passphrase(write: Write, tmp_path: Path) -> None:
    """A service has nobody to ask."""
    key = serialization.load_pem_private_key((tmp_path / "server.key").read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    (tmp_path / "server.key").write_bytes(encrypted)
    assert refused(write(tls())) == "tls_server_config.key is encrypted: give one that is not."


def test_secrets_are_in_no_sentence(write: Write, tmp_path: Path) -> None:
    """Neither keys nor hashes nor a password written where its hash should be; nor in what shows a configuration."""
    for users in ({"alice": "my-password"}, {"alice": {"x": "my-password"}}, ["my-password"]):
        assert "my-password" not in refused(write({"basic_auth_users": users}))
    config = load_web_config(write({**tls(), "basic_auth_users": {"alice": HASH}}))
    assert HASH not in repr(config)
    assert (tmp_path / "server.key").read_text().splitlines()[1] not in repr(config)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1.0), ("1h1m", 3660.0), ("1.5s", 1.5), ("100ms", 0.1), (".5s", 0.5)]
)
def test_durations_are_those_of_go(write: Write, text: str, seconds: float) -> None:
    """0 is off."""
    assert load_web_config(write({"rate_limit": {"interval": text, "burst": 1}})).rate_limit == (seconds, 1)
    assert load_web_config(write({"rate_limit": {"interval": 0, "burst": 0}})).rate_limit is None


def taken_or_refused(path: Path, content: bytes) -> None:
    """Read a file with `content`: a configuration, or one printable sentence."""
    path.write_bytes(content)
    sentence = None
    try:
        assert load_web_config(path).path == path
    except SettingsError as error:
        sentence = str(error)
    assert sentence is None or (sentence.startswith(f"Web-config file {path}: ") and sentence.isprintable())


@settings(deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_any_bytes_are_a_configuration_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """Never a traceback."""
    taken_or_refused(tmp_path_factory.getbasetemp() / "fuzz.yml", content)


WORDS = (
    "true",
    "0",
    "1s",
    "",
    "server.crt",
    "TLS12",
    "TLS13",
    "NoClientCert",
    "X25519",
    *CIPHERS_13,
    HASH,
    "~",
    "!!int x",
)
VALUES = st.recursive(
    st.sampled_from(WORDS) | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from((*TLS_KEYS, *HEADERS, "http2", "burst", "interval")) | st.text(), inner)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(document=st.dictionaries(st.sampled_from(SECTIONS) | st.text(max_size=5), VALUES, max_size=4))
def test_any_yaml_is_a_configuration_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    """Also what is almost right."""
    taken_or_refused(tmp_path_factory.getbasetemp() / "fuzz.yml", yaml.safe_dump(document, allow_unicode=True).encode())
