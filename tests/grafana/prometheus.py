"""A real Prometheus on loopback with a configuration and a data folder of its own, and answers to its queries."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from tests import daemon

SCRAPE_SECONDS = 1


class Prometheus:
    """Scrapes `targets`, addresses by the `instance` they get, and `pushed`, which has labels of its own.

    `relabel` is a list of Prometheus's metric_relabel_configs for the targets.
    """

    def __init__(
        self,
        folder: Path,
        targets: Mapping[str, str],
        pushed: Sequence[str] = (),
        *,
        seconds: int = SCRAPE_SECONDS,
        relabel: Sequence[Mapping[str, object]] = (),
    ) -> None:
        if shutil.which("prometheus") is None:
            pytest.skip("NOT TESTED against a real Prometheus: there is no prometheus here (Debian's package has it)")
        self.port = daemon.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        static = [{"targets": [address], "labels": {"instance": name}} for name, address in targets.items()]
        configuration = {
            "global": {"scrape_interval": f"{seconds}s", "scrape_timeout": f"{seconds}s"},
            "scrape_configs": [
                {"job_name": "gpumon", "static_configs": static, "metric_relabel_configs": list(relabel)},
                {"job_name": "collector", "honor_labels": True, "static_configs": [{"targets": list(pushed)}]},
            ],
        }
        self.pushed = bool(pushed)
        self._targets = len(targets) + len(pushed)
        self._folder = folder
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))

    def __enter__(self) -> Self:
        options = {
            "config.file": self._folder / "prometheus.yml",
            "storage.tsdb.path": self._folder / "prometheus",
            "web.listen-address": f"127.0.0.1:{self.port}",
        }
        command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
        with (self._folder / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log, cwd=self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def _ask(self, path: str, **parameters: str | float) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as refused:
            if refused.code not in (400, 422):
                raise  # it starts
            raise AssertionError(f"{json.loads(refused.read())['error']} in {parameters}") from refused

    def instant(self, expr: str) -> list[Any]:
        """Give the result of an expression now: of each series its labels under `metric`, and `value`."""
        result: list[Any] = self._ask("query", query=expr)["result"]
        return [series for series in result if math.isfinite(float(series["value"][1]))]

    def over(self, expr: str, seconds: float, step: float = SCRAPE_SECONDS) -> list[Any]:
        """Give the series of an expression over the last seconds that have a number there."""
        now = time.time()
        result: list[Any] = self._ask("query_range", query=expr, start=now - seconds, end=now, step=step)["result"]
        return [one for one in result if any(math.isfinite(float(number)) for _, number in one["values"])]

    def label_values(self, selector: str, label: str) -> list[str]:
        """Give the values of a label, as Grafana's variables ask for them."""
        return list(self._ask(f"label/{label}/values", **{"match[]": selector}))

    def until_scraped(self, times: int) -> None:
        """Wait until each target has been scraped so often."""

        def scraped() -> bool:
            try:
                series = self.instant(f"sum_over_time(up[5m]) >= {times}")
            except OSError:
                return False  # it does not listen yet
            return len(series) == self._targets

        daemon.until(self.process, scraped, lambda: (self._folder / "prometheus.log").read_text(), times + 60)
