"""Measures what OTLP costs: memory of the service with and without it, CPU per export, and memory when nobody listens.

    python bench/otlp.py            about two minutes

Prints a table and, with --json FILE, writes the figures. Every part runs in a process of its own; so does the receiver.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

EXPORTS = 1000
WARM_UP = 200
INTERVAL_SECS = 10.0  # the default; CPU per export is shown as a share of a core at it
SETTLE_SECS = 45.0  # until the service has exported a few times and its memory no longer grows
DEVICES = 13  # as many as give 2,000 series

Figures = dict[str, float]


def status(pid: int | str, key: str) -> float:
    """Give a value of /proc/PID/status in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


@contextmanager
def receiver() -> Iterator[str]:
    """Give the endpoint of an OTLP/gRPC receiver that takes everything, in a process of its own."""
    with subprocess.Popen(
        [sys.executable, __file__, "--part", "receive"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.terminate()


def receive() -> None:
    """Be that receiver."""
    import grpc

    class Take(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: object) -> object:
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")

    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Take(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def unused_port() -> int:
    """Give a port nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def exporting(endpoint: str) -> tuple[Callable[[], None], int]:
    """Give a function that makes a snapshot of about 2,000 series new and exports it, and how many series there are."""
    import structlog
    from tests.export import otlp_made

    from gpumon.catalog import Snapshot
    from gpumon.export import otlp_flow, otlp_metrics, otlp_signal, otlp_target
    from gpumon.log import Onsets

    sender = otlp_signal.sender({"service.name": "gpumon"}, "0")
    encoder = otlp_metrics.Encoder(sender, otlp_made.START)
    target = otlp_target.resolve("metrics", endpoint, os.environ)
    assert target is not None
    snapshots = [otlp_made.snapshot(number, devices=DEVICES) for number in range(10)]
    number = 0

    def latest() -> Snapshot:
        return Snapshot(otlp_made.START + number, time.monotonic(), number, snapshots[number % 10].entities)

    flow = otlp_flow.Flow(
        "otlp",
        otlp_signal.transport(target, "metrics"),
        otlp_metrics.newest(latest, encoder, 1.0),
        interval=INTERVAL_SECS,
        timeout=5.0,
        onsets=Onsets(structlog.wrap_logger(structlog.PrintLogger(sys.stderr))),
        chance=random.Random(1),
    )

    def export() -> None:
        nonlocal number
        number += 1
        flow.export()

    return export, encoder.encode(snapshots[0]).items


def cost() -> Figures:
    """Give the CPU of one export of 2,000 series, gRPC's own threads included."""
    with receiver() as endpoint:
        export, series = exporting(endpoint)
        for _ in range(WARM_UP):
            export()
        began = time.process_time()
        for _ in range(EXPORTS):
            export()
        seconds = (time.process_time() - began) / EXPORTS
    return {"series": series, "ms per export": seconds * 1000, "% of a core": 100 * seconds / INTERVAL_SECS}


def dead() -> Figures:
    """Give how much memory 1,000 exports to nobody add, after the first ones."""
    export, _ = exporting(f"http://127.0.0.1:{unused_port()}")
    for _ in range(WARM_UP):
        export()
    resident, anonymous = status("self", "VmRSS"), status("self", "RssAnon")
    for _ in range(EXPORTS):
        export()
    return {
        "MB resident after": status("self", "VmRSS"),
        "MB resident more": status("self", "VmRSS") - resident,
        "MB anonymous more": status("self", "RssAnon") - anonymous,
    }


def service(endpoint: str) -> Figures:
    """Give memory and CPU of `gpumon run --simulate h100x8` with that endpoint, or none."""
    with tempfile.TemporaryDirectory() as folder:
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GPUMON_", "OTEL_EXPORTER_OTLP_ENDP"))
        } | {
            "PYTHONPATH": str(ROOT / "src"),
            "HOME": folder,
            "GPUMON_SERVICE_LOG_LEVEL": "error",
            "GPUMON_TELEMETRY_METRICS_PORT": str(unused_port()),
            "GPUMON_TELEMETRY_METRICS_ADDRESS": "127.0.0.1",
            "GPUMON_API_ENABLED": "false",
            "GPUMON_TELEMETRY_OTLP_ENDPOINT": endpoint,
        }
        with subprocess.Popen([sys.executable, "-m", "gpumon", "run", "--simulate", "h100x8"], env=environ) as process:
            time.sleep(SETTLE_SECS)
            figures = {"MB resident": status(process.pid, "VmRSS"), "MB anonymous": status(process.pid, "RssAnon")}
            process.send_signal(signal.SIGTERM)
    return figures


def memory() -> Figures:
    """Give what OTLP adds to the service's memory."""
    off = service("")
    with receiver() as endpoint:
        on = service(endpoint)
    return {
        **{f"{name} off": value for name, value in off.items()},
        **{f"{name} on": value for name, value in on.items()},
        **{f"{name} more": on[name] - off[name] for name in off},
    }


PARTS: dict[str, tuple[Callable[[], Figures], dict[str, str]]] = {
    "memory of the service, gRPC": (memory, {}),
    "2,000 series, gRPC": (cost, {}),
    "2,000 series, gRPC, gzip": (cost, {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}),
    "1,000 exports to nobody, gRPC": (dead, {}),
    "1,000 exports to nobody, HTTP": (dead, {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}),
}


def measure() -> dict[str, Figures]:
    """Give the figures of every part."""
    found = {}
    for name, (_, environ) in PARTS.items():
        command = [sys.executable, __file__, "--part", name]
        done = subprocess.run(command, env=os.environ | environ, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure, or be one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--part", choices=["receive", *PARTS], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part == "receive":
        receive()
    elif given.part:
        print(json.dumps(PARTS[given.part][0]()))
    else:
        figures = measure()
        for name, values in figures.items():
            print(name)
            for what, value in values.items():
                print(f"    {what:24} {value:10.2f}")
        if given.json:
            given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
