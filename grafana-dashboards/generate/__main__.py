"""Writes the dashboards, or with `--check` says which are stale."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from generate.build import build
from generate.daemon import DAEMON
from generate.device import DEVICE
from generate.fleet import FLEET
from generate.models import MODELS
from generate.rows import Dashboard
from generate.workloads import WORKLOADS

FOLDER = Path(__file__).resolve().parents[1]
DASHBOARDS = (FLEET, DEVICE, WORKLOADS, MODELS, DAEMON)


def written(row: Dashboard) -> str:
    """Give a dashboard as the text of its file."""
    return json.dumps(build(row), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write every dashboard that is not as it should be, or only name it; 1 when that was asked and one is stale."""
    if arguments not in ([], ["--check"]):
        print(f"unknown argument {arguments[0]!r}; allowed is --check, or none", file=sys.stderr)
        return 2
    stale = 0
    for row in DASHBOARDS:
        path, text = FOLDER / f"{row.key}.json", written(row)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if arguments:
            print(f"{path.name} is stale: run `make dashboards`", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.name}")
    return int(bool(arguments and stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
