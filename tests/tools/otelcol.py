"""Builds the OpenTelemetry Collector that the end-to-end tests talk to, from its official Go modules.

    python -m tests.tools.otelcol        prints the binary's path; builds it first where it is missing (2 to 8 minutes)

It is kept in the folder that TOOLS_DIR names, or in `.tools` of the checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VERSION, PROVIDERS_VERSION = "0.159.0", "1.65.0"
CORE, CONTRIB = "go.opentelemetry.io/collector", "github.com/open-telemetry/opentelemetry-collector-contrib"
MANIFEST = f"""
dist: {{name: otelcol, version: {VERSION}, output_path: ./out}}
receivers:
  - gomod: {CORE}/receiver/otlpreceiver v{VERSION}
processors:
  - gomod: {CORE}/processor/batchprocessor v{VERSION}
exporters:
  - gomod: {CORE}/exporter/debugexporter v{VERSION}
  - gomod: {CONTRIB}/exporter/fileexporter v{VERSION}
  - gomod: {CONTRIB}/exporter/prometheusexporter v{VERSION}
providers:
  - gomod: {CORE}/confmap/provider/fileprovider v{PROVIDERS_VERSION}
  - gomod: {CORE}/confmap/provider/envprovider v{PROVIDERS_VERSION}
  - gomod: {CORE}/confmap/provider/yamlprovider v{PROVIDERS_VERSION}
"""
# The module proxy is far away; what was fetched stays in Go's cache, so that another attempt goes on from there.
ATTEMPTS = 4
ROOT = Path(__file__).resolve().parents[2]


def path() -> Path:
    """Give where the binary is, or would be."""
    return Path(os.environ.get("TOOLS_DIR") or ROOT / ".tools") / f"otelcol-{VERSION}"


def build() -> Path:
    """Give the binary, built if it is missing; RuntimeError says what keeps it from being built."""
    binary = path()
    if binary.exists():
        return binary
    if shutil.which("go") is None:
        raise RuntimeError("Go is not installed: the OpenTelemetry Collector cannot be built")
    binary.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=binary.parent) as name:
        folder = Path(name)
        (folder / "manifest.yaml").write_text(MANIFEST)
        _run(["go", "install", f"{CORE}/cmd/builder@v{VERSION}"], folder)
        _run([str(folder / "builder"), "--config", "manifest.yaml"], folder)
        (folder / "out" / "otelcol").replace(binary)
    return binary


def _run(command: list[str], folder: Path) -> None:
    environ = os.environ | {"GOBIN": str(folder), "GOFLAGS": "-trimpath"}
    for attempt in range(1, ATTEMPTS + 1):
        done = subprocess.run(
            command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode == 0:
            return
        print(f"attempt {attempt} of {' '.join(command)} failed:\n{done.stdout[-2000:]}", file=sys.stderr)
    raise RuntimeError(f"{command[0]} failed {ATTEMPTS} times")


if __name__ == "__main__":
    print(build())
