"""Where OTLP goes follows from the setting and the standard variables, and what is wrong is said in one sentence."""

from __future__ import annotations

import pytest

from gpumon.export.otlp_target import delta, resolve
from gpumon.settings import SettingsError

HTTP = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}


@pytest.mark.parametrize(
    ("endpoint", "environ", "address", "secure"),
    [
        ("http://collector:4317", {}, "collector:4317", False),
        ("http://collector", {}, "collector:4317", False),
        ("https://collector:443/ignored", {}, "collector:443", True),
        ("http://[::1]:4317", {}, "[::1]:4317", False),
        ("collector:4317", {}, "collector:4317", True),
        ("collector:4317", {"OTEL_EXPORTER_OTLP_INSECURE": "true"}, "collector:4317", False),
        ("unix:/run/otel.sock", {}, "unix:/run/otel.sock", False),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://general:1"}, "general:1", False),
        (
            "",
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://general:1", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://own:2"},
            "own:2",
            False,
        ),
        ("http://setting:3", {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://own:2"}, "setting:3", False),
        ("http://collector:4318", HTTP, "http://collector:4318/v1/metrics", False),
        ("https://collector/otlp/", HTTP, "https://collector/otlp/v1/metrics", True),
        ("", {**HTTP, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318/push"}, "http://c:4318/push", False),
    ],
)
def test_endpoint_is_understood(endpoint: str, environ: dict[str, str], address: str, secure: bool) -> None:
    """Every form the specification has, with the setting before the variables and a signal's own before the general."""
    target = resolve("metrics", endpoint, environ)
    assert target is not None
    assert (target.address, target.secure) == (address, secure)


def test_no_endpoint_is_no_target() -> None:
    """Neither setting nor variable, or an empty variable: nothing is exported."""
    assert resolve("metrics", "", {}) is None
    assert resolve("metrics", "", {"OTEL_EXPORTER_OTLP_ENDPOINT": " "}) is None
    assert resolve("metrics", "", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:1"}) is None


def test_all_other_switches_are_read() -> None:
    """Headers, compression, time-out and files; a signal's own variable goes before the general one."""
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20a%3Db, x-tenant = two,",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION": "none",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1500",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/ca.pem",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/key.pem",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/cert.pem",
    }
    target = resolve("metrics", "https://collector:4317", environ)
    assert target is not None
    assert target.headers == (("authorization", "Bearer a=b"), ("x-tenant", "two"))
    assert not target.gzip
    assert target.timeout == 1.5
    assert (target.certificate, target.client_key, target.client_certificate) == ("/ca.pem", "/key.pem", "/cert.pem")
    traces = resolve("traces", "https://collector:4317", environ)
    assert traces is not None
    assert traces.gzip


@pytest.mark.parametrize(
    ("endpoint", "environ", "said"),
    [
        ("ftp://c:1", {}, "telemetry.otlp_endpoint is 'ftp://c:1'; it has to be like http://collector:4317"),
        ("collector", {}, "telemetry.otlp_endpoint is 'collector'; it has to be like"),
        ("http://c:99999", {}, "telemetry.otlp_endpoint is 'http://c:99999': "),
        ("http://:4317", {}, "telemetry.otlp_endpoint is 'http://:4317'; it has to be like"),
        ("collector:4318", HTTP, "telemetry.otlp_endpoint is 'collector:4318'; it has to be like"),
        ("http://c:1", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "allowed are grpc, http/protobuf"),
        (
            "http://c:1",
            {"OTEL_EXPORTER_OTLP_METRICS_COMPRESSION": "zstd"},
            "METRICS_COMPRESSION is 'zstd'; allowed are",
        ),
        (
            "http://c:1",
            {"OTEL_EXPORTER_OTLP_TIMEOUT": "10s"},
            "OTEL_EXPORTER_OTLP_TIMEOUT is '10s'; it has to be a whole",
        ),
        ("http://c:1", {"OTEL_EXPORTER_OTLP_TIMEOUT": "0"}, "OTEL_EXPORTER_OTLP_TIMEOUT is '0'"),
        ("http://c:1", {"OTEL_EXPORTER_OTLP_INSECURE": "yes"}, "allowed are false, true"),
        ("http://c:1", {"OTEL_EXPORTER_OTLP_HEADERS": "justavalue"}, "OTEL_EXPORTER_OTLP_HEADERS has an entry"),
        ("http://c:1", {"OTEL_EXPORTER_OTLP_HEADERS": "a=line%0Abreak"}, "OTEL_EXPORTER_OTLP_HEADERS has an entry"),
    ],
)
def test_what_is_wrong_is_named(endpoint: str, environ: dict[str, str], said: str) -> None:
    """A value that cannot be used stops the start with the variable's or setting's name and what is allowed."""
    with pytest.raises(SettingsError) as error:
        resolve("metrics", endpoint, environ)
    assert said in str(error.value)


def test_secrets_are_not_repeated() -> None:
    """A password in the endpoint and a malformed header are complained of without being shown."""
    for endpoint, environ in (
        ("http://user:hunter2@c:4317", {}),
        ("http://c:1", {"OTEL_EXPORTER_OTLP_HEADERS": "hunter2"}),
    ):
        with pytest.raises(SettingsError) as error:
            resolve("metrics", endpoint, environ)
        assert "hunter2" not in str(error.value)


def test_temporality_follows_the_variable() -> None:
    """Only "delta" sends differences; other words stop the start."""
    name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    assert [delta({}), delta({name: "Delta"}), delta({name: "lowmemory"})] == [False, True, False]
    with pytest.raises(SettingsError, match="allowed are cumulative, delta, lowmemory"):
        delta({name: "both"})
