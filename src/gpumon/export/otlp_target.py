"""Where OTLP goes and how: gpumon's setting and OpenTelemetry's standard variables, read once.

Source: OpenTelemetry specification, "OTLP Exporter Configuration" and "Environment Variable Specification".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from gpumon.settings import SettingsError

GRPC, HTTP = "grpc", "http/protobuf"
GRPC_PORT = 4317  # assigned to OTLP/gRPC
DEFAULT_TIMEOUT_MS = 10_000  # the specification's
TOKEN = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")  # HTTP's form of a header name; gRPC wants it in lower case


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One signal's way to a collector.

    `address` is a gRPC target without scheme, or a whole URL for HTTP; `timeout` is in seconds.
    Files are read when a connection is made, so that renewed certificates are taken up.
    """

    protocol: str
    address: str
    secure: bool
    headers: tuple[tuple[str, str], ...] = ()
    gzip: bool = False
    timeout: float = DEFAULT_TIMEOUT_MS / 1000
    certificate: str | None = None
    client_key: str | None = None
    client_certificate: str | None = None


@dataclass(frozen=True, slots=True)
class Variables:
    """The OTEL_EXPORTER_OTLP_ variables of one signal ("metrics", "traces"): its own before the general one.

    An empty variable counts as unset.
    """

    signal: str
    environ: Mapping[str, str]

    def find(self, name: str) -> tuple[str, str] | None:
        """Give the variable that is set and its value."""
        return self.own(name) or self._get(f"OTEL_EXPORTER_OTLP_{name}")

    def own(self, name: str) -> tuple[str, str] | None:
        """Give the signal's own variable and its value."""
        return self._get(f"OTEL_EXPORTER_OTLP_{self.signal.upper()}_{name}")

    def _get(self, variable: str) -> tuple[str, str] | None:
        value = self.environ.get(variable, "").strip()
        return (variable, value) if value else None

    def text(self, name: str) -> str | None:
        """Give the value as it is."""
        found = self.find(name)
        return found[1] if found else None

    def choice(self, name: str, *allowed: str) -> str:
        """Give one of the allowed values in lower case, the first when unset; SettingsError names what is allowed."""
        found = self.find(name)
        if found is None:
            return allowed[0]
        variable, value = found
        if value.lower() not in allowed:
            raise SettingsError(f"{variable} is {value!r}; allowed are {', '.join(allowed)}")
        return value.lower()


def resolve(signal: str, endpoint: str, environ: Mapping[str, str]) -> Target | None:
    """Give the way for "metrics" or "traces", or None when neither setting nor variable names a collector.

    `endpoint` is the setting `telemetry.otlp_endpoint`, which goes before the variables.
    SettingsError says in one sentence what is wrong and what is allowed.
    """
    variables = Variables(signal, environ)
    protocol = variables.choice("PROTOCOL", GRPC, HTTP)
    found = ("telemetry.otlp_endpoint", endpoint) if endpoint else variables.find("ENDPOINT")
    if found is None:
        return None
    name, value = found
    if protocol == GRPC:
        address, secure = _grpc_address(name, value, variables.choice("INSECURE", "false", "true") == "true")
    else:
        address, secure = _url(name, value, "" if found == variables.own("ENDPOINT") else f"/v1/{signal}")
    return Target(
        protocol=protocol,
        address=address,
        secure=secure,
        headers=_headers(variables),
        gzip=variables.choice("COMPRESSION", "none", "gzip") == "gzip",
        timeout=_timeout(variables),
        certificate=variables.text("CERTIFICATE"),
        client_key=variables.text("CLIENT_KEY"),
        client_certificate=variables.text("CLIENT_CERTIFICATE"),
    )


def delta(environ: Mapping[str, str]) -> bool:
    """Say whether counters are to be sent as differences; "lowmemory" is cumulative for counters that are only read."""
    variables = Variables("metrics", environ)
    return variables.choice("TEMPORALITY_PREFERENCE", "cumulative", "delta", "lowmemory") == "delta"


def _checked(name: str, value: str) -> tuple[str, str, int | None]:
    """Give scheme, host and port of an http or https URL."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise SettingsError(f"{name} is {value!r}: {error}") from None
    if parts.username or parts.password:
        raise SettingsError(f"{name} holds a user or password; these belong in OTEL_EXPORTER_OTLP_HEADERS")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{name} is {value!r}; it has to be like http://collector:4317 or https://collector:4317")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return parts.scheme, host, port


def _grpc_address(name: str, value: str, insecure: bool) -> tuple[str, bool]:
    """Give a gRPC target and whether TLS is used; without a scheme that is for the INSECURE variable to say."""
    if value.startswith("unix:"):
        return value, False
    if "://" not in value:
        if not re.fullmatch(r"[^\s/@]+:\d+", value):
            raise SettingsError(f"{name} is {value!r}; it has to be like http://collector:4317 or collector:4317")
        return value, not insecure
    scheme, host, port = _checked(name, value)
    return f"{host}:{port or GRPC_PORT}", scheme == "https"


def _url(name: str, value: str, path: str) -> tuple[str, bool]:
    """Give the URL to post to; the general endpoint is a base to which the signal's path is added."""
    scheme, host, port = _checked(name, value)
    base = f"{scheme}://{host}" + (f":{port}" if port else "") + urlsplit(value).path
    return base.rstrip("/") + path if path else base, scheme == "https"


def _headers(variables: Variables) -> tuple[tuple[str, str], ...]:
    """Give the headers of a list like `key=value,key2=value2`; values may be percent-encoded.

    An error names the key at most: values are secrets.
    """
    found = variables.find("HEADERS")
    headers = []
    for entry in found[1].split(",") if found else ():
        if not entry.strip():
            continue
        key, equals, value = entry.partition("=")
        name, text = key.strip().lower(), unquote(value.strip())
        if not equals or not TOKEN.fullmatch(name) or not (text.isascii() and text.isprintable()):
            raise SettingsError(
                f"{found and found[0]} has an entry that is no header; it has to be like api-key=secret,tenant=two"
            )
        headers.append((name, text))
    return tuple(headers)


def _timeout(variables: Variables) -> float:
    """Give the time-out in seconds; the variables hold milliseconds, as the specification has it."""
    found = variables.find("TIMEOUT")
    if found is None:
        return DEFAULT_TIMEOUT_MS / 1000
    if not re.fullmatch(r"[1-9]\d{0,7}", found[1]):
        raise SettingsError(f"{found[0]} is {found[1]!r}; it has to be a whole number of milliseconds, as in 10000")
    return int(found[1]) / 1000
