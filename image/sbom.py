"""The image's bill of materials: what Debian packages and Python packages are in it, as CycloneDX 1.6 in JSON.

Taken from what lies in the image: its dpkg stanzas and its dist-info folders. What wheels have linked into their own
libraries (BoringSSL in grpcio, the AWS SDK in pyarrow) they do not tell, so it is not in here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from pathlib import Path
from urllib.parse import quote

Component = dict[str, str | list[dict[str, str]]]

PLACE = "usr/share/sbom/gpumon.cdx.json"
STANZAS = "var/lib/dpkg/status.d"  # where scanners look in images without dpkg


def bill(layers: Iterable[Path]) -> str:
    """Give the bill of what lies in these layers, always the same for the same."""
    found = [component for layer in layers for component in (*_debian(layer), *_python(layer))]
    [gpumon] = [component for component in found if component["name"] == "gpumon"]
    rest = sorted((component for component in found if component is not gpumon), key=lambda one: str(one["bom-ref"]))
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**gpumon, "type": "application"}},
        "components": rest,
        "dependencies": [{"ref": gpumon["bom-ref"], "dependsOn": [component["bom-ref"] for component in rest]}],
    }
    return json.dumps(document, indent=1) + "\n"


def _debian(layer: Path) -> Iterator[Component]:
    for path in sorted((layer / STANZAS).glob("*")):
        stanza = HeaderParser().parsestr(path.read_text())
        name, version, architecture = stanza["Package"], stanza["Version"], stanza["Architecture"]
        purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={architecture}&distro=debian-13"
        yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _python(layer: Path) -> Iterator[Component]:
    for path in sorted(layer.rglob("*.dist-info/METADATA")):
        metadata = HeaderParser().parsestr(path.read_text())
        name, version = metadata["Name"].lower().replace("_", "-"), metadata["Version"]
        purl = f"pkg:pypi/{name}@{version}"
        component: Component = {"type": "library", "bom-ref": purl, "name": name, "version": version}
        component["purl"] = purl
        if expression := metadata["License-Expression"]:
            component["licenses"] = [{"expression": expression}]
        yield component
