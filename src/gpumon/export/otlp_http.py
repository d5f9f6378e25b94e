"""OTLP over HTTP with protobuf bodies: needs nothing but the standard library, for collectors or nodes without gRPC."""

from __future__ import annotations

import gzip
import http.client
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gpumon.export.otlp_flow import Answer, RefusedError
from gpumon.export.otlp_signal import Signal
from gpumon.export.otlp_target import Target

if TYPE_CHECKING:
    import ssl

# The answers after which the specification lets the same request be sent again (OTLP 1.x, "Failures").
TRANSIENT = {429, 502, 503, 504}
# Readings are mostly repeated attributes: level 1 makes them a tenth already.
GZIP_LEVEL = 1
LONGEST_ANSWER = 65_536


class HttpTransport:
    """Carries one signal's requests, each on a connection of its own: one in ten seconds is not worth keeping."""

    def __init__(self, target: Target, signal: Signal) -> None:
        self._target = target
        self._signal = signal
        self._tls: ssl.SSLContext | None = None
        self._connection: http.client.HTTPConnection | None = None

    def send(self, body: bytes, timeout: float) -> Answer:
        """Send one request and wait for the answer; raises RefusedError.

        `timeout` is for each wait: one for the connection, one for the answer's beginning, and one for each part of it.
        """
        headers = {"Content-Type": "application/x-protobuf", "User-Agent": "gpumon", "Connection": "close"}
        headers.update(self._target.headers)
        if self._target.gzip:
            body = gzip.compress(body, GZIP_LEVEL)
            headers["Content-Encoding"] = "gzip"
        url = urlsplit(self._target.address)
        try:
            connection = self._connection = self._connect(url.netloc, timeout)
            try:
                connection.request("POST", url.path or "/", body, headers)
                response = connection.getresponse()
                answer = response.read(LONGEST_ANSWER)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            self._tls = None
            raise RefusedError(f"{type(error).__name__}: {error}", transient=True) from None
        if response.status != http.client.OK:
            pause = response.headers.get("Retry-After", "")
            raise RefusedError(
                f"HTTP {response.status} {response.reason}",
                transient=response.status in TRANSIENT,
                pause=float(pause) if pause.isdecimal() else 0.0,
            )
        return self._signal.answer(answer)

    def close(self) -> None:
        """End what is under way, from any thread; the next `send` connects anew."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            try:
                connection.sock.shutdown(2)
            except OSError:
                pass  # it ended by itself

    def _connect(self, host: str, timeout: float) -> http.client.HTTPConnection:
        if not self._target.secure:
            return http.client.HTTPConnection(host, timeout=timeout)
        self._tls = self._tls or self._context()
        return http.client.HTTPSConnection(host, timeout=timeout, context=self._tls)

    def _context(self) -> ssl.SSLContext:
        import ssl  # not above: where nothing speaks TLS, gpumon goes without it

        context = ssl.create_default_context(cafile=self._target.certificate)
        if self._target.client_certificate:
            context.load_cert_chain(self._target.client_certificate, self._target.client_key)
        return context
