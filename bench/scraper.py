"""Scrapes one /metrics over plain sockets from a process of its own, and prints what it saw as JSON.

One loop over non-blocking sockets and no HTTP library, so that what is measured is the server:
`--floor` measures the rest, by scraping a server that answers ready-made bytes of the same size.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import multiprocessing
import random
import selectors
import socket
import statistics
import time
from dataclasses import dataclass, field

# What Prometheus 2.42 sends.
ACCEPT = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
CHUNKED_END = b"0\r\n\r\n"


@dataclass(slots=True)
class Client:
    """One scraper: its connection, and the answer it is receiving."""

    port: int
    request: bytes
    interval: float  # seconds between scrapes; 0 is the next as soon as the last has come
    due: float
    socket: socket.socket | None = None
    sent: float | None = None  # when the scrape under way began
    received: bytearray = field(default_factory=bytearray)

    def send(self, selector: selectors.BaseSelector) -> None:
        """Begin a scrape, connecting first where the server closed the connection; connecting counts."""
        self.sent = time.perf_counter()
        if self.socket is None:
            self.socket = socket.create_connection(("127.0.0.1", self.port))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.setblocking(False)
            selector.register(self.socket, selectors.EVENT_READ, self)
        self.socket.send(self.request)
        self.received.clear()

    def receive(self, selector: selectors.BaseSelector) -> float | None:
        """Take what has come; give the seconds the scrape took once its answer is complete."""
        assert self.socket is not None
        assert self.sent is not None
        try:
            part = self.socket.recv(1 << 20)
        except BlockingIOError:
            return None
        self.received += part
        if part and not self._complete():
            return None
        took = time.perf_counter() - self.sent
        self.sent = None
        if not self.received.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200")):
            raise SystemExit(f"not scraped: {bytes(self.received[:200])!r}")
        if not part or b"connection: close" in self.head.lower() or self.received.startswith(b"HTTP/1.0"):
            selector.unregister(self.socket)
            self.socket.close()
            self.socket = None
        return took

    def _complete(self) -> bool:
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self.head.lower()
        start = head.find(b"content-length:")
        if start >= 0:
            return len(self.received) >= end + 4 + int(head[start + 15 :].split(b"\r\n", 1)[0])
        return b"chunked" in head and self.received.endswith(CHUNKED_END)

    @property
    def head(self) -> bytes:
        """Give the answer's status and headers."""
        return bytes(self.received[: self.received.find(b"\r\n\r\n") + 2])

    @property
    def body(self) -> bytes:
        """Give the answer's body as text, and so that its length is what was sent for it."""
        data = bytes(self.received[len(self.head) + 2 :])
        if b"chunked" in self.head.lower():
            whole = bytearray()
            while data:
                size, _, data = data.partition(b"\r\n")
                whole += data[: int(size, 16)]
                data = data[int(size, 16) + 2 :]
            return bytes(whole)
        return data


def request_for(port: int, *, compressed: bool) -> bytes:
    """Give a scrape as Prometheus makes it, or one for plain text uncompressed."""
    accept = ACCEPT if compressed else "text/plain;version=0.0.4"
    encoding = "gzip" if compressed else "identity"
    return (
        f"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: bench\r\n"
        f"Accept: {accept}\r\nAccept-Encoding: {encoding}\r\n\r\n"
    ).encode()


def scrape(clients: list[Client], seconds: float) -> list[float]:
    """Let the clients scrape for so long; give the seconds each scrape took."""
    took: list[float] = []
    selector = selectors.DefaultSelector()
    end = time.perf_counter() + seconds
    while True:
        now = time.perf_counter()
        if now >= end and all(client.sent is None for client in clients):
            return took
        for client in clients:
            if client.sent is None and client.due <= now < end:
                client.send(selector)
        waiting = [client.due for client in clients if client.sent is None and client.due < end]
        patience = max(0.0, min(waiting) - time.perf_counter()) if waiting else max(0.0, end - time.perf_counter())
        for key, _ in selector.select(patience if selector.get_map() else min(patience, 0.01)):
            client = key.data
            duration = client.receive(selector)
            if duration is not None:
                took.append(duration)
                # A scrape that took longer than its interval does not lead to a crowd of them.
                client.due = max(client.due + client.interval, time.perf_counter()) if client.interval else 0.0


def summary(took: list[float], last: Client, seconds: float) -> dict[str, float]:
    """Give what the figures are made from: milliseconds, bytes, series."""
    body = last.body
    text = gzip.decompress(body) if b"content-encoding: gzip" in last.head.lower() else body
    ordered = sorted(took)
    return {
        "scrapes": len(took),
        "per_second": len(took) / seconds,
        "median_ms": statistics.median(ordered) * 1e3,
        "p99_ms": ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1e3,
        "max_ms": ordered[-1] * 1e3,
        "bytes": len(body),
        "series": sum(1 for line in text.splitlines() if line and not line.startswith(b"#")),
    }


async def _serve(size: int, port: int) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size

    class Floor(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(answer)  # type: ignore[attr-defined]

    server = await asyncio.get_running_loop().create_server(Floor, "127.0.0.1", port)
    await server.serve_forever()


def start_floor(size: int) -> tuple[multiprocessing.Process, int]:
    """Start the server that only sends `size` ready-made bytes; give its process and port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = multiprocessing.Process(target=lambda: asyncio.run(_serve(size, port)), daemon=True)
    process.start()
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return process, port


def main() -> None:
    """Scrape as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--interval", type=float, default=0, help="seconds between a client's scrapes; 0: closed loop")
    parser.add_argument("--together", action="store_true", help="all clients at the same moments, not each at its own")
    parser.add_argument("--plain", action="store_true", help="plain text, not what Prometheus asks for")
    parser.add_argument("--floor", type=int, help="scrape instead a server that only sends so many bytes")
    arguments = parser.parse_args()
    floor, port = start_floor(arguments.floor) if arguments.floor is not None else (None, arguments.port)
    request = request_for(port, compressed=not arguments.plain)
    start = time.perf_counter() + 0.1
    clients = [
        Client(
            port,
            request,
            arguments.interval,
            start + (0 if arguments.together else random.random() * arguments.interval),
        )
        for _ in range(arguments.clients)
    ]
    took = scrape(clients, arguments.seconds)
    print(json.dumps(summary(took, clients[-1], arguments.seconds)))
    if floor is not None:
        floor.kill()


if __name__ == "__main__":
    main()
