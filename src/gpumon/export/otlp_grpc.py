"""OTLP over gRPC. Imported only when it is used: grpc costs 9 MB resident, 2.4 of it anonymous."""

from __future__ import annotations

from pathlib import Path

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from gpumon.export.otlp_flow import Answer, RefusedError
from gpumon.export.otlp_signal import Signal
from gpumon.export.otlp_target import Target

# The codes after which the specification lets the same request be sent again (OTLP 1.x, "Failures");
# RESOURCE_EXHAUSTED belongs to them only when the collector says for how long.
TRANSIENT = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}
OPTIONS = (
    # A channel of one's own: one that is made anew resolves and connects anew, instead of joining an old one's wait.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),  # the flow decides when to try again
)


class GrpcTransport:
    """Carries one signal's requests. Connects when there is something to send, and anew after any failure."""

    def __init__(self, target: Target, signal: Signal) -> None:
        self._target = target
        self._signal = signal
        self._channel: grpc.Channel | None = None

    def send(self, body: bytes, timeout: float) -> Answer:
        """Send one request and wait for the answer, at most `timeout` seconds; raises RefusedError."""
        channel = self._channel = self._channel or self._connect()
        call = channel.unary_unary(self._signal.method)
        try:
            answer: bytes = call(body, timeout=timeout, metadata=self._target.headers)
        except grpc.RpcError as error:
            # A connection whose peer vanished without a word stays "ready" for minutes; a new one does not.
            self.close()
            raise _refused(error) from None
        except ValueError as error:  # the channel was closed by another thread
            self.close()
            raise RefusedError(str(error), transient=True) from None
        return self._signal.answer(answer)

    def close(self) -> None:
        """End what is under way, from any thread; the next `send` connects anew."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _connect(self) -> grpc.Channel:
        target = self._target
        compression = grpc.Compression.Gzip if target.gzip else grpc.Compression.NoCompression
        if not target.secure:
            return grpc.insecure_channel(target.address, OPTIONS, compression)
        try:
            credentials = grpc.ssl_channel_credentials(
                root_certificates=_read(target.certificate),
                private_key=_read(target.client_key),
                certificate_chain=_read(target.client_certificate),
            )
        except OSError as error:
            raise RefusedError(f"cannot read {error.filename}: {error.strerror}", transient=True) from None
        return grpc.secure_channel(target.address, credentials, OPTIONS, compression)


def _read(path: str | None) -> bytes | None:
    return Path(path).read_bytes() if path else None


def _refused(error: grpc.RpcError) -> RefusedError:
    code, pause = error.code(), _requested_pause(error)
    transient = code in TRANSIENT or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and pause > 0)
    return RefusedError(f"{code.name}: {error.details()}", transient=transient, pause=pause)


def _requested_pause(error: grpc.RpcError) -> float:
    """Give the seconds the collector asks to be left alone, 0 when it does not say (google.rpc.RetryInfo)."""
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    retry = RetryInfo()
    for detail in Status.FromString(details).details if details else ():
        if detail.Unpack(retry):
            return float(retry.retry_delay.seconds)
    return 0.0
