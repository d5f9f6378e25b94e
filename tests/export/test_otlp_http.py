"""OTLP by HTTP: the same requests, for where gRPC cannot go."""

from __future__ import annotations

import gzip
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import trustme
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from gpumon.export.otlp_flow import RefusedError, Transport
from gpumon.export.otlp_signal import transport
from gpumon.export.otlp_target import resolve


class Server(ThreadingHTTPServer):
    """Answers every POST with `status`, `headers` and `body`, and keeps what was posted."""

    status = 200
    headers: Mapping[str, str] = MappingProxyType({})
    body = b""
    seen: list[tuple[str, Any, bytes]]


class Handler(BaseHTTPRequestHandler):
    """Takes requests for Server."""

    server: Server

    def do_POST(self) -> None:
        """Keep the request and answer it."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, self.headers, body))
        self.send_response(self.server.status)
        for key, value in self.server.headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Give a running server."""
    server = Server(("127.0.0.1", 0), Handler)
    server.seen = []
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def carrier(server: Server, scheme: str = "http", **environ: str) -> Transport:
    """Give what carries metrics to the server by HTTP."""
    environ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
    target = resolve("metrics", f"{scheme}://127.0.0.1:{server.server_port}", environ)
    assert target is not None
    return transport(target, "metrics")


def test_a_request_is_posted_with_headers_and_compression() -> None:
    """Path, content type, the user's headers and gzip arrive; a partial success is read from the answer."""
    answer = ExportMetricsServiceResponse()
    answer.partial_success.rejected_data_points = 3
    with serving() as server:
        server.body = answer.SerializeToString()
        environ = {"OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=lab", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}
        assert carrier(server, **environ).send(b"readings", 5).rejected == 3
        assert carrier(server).send(b"readings", 5).rejected == 3
    [(path, headers, body), (_, plain, plain_body)] = server.seen
    assert path == "/v1/metrics"
    assert headers["Content-Type"] == "application/x-protobuf"
    assert headers["x-tenant"] == "lab"
    assert (headers["Content-Encoding"], gzip.decompress(body)) == ("gzip", b"readings")
    assert (plain["Content-Encoding"], plain_body) == (None, b"readings")


@pytest.mark.parametrize(
    ("status", "transient"), [(429, True), (503, True), (400, False), (401, False), (404, False), (302, False)]
)
def test_answers_are_sorted_as_specified(status: int, transient: bool) -> None:
    """Some statuses let the same be sent again, after the pause the server asks for; others do not."""
    with serving() as server:
        server.status, server.headers = status, {"Retry-After": "7"}
        with pytest.raises(RefusedError, match=f"HTTP {status}") as refusal:
            carrier(server).send(b"", 5)
    assert (refusal.value.transient, refusal.value.pause) == (transient, 7)


def test_tls_is_checked(tmp_path: Path) -> None:
    """A collector's certificate has to be from the given authority, and a client certificate is shown."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    client = authority.issue_cert("gpumon.test")
    client.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    environ = {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.pem"),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(tmp_path / "client.pem"),
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(tmp_path / "client.pem"),
    }
    with serving(context) as server:
        carrier(server, "https", **environ).send(b"", 5)
        del environ["OTEL_EXPORTER_OTLP_CERTIFICATE"]
        with pytest.raises(RefusedError, match="CERTIFICATE_VERIFY_FAILED"):
            carrier(server, "https", **environ).send(b"", 5)
    assert len(server.seen) == 1
