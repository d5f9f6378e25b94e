"""Running the OpenTelemetry Collector that `tests.tools.otelcol` builds."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

from tests.export.otlp_process import ROOT, free_port, until

CONFIG = ROOT / "examples" / "otel-collector" / "config.yaml"


class Collector:
    """A collector with the example's configuration, at ports of its own.

    `resource_labels` puts the resource's attributes on every series, as the example does by default.
    """

    def __init__(self, binary: Path, folder: Path, *, resource_labels: bool = False) -> None:
        self._binary = binary
        self._resource_labels = "true" if resource_labels else "false"
        self.file = folder / "otlp.jsonl"
        self.grpc, self.http, self.prometheus = free_port(), free_port(), free_port()
        self.log = folder / "otelcol.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        environ = os.environ | {
            "OTLP_GRPC_ENDPOINT": f"127.0.0.1:{self.grpc}",
            "OTLP_HTTP_ENDPOINT": f"127.0.0.1:{self.http}",
            "PROMETHEUS_ENDPOINT": f"127.0.0.1:{self.prometheus}",
            "OTLP_FILE": str(self.file),
            "RESOURCE_LABELS": self._resource_labels,
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([self._binary, "--config", CONFIG], env=environ, stdout=log, stderr=log)
        until(lambda: _listening(self.grpc) and _listening(self.http), f"the collector: {self.log.read_text()}")

    def stop(self) -> None:
        """End it; what it has is written."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def requests(self, kind: str) -> list[Any]:
        """Give the resourceMetrics or resourceSpans received, oldest first."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        found = []
        for line in lines:
            try:
                found += json.loads(line).get(kind, [])
            except json.JSONDecodeError:
                pass  # the last one is being written
        return found


def _listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
