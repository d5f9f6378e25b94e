"""`gpumon health`: asks the gpumon that runs on this machine whether it is well; for a container's health check.

Kept small, because a container's memory limit holds for this process as well.
"""

from __future__ import annotations

from contextlib import closing
from http.client import HTTPConnection, HTTPException

from gpumon.settings import Telemetry

# /healthz answers in milliseconds.
LIMIT_SECS = 5.0
EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - asked at loopback
# One who may not ask has found somebody who answers: a password is wanted, or fewer questions.
REFUSALS = (401, 429)


def ask(telemetry: Telemetry, *, tls: bool) -> tuple[bool, str]:
    """Give whether /healthz says that gpumon is well, and what it says, in one line."""
    if not telemetry.enable_prometheus:
        return True, "not known: telemetry.enable_prometheus is false, so nothing can be asked"
    address = EVERY_ADDRESS.get(telemetry.metrics_address, telemetry.metrics_address)
    where = f"{address}:{telemetry.metrics_port}"
    try:
        with closing(_connection(address, telemetry.metrics_port, tls=tls)) as connection:
            connection.request("GET", "/healthz")
            response = connection.getresponse()
            said = response.read(1000).decode(errors="replace").strip()
    except (OSError, HTTPException) as error:
        if tls and not isinstance(error, (ConnectionRefusedError, TimeoutError)):
            return True, f"{where} answers, to those who have a certificate"
        return False, f"{where} does not answer: {error}"
    if response.status in REFUSALS:
        return True, f"{where} answers: {said}"
    return response.status == 200, said


def _connection(address: str, port: int, *, tls: bool) -> HTTPConnection:
    if not tls:
        return HTTPConnection(address, port, timeout=LIMIT_SECS)
    import ssl
    from http.client import HTTPSConnection

    # It is this machine's own port; its certificate is for the name that others call it by.
    context = ssl._create_unverified_context()  # noqa: S323
    return HTTPSConnection(address, port, timeout=LIMIT_SECS, context=context)
