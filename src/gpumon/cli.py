"""The command line. Only this module ends the process; bad input is one sentence on stderr and exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gpumon import __version__
from gpumon.settings import Settings, SettingsError

if TYPE_CHECKING:
    from gpumon.web.webconfig import WebConfig

BAD_INPUT = 2


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand; `arguments` are those of argparse's add_argument."""

    name: str
    help: str
    run: Callable[[argparse.Namespace], int]
    arguments: tuple[tuple[str, dict[str, Any]], ...] = ()


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Carry out the command line and end the process with its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments.insert(0, "run")
    given = _parser().parse_args(arguments)
    try:
        sys.exit(given.run(given))
    except SettingsError as error:
        sys.stderr.write(f"gpumon: {str(error).removesuffix('.')}.\n")
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(130)  # as a shell reports SIGINT


def _run(given: argparse.Namespace) -> int:
    from gpumon.load import read_apart

    # Settings are read before anything else is imported: the child that reads them begins as a copy of this process.
    return _serve(read_apart(given.config), given.simulate)


def _proxy(given: argparse.Namespace) -> int:
    from gpumon.load import read_apart

    settings = read_apart(given.config)
    if not settings.proxy.listen:
        raise SettingsError("proxy.listen is empty; set it to an address and a port, as in 127.0.0.1:11435")
    # Whoever reads the GPUs and watches other servers is another gpumon, on the node; this one is beside one server.
    settings = replace(
        settings,
        gpu=replace(settings.gpu, enable_nvml=False, fallback_to_nvidia_smi=False, read_kernel_log=False),
        processes=replace(settings.processes, enabled=False),
        storage=replace(settings.storage, enabled=False),  # the database is the daemon's
        ollama=replace(settings.ollama, enabled=False),
        llm=replace(settings.llm, servers=""),
    )
    return _serve(settings, simulate=None)


def _web_config(settings: Settings) -> WebConfig | None:
    if not settings.telemetry.enable_prometheus or not settings.telemetry.web_config_file:
        return None
    from gpumon.web.webconfig import load_web_config_apart

    return load_web_config_apart(settings.telemetry.web_config_file)


def _serve(settings: Settings, simulate: str | None) -> int:
    web_config = _web_config(settings)
    from gpumon.memory import leave_extras_out, leave_tls_out, speaks_tls

    leave_extras_out()
    if not speaks_tls(settings, os.environ, served=web_config is not None and web_config.tls is not None):
        leave_tls_out()
    from gpumon import app
    from gpumon.daemon import StartError

    try:
        return app.run(settings, simulate, web_config)
    except StartError as error:
        raise SettingsError(str(error)) from error


def _check(given: argparse.Namespace) -> int:
    from gpumon.check import check

    try:
        return check(given.config, os.environ, sys.stdout)
    except BrokenPipeError:  # as in `gpumon check | head -3`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at the end fails again
        return 1


def _health(given: argparse.Namespace) -> int:
    from gpumon.load import read_apart

    settings = read_apart(given.config)
    web_config = _web_config(settings)
    tls = web_config is not None and web_config.tls is not None
    if not tls:
        from gpumon.memory import leave_tls_out

        leave_tls_out()
    from gpumon.check.health import ask

    well, said = ask(settings.telemetry, tls=tls)
    sys.stdout.write(f"{said}\n")
    return 0 if well else 1


def _capture(given: argparse.Namespace) -> int:
    from gpumon.gpu.capture import capture

    try:
        capture(given.file)
    except OSError as error:
        raise SettingsError(f"Cannot write {given.file}: {error.strerror}.") from error
    sys.stdout.write(f"{given.file} is written, identifiers masked; `gpumon run --simulate {given.file}` replays it.\n")
    return 0


def _archive(given: argparse.Namespace) -> int:
    from gpumon.load import read_apart
    from gpumon.store.command import archive_now, carry_out
    from gpumon.store.job import Job

    job = Job.of(read_apart(given.config))
    return carry_out(lambda: sys.stdout.write(archive_now(job) + "\n"), sys.stderr)


def _export(given: argparse.Namespace) -> int:
    from gpumon.load import read_apart
    from gpumon.store.command import carry_out, export_to
    from gpumon.store.job import Job

    job = Job.of(read_apart(given.config))
    return carry_out(
        lambda: export_to(job, given.table, given.start, given.end, given.format, given.output, sys.stderr), sys.stderr
    )


def _docs(given: argparse.Namespace) -> int:
    from gpumon.docs import stale, write

    if not given.check:
        write()
        return 0
    names = stale()
    if names:
        sys.stderr.write(f"gpumon: {', '.join(names)} must be generated anew by `gpumon docs`.\n")
    return 1 if names else 0


def _version(given: argparse.Namespace) -> int:
    sys.stdout.write(f"gpumon {__version__}\n")
    return 0


CONFIG = ("--config", {"metavar": "FILE", "help": "settings file; without it ~/.config/gpumon/config.toml, if there"})
SIMULATE = (
    "--simulate",
    {
        "metavar": "PROFILE",
        "help": "simulate GPUs, as in h100x8 or rtx4090x1, or replay a capture, as in capture.json; "
        '"auto" simulates only where there are no real ones',
    },
)
COMMANDS = (
    Command("run", "run the service (the default)", _run, (CONFIG, SIMULATE)),
    Command("proxy", "pass requests on to a model server and measure them, without reading GPUs", _proxy, (CONFIG,)),
    Command("check", "look for what would keep the service from working, and say what to do", _check, (CONFIG,)),
    Command("health", "ask the service on this machine whether it is well; fails where it is not", _health, (CONFIG,)),
    Command(
        "capture",
        "record what this machine's driver answers, with identifiers masked",
        _capture,
        (("file", {"metavar": "FILE", "type": Path, "help": "file to write"}),),
    ),
    Command("archive", "move rows past their retention to the archive now", _archive, (CONFIG,)),
    Command(
        "export",
        "write a table's rows, from database and archive, to a file",
        _export,
        (
            CONFIG,
            ("--table", {"required": True, "help": "table, as in gpu_metrics, host_metrics, events or llm_sessions"}),
            ("--from", {"dest": "start", "metavar": "TIME", "help": "first moment, ISO 8601, UTC unless it says else"}),
            ("--to", {"dest": "end", "metavar": "TIME", "help": "moment before which to end"}),
            ("--format", {"default": "csv", "metavar": "FORMAT", "help": "csv, parquet or jsonl"}),
            ("--output", {"metavar": "FILE", "help": "file to write; without it standard output"}),
        ),
    ),
    Command(
        "docs",
        "write the generated documents of a source checkout",
        _docs,
        (("--check", {"action": "store_true", "help": "write nothing; fail if one of them is stale"}),),
    ),
    Command("version", "print the version", _version),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"gpumon: {message}; see gpumon --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gpumon", description="Read the GPUs of this node and serve what they do.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"gpumon {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.help, description=command.help, allow_abbrev=False)
        for flag, facts in command.arguments:
            subparser.add_argument(flag, **facts)
        subparser.set_defaults(run=command.run)
    return parser
