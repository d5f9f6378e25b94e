"""The web-config file of Prometheus's exporters: TLS, client certificates, headers, basic auth, rate limit of a port.

Source: docs/web-configuration.md of prometheus/exporter-toolkit.
What Python cannot honour is an error, so that no policy is dropped in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gpumon.apart import apart
from gpumon.value import show
from gpumon.web.tls import CIPHERS, CIPHERS_13, CLIENT_AUTH, CURVES, VERSIONS, Tls, server_context, short_address

if TYPE_CHECKING:
    from gpumon.web.yamlfile import Section

# At a cost of 18 one check takes 16 s, longer than Prometheus's default scrape time-out of 10 s.
HIGHEST_COST = 17
HASH = re.compile(r"\$2[aby]\$([0-9][0-9])\$[./A-Za-z0-9]{53}")

# Response headers that may be set, and the values of those that have only these.
HEADERS: Mapping[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}

NO_HTTP2 = "http_server_config.http2 is true, but gpumon speaks HTTP/1.1, to which clients fall back"
SECTIONS = ("tls_server_config", "http_server_config", "basic_auth_users", "rate_limit")
TLS_KEYS = (
    *("cert", "key", "cert_file", "key_file", "client_auth_type", "client_ca", "client_ca_file", "client_allowed_sans"),
    *("min_version", "max_version", "cipher_suites", "prefer_server_cipher_suites", "curve_preferences"),
)
# Known words that are refused, and why.
UNVERIFIED = "takes certificates without verifying them, which Python cannot do: use RequireAndVerifyClientCert"
OUTDATED = "is a version that current OpenSSL no longer speaks: use TLS12 or TLS13"
REFUSED = {
    "RequestClientCert": UNVERIFIED,
    "RequireAnyClientCert": UNVERIFIED,
    "RequireClientCert": UNVERIFIED,
    "TLS10": OUTDATED,
    "TLS11": OUTDATED,
}


@dataclass(frozen=True, slots=True)
class WebConfig:
    """A web-config file that was read and found right.

    `tls` is None without TLS. `allowed_sans` is None where every verified client certificate will do.
    `users` are bcrypt hashes by name; without one nobody has to log in.
    `rate_limit` is (seconds per request, burst). `files` are all files it came from, each with its state at that time.
    `notes` are sentences about what is accepted but has no effect.
    """

    path: Path
    tls: Tls | None
    allowed_sans: frozenset[str] | None
    headers: Mapping[str, str]
    users: Mapping[str, str] = field(repr=False)
    rate_limit: tuple[float, int] | None
    files: tuple[tuple[Path, tuple[int, ...]], ...]
    notes: tuple[str, ...]


def load_web_config_apart(path: str | Path) -> WebConfig:
    """Give what `load_web_config` gives, read in a child, where what YAML takes stays. Call before threads are started."""
    return apart(lambda: load_web_config(path))


def load_web_config(path: str | Path) -> WebConfig:
    """Read a web-config file and what it names; SettingsError says what is wrong in which file and key."""
    from gpumon.web.yamlfile import YamlFile  # 1.4 MB

    file = YamlFile(Path(path))
    whole = file.section(SECTIONS)
    tls, allowed_sans = _tls(whole.section("tls_server_config", TLS_KEYS))
    server = whole.section("http_server_config", ("http2", "headers"))
    return WebConfig(
        path=file.path,
        tls=tls,
        allowed_sans=allowed_sans,
        headers=_headers(server.section("headers", tuple(HEADERS))),
        users=_users(whole.section("basic_auth_users")),
        rate_limit=_rate_limit(whole.section("rate_limit", ("interval", "burst"))),
        files=tuple(file.states.items()),
        notes=(NO_HTTP2,) if server.flag("http2", False) else (),
    )


def _tls(section: Section) -> tuple[Tls | None, frozenset[str] | None]:
    if not section.values:
        return None, None
    client_auth = section.choice("client_auth_type", CLIENT_AUTH, "NoClientCert", REFUSED)
    allowed_sans = section.texts("client_allowed_sans")
    if allowed_sans is not None and client_auth == "NoClientCert":
        raise section.error("client_allowed_sans is set, but client_auth_type asks no client for a certificate")
    tls = Tls(
        certificate=_required(section, "cert"),
        key=_required(section, "key"),
        client_auth=client_auth,
        client_ca=section.content("client_ca"),
        min_version=section.choice("min_version", VERSIONS, "TLS12", REFUSED),
        max_version=section.choice("max_version", VERSIONS, "TLS13", REFUSED),
        ciphers=section.choices("cipher_suites", (*CIPHERS, *CIPHERS_13)),
        prefer_server_ciphers=section.flag("prefer_server_cipher_suites", True),
        curves=section.choices("curve_preferences", CURVES),
    )
    try:
        server_context(tls)
    except ValueError as error:
        raise section.error(str(error)) from error
    return tls, None if allowed_sans is None else frozenset(map(short_address, allowed_sans))


def _required(section: Section, key: str) -> bytes:
    content = section.content(key)
    if content is None:
        raise section.error(f"{key} is missing, as is {key}_file")
    return content


def _headers(section: Section) -> Mapping[str, str]:
    headers = {name: section.text(name) for name in section.values}
    for name, value in headers.items():
        allowed = HEADERS[name]
        if value and allowed and value not in allowed:
            raise section.error(f"{name} is {show(value)}, allowed is {' or '.join(allowed)}")
        if not (value.isascii() and value.isprintable()):
            raise section.error(f"{name} has characters that a header cannot carry")
    return {name: value for name, value in headers.items() if value}


def _users(section: Section) -> Mapping[str, str]:
    users = {name: section.text(name) for name in section.values}
    for name, stored in users.items():
        if ":" in name or not name:
            raise section.error(f"{show(name)} is no name that basic auth can send: it is empty or has a colon")
        match = HASH.fullmatch(stored)
        if match is None or not _hash_usable(stored):
            raise section.error(f"{show(name)} has no bcrypt hash, which is $2y$10$ and 53 more characters")
        if int(match[1]) > HIGHEST_COST:
            raise section.error(f"{show(name)} has a bcrypt cost of {match[1]}, allowed is at most {HIGHEST_COST}")
    return users


def _hash_usable(stored: str) -> bool:
    """Say whether bcrypt takes the hash; tried at the lowest cost, which takes 1 ms."""
    import bcrypt

    try:
        bcrypt.checkpw(b"", f"{stored[:4]}04{stored[6:]}".encode())
    except ValueError:
        return False
    return 4 <= int(stored[4:6]) <= 31


def _rate_limit(section: Section) -> tuple[float, int] | None:
    interval, burst = section.seconds("interval"), section.whole("burst")
    if interval == 0:
        return None
    if burst < 1:
        raise section.error(f"burst is {burst}, which lets no request through: at least 1")
    return interval, burst


def state(path: Path) -> tuple[int, ...]:
    """Give what changes when a file is written or replaced; empty when it is not there."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns
