"""The check of alerts: whether the settings of alerts can be used, and whether somebody listens where they are sent."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from gpumon.check.finding import Finding, Status
from gpumon.export.alerts import targets
from gpumon.export.alerts_dbus import bus
from gpumon.export.alerts_settings import rules
from gpumon.settings import Settings, SettingsError

# Somebody who is there answers at once; a name may first have to be resolved.
ASK_SECONDS = 2.0


def alerts(settings: Settings, environ: Mapping[str, str] = os.environ) -> Finding:
    """Say how many alerts are looked for, where they are told, and what is in their way. Nothing is sent."""
    if not settings.alerts.enabled:
        return Finding(Status.INFO, "switched off: alerts.enabled is false")
    try:
        looked_for = rules(settings)
        places = [(target.name, target.address) for target in targets(settings, environ)]
    except SettingsError as error:
        return Finding(Status.FAIL, str(error).removesuffix("."), "correct it")
    own = sum(rule.alert.own for rule in looked_for)
    told = ["the log"] if settings.alerts.log else []
    told += [f"{name} {address}".strip() for name, address in places]
    found = f"{len(looked_for)} are looked for{f', {own} of the settings' if own else ''}"
    found += f"; told to {', '.join(told)}" if told else "; told to nobody, but kept as events and in /metrics"
    troubles = [*_unheard(places, environ), *_unreadable(settings)]
    return Finding(Status.WARN, found, "; ".join(troubles)) if troubles else Finding(Status.OK, found)


def _unheard(places: list[tuple[str, str]], environ: Mapping[str, str]) -> Iterator[str]:
    for name, address in places:
        if not address:
            if bus(environ) is None:
                yield "there is no session bus: run gpumon as the user of a desktop, in their session"
            continue
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), ASK_SECONDS).close()
        except OSError as error:
            yield f"{name} {address} cannot be reached ({error.strerror or error}): start it, or correct its URL"


def _unreadable(settings: Settings) -> Iterator[str]:
    for key in ("alerts.webhook_bearer_token_file", "alerts.alertmanager_bearer_token_file"):
        path = str(settings[key])
        if path and not (Path(path).is_file() and os.access(path, os.R_OK)):
            yield f"{path} cannot be read: correct {key}"
