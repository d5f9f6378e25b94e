"""An OTLP/gRPC receiver on loopback that answers as a test wants, and a logger whose lines can be read."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Self

import grpc
import structlog
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Answer = Callable[[grpc.ServicerContext], bytes]
REQUESTS = {"MetricsService": ExportMetricsServiceRequest, "TraceService": ExportTraceServiceRequest}


class Receiver(grpc.GenericRpcHandler):
    """Takes requests for metrics and traces; `answer` may raise by the context or give an encoded answer."""

    def __init__(self, answer: Answer = lambda context: b"", port: int = 0, credentials: Any = None) -> None:
        self.answer = answer
        self.requests: SimpleQueue[Any] = SimpleQueue()
        self.metadata: dict[str, str] = {}
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        address = f"127.0.0.1:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        self._server.start()

    @property
    def endpoint(self) -> str:
        """Give the endpoint as a user would write it."""
        return f"http://127.0.0.1:{self.port}"

    def service(self, details: Any) -> Any:
        """Answer any method that is an export."""
        message = REQUESTS[details.method.split(".")[-1].split("/")[0]]

        def export(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.metadata = dict(context.invocation_metadata())
            self.requests.put(message.FromString(request))
            return self.answer(context)

        return grpc.unary_unary_rpc_method_handler(export)

    def next(self) -> Any:
        """Give the next request; Empty after five seconds."""
        return self.requests.get(timeout=5)

    def taken(self) -> list[Any]:
        """Give the requests that came and were not asked for yet."""
        return [self.requests.get() for _ in range(self.requests.qsize())]

    def stop(self) -> None:
        """End the server and the calls under way."""
        self._server.stop(None).wait(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def black_hole() -> Iterator[str]:
    """Give an address at which connections are neither made nor refused: its queue is full and nobody takes from it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    port = listener.getsockname()[1]
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
    yield f"127.0.0.1:{port}"
    for held in (*fillers, listener):
        held.close()


@contextmanager
def silence() -> Iterator[socket.socket]:
    """Give a listener that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        yield listener


@contextmanager
def passing_on(port: int) -> Iterator[tuple[int, list[int]]]:
    """Give a port that passes one connection on to another, and the list of how many bytes went there at a time."""
    counts: list[int] = []
    with silence() as listener, ThreadPoolExecutor(2) as pool:

        def forward() -> None:
            near, _ = listener.accept()
            with near, socket.create_connection(("127.0.0.1", port)) as far:
                back = pool.submit(copy, far, near, [])
                copy(near, far, counts)
                back.result()

        done = pool.submit(forward)
        yield listener.getsockname()[1], counts
    done.result()


def copy(source: socket.socket, target: socket.socket, counts: list[int]) -> None:
    """Pass bytes on until either side ends."""
    try:
        while data := source.recv(65536):
            counts.append(len(data))
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def unused_port() -> int:
    """Give a port nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def logger() -> tuple[Any, list[Any]]:
    """Give a logger and the list its lines go to."""
    capture = structlog.testing.LogCapture()
    return structlog.wrap_logger(None, processors=[capture]), capture.entries
