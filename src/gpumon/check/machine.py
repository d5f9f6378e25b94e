"""Checks of the machine around gpumon: what it may see, where it may write and listen, and who is there."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
from pathlib import Path

from gpumon.check.finding import Finding, Status
from gpumon.settings import Settings, SettingsError

KMSG = Path("/dev/kmsg")

# A week of eight GPUs at 2 s are 2.4 million rows of some 0.4 kB.
ROOM_BYTES = 1 << 30

# What answers on this machine answers at once; a name may first have to be resolved.
CONNECT_SECS = 2.0


def nvidia_smi(settings: Settings) -> Finding:
    """Say whether nvidia-smi is there, where it is wanted."""
    if not settings.gpu.fallback_to_nvidia_smi:
        return Finding(Status.INFO, "not used: gpu.fallback_to_nvidia_smi is false")
    path = shutil.which(settings.gpu.nvidia_smi_path)
    if path is None:
        return Finding(Status.WARN, f"{settings.gpu.nvidia_smi_path} is no command here", "set gpu.nvidia_smi_path")
    return Finding(Status.OK, path)


def kernel_log(settings: Settings, path: Path = KMSG) -> Finding:
    """Say whether XID errors can be taken from the kernel log as well."""
    if not settings.gpu.read_kernel_log:
        return Finding(Status.INFO, "from NVML alone: gpu.read_kernel_log is false")
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        found = f"from NVML alone: {path} cannot be read ({error.strerror})"
        advice = f"for all of them, mount {path} and add CAP_SYSLOG (in Kubernetes that takes a privileged container)"
        return Finding(Status.WARN, found, f"{advice}, or set gpu.read_kernel_log to false")
    return Finding(Status.OK, f"from NVML and {path}")


def data_dir(settings: Settings) -> Finding:
    """Say whether gpumon can write where it is to keep its data, and how much room is left."""
    path = Path(settings.service.data_dir).expanduser()
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    advice = "set service.data_dir (GPUMON_SERVICE_DATA_DIR), or make it writable for this user"
    try:
        with tempfile.TemporaryFile(dir=there):  # has no name, so nothing is left behind
            pass
        free = shutil.disk_usage(there).free
    except OSError as error:
        what = "written to" if there == path else f"made in {there}"
        return Finding(Status.WARN, f"{path} cannot be {what} ({error.strerror or error})", advice)
    found = f"{path}{'' if there == path else ' (will be made)'}, {free / (1 << 30):.1f} GiB free"
    if free < ROOM_BYTES:
        return Finding(Status.WARN, found, "a week of eight GPUs takes about 1 GB: make room, or set service.data_dir")
    return Finding(Status.OK, found)


def metrics_port(settings: Settings) -> Finding:
    """Say whether the metrics port is free."""
    telemetry = settings.telemetry
    if not telemetry.enable_prometheus:
        return Finding(Status.INFO, "not served: telemetry.enable_prometheus is false")
    return port(
        telemetry.metrics_address, telemetry.metrics_port, "telemetry.metrics_address", "telemetry.metrics_port"
    )


def api_port(settings: Settings) -> Finding:
    """Say whether the API's port is free, and whether who can reach it is asked for a token."""
    api = settings.api
    if not api.enabled:
        return Finding(Status.INFO, "not served: api.enabled is false")
    from gpumon.web.api.guard import is_open, token

    try:
        token(api)
    except SettingsError as error:
        return Finding(Status.FAIL, str(error).removesuffix("."), "correct it, or unset it")
    found = port(api.address, api.port, "api.address", "api.port")
    if found.status is Status.OK and is_open(api):
        advice = "set api.token (GPUMON_API_TOKEN) or api.token_file, unless everyone there may"
        return Finding(Status.WARN, f"{found.found}, and everyone who reaches it may read", advice)
    return found


def port(address: str, number: int, address_name: str, number_name: str) -> Finding:
    """Say whether this process could listen on a port; the names are those of the settings that change it."""
    where = f"{address}:{number}" if ":" not in address else f"[{address}]:{number}"
    set_port = f"set {number_name} (GPUMON_{number_name.replace('.', '_').upper()})"
    try:
        for family, kind, protocol, _, place in socket.getaddrinfo(address, number, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the service does
                if family == socket.AF_INET6:
                    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                server.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holder = _holder(number)
            if "gpumon" in holder:
                return Finding(Status.OK, f"{where} is in use by {holder}")
            return Finding(Status.FAIL, f"{where} is in use{holder and f' by {holder}'}", set_port)
        if error.errno == errno.EACCES:
            return Finding(Status.FAIL, f"{where} may not be used by this user", f"{set_port} to 1024 or more")
        return Finding(Status.FAIL, f"{where} cannot be used ({error.strerror})", f"set {address_name}")
    return Finding(Status.OK, f"{where} is free")


def _holder(number: int) -> str:
    """Give the process that listens on a port, as in "gpumon (pid 7)"; "" where it cannot be known."""
    import psutil

    for connection in psutil.net_connections("tcp"):
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == number
        if not listens or connection.pid is None:
            continue
        try:
            words = [Path(word).name for word in psutil.Process(connection.pid).cmdline()]
        except psutil.Error:
            return f"pid {connection.pid}"
        # An interpreter and its options may come first, as in python -m gpumon.
        name = "gpumon" if "gpumon" in words[:3] else (words or ["a process"])[0]
        return f"{name} (pid {connection.pid})"
    return ""


def web_config(settings: Settings) -> Finding:
    """Say whether the file with TLS and basic auth of the metrics port can be used."""
    path = settings.telemetry.web_config_file
    if not path:
        return Finding(Status.INFO, "none: plain HTTP without a password")
    from gpumon.web.webconfig import load_web_config

    try:
        load_web_config(path)
    except ValueError as error:
        return Finding(Status.FAIL, str(error).removesuffix("."), "correct it, or unset telemetry.web_config_file")
    return Finding(Status.OK, f"{path} is valid")


def _first_line(path: Path) -> str:
    try:
        return path.read_text().split("\n", 1)[0]
    except OSError:
        return ""
