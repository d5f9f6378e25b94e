"""The checks in their order, and how they are carried out: each in a child of its own, within a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from gpumon.apart import apart
from gpumon.check import alerts, driver, machine, models, processes
from gpumon.check.finding import Finding, Status
from gpumon.load import default_file, read_apart, variables
from gpumon.settings import Settings, SettingsError, reserved_in_use

# Without persistence mode the driver wakes a GPU when it is first asked, some seconds each; enough for eight (unverified).
LIMIT_SECS = 45.0


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. `look` may raise or hang: that, too, is a finding."""

    name: str
    look: Callable[[Settings], Finding]
    if_hangs: str = ""


HUNG_DRIVER = "a GPU may have to be reset or the machine rebooted: see the kernel log"

CHECKS = (
    Check("driver", driver.library, HUNG_DRIVER),
    Check("GPUs", driver.gpus, HUNG_DRIVER),
    Check("readings", driver.readings, HUNG_DRIVER),
    Check("nvidia-smi", machine.nvidia_smi),
    Check("XID errors", machine.kernel_log),
    Check("pid view", processes.pid_view),
    Check("process facts", processes.facts),
    Check("kubelet", processes.kubelet),
    Check("data directory", machine.data_dir),
    Check("metrics port", machine.metrics_port),
    Check("API port", machine.api_port),
    Check("web config", machine.web_config),
    Check("model servers", models.model_servers),
    Check("alerts", alerts.alerts),
)
WIDTH = max(len(row.name) for row in CHECKS)


def check(config: str | None, environ: Mapping[str, str], out: TextIO) -> int:
    """Write the report to `out`, a line as soon as it is known; give 1 where something failed, else 0."""
    finding, settings = _settings(config, environ)
    out.write(line("settings", finding))
    failed = finding.status is Status.FAIL
    for row in CHECKS:
        finding = examine(row, settings)
        failed |= finding.status is Status.FAIL
        out.write(line(row.name, finding))
        out.flush()
    return int(failed)


def examine(row: Check, settings: Settings, limit_secs: float = LIMIT_SECS) -> Finding:
    """Give what a check finds; one that hangs, crashes or raises is a failure that says so."""
    try:
        return apart(lambda: row.look(settings), limit_secs)
    except TimeoutError as error:
        return Finding(Status.FAIL, f"hangs: {error}", row.if_hangs)
    except ChildProcessError as error:
        return Finding(Status.FAIL, f"the check was ended: {error}")
    except Exception as error:  # noqa: BLE001 - whatever one check meets must not cost the others
        return Finding(Status.FAIL, f"the check itself failed: {type(error).__name__}: {error}")


def line(name: str, finding: Finding) -> str:
    """Give the line of a finding: status, name, what was found, what to do."""
    advice = f"; {finding.advice}" if finding.advice else ""
    text = f"{finding.found}{advice}".replace("\n", " ")
    return f"{finding.status.value:<5}{name:<{WIDTH + 2}}{text}\n"


def _settings(config: str | None, environ: Mapping[str, str]) -> tuple[Finding, Settings]:
    """Give the finding about the settings, and what the other checks look at: the defaults where they are wrong."""
    try:
        settings = read_apart(config, environ)
    except SettingsError as error:
        sentence = str(error).removesuffix(".")
        return Finding(Status.FAIL, sentence, "correct it; what follows was checked with the defaults"), Settings()
    names = list(variables(environ))
    path = Path(config) if config is not None else default_file(environ)
    file = f"from {path}" if path is not None and path.exists() else f"no file at {path}"
    found = f"valid: {file}, environment variables: {len(names)}"
    if reserved := reserved_in_use(settings):
        return Finding(Status.WARN, found, f"without effect in this version: {', '.join(reserved)}"), settings
    return Finding(Status.OK, found), settings
