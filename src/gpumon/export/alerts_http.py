"""Alerts over HTTP: to Alertmanager's API v2, and to a webhook in the form in which Alertmanager calls one.

Sources: Alertmanager's OpenAPI document (api/v2/openapi.yaml, postableAlerts) and its documentation of webhook receivers.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from gpumon.export.alerts_outbox import RefusedError
from gpumon.export.alerts_watch import Incident

if TYPE_CHECKING:
    import ssl

TIMEOUT_SECS = 10.0
# Of an answer, only why it is a refusal is read.
LONGEST_ANSWER = 4096
# Content that was not taken will not be the next time either; anything else may be mended: a token, a path, a proxy.
PERMANENT = {400, 413, 422}
# Prometheus as well lets an alert end by itself after four times the interval at which it sends.
ENDS_AFTER = 4

Headers = Mapping[str, str]


class Poster:
    """Posts JSON to one URL, each time on a new connection: one a minute is not worth keeping.

    Follows no redirects and asks no proxies: only the server that was named gets what is sent. With https, its
    certificate is checked against the system's authorities, or those that SSL_CERT_FILE names.
    """

    def __init__(self, url: str, headers: Headers, token_file: str) -> None:
        self._url = url
        self._headers = headers
        self._token_file = token_file
        self._session: aiohttp.ClientSession | None = None

    async def post(self, document: object) -> None:
        """Post a document; raises RefusedError."""
        headers = {**self._headers, "Content-Type": "application/json", "User-Agent": "gpumon"}
        if self._token_file:
            headers["Authorization"] = f"Bearer {_token(self._token_file)}"
        body = json.dumps(document).encode()
        try:
            async with (await self._connect()).post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                if not 200 <= answer.status < 300:
                    raise await _refusal(answer)
        except TimeoutError:
            raise RefusedError(f"no answer within {TIMEOUT_SECS:g} s") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise RefusedError(f"its certificate is not trusted: {error.certificate_error}") from None
        except aiohttp.ClientConnectorError as error:
            raise RefusedError(f"cannot be reached: {error.os_error.strerror or error.os_error}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:  # their words may hold the URL, and that a secret
            raise RefusedError(f"does not speak HTTP ({type(error).__name__})") from None

    async def close(self) -> None:
        """End the connection."""
        if self._session is not None:
            await self._session.close()

    async def _connect(self) -> aiohttp.ClientSession:
        if self._session is None:
            tls = await asyncio.to_thread(_context) if self._url.startswith("https:") else True
            connector = aiohttp.TCPConnector(ssl=tls, force_close=True, resolver=Resolver())
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECS)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self._session


class Resolver(AbstractResolver):
    """Looks up names on a daemon thread: a name server that does not answer must not keep gpumon from ending."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Give the addresses of a host; raises OSError."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Any]] = loop.create_future()

        def look() -> None:
            try:
                addresses: list[Any] | OSError = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
            except OSError as error:
                addresses = error
            try:
                loop.call_soon_threadsafe(_resolve, found, addresses)
            except RuntimeError:
                pass  # gpumon has ended meanwhile

        threading.Thread(target=look, name="gpumon-names", daemon=True).start()
        return [
            ResolveResult(
                hostname=host, host=where[0], port=where[1], family=family, proto=proto, flags=socket.AI_NUMERICHOST
            )
            for family, _, proto, _, where in await found
        ]

    async def close(self) -> None:
        """End nothing: a thread ends with its look-up."""


def _resolve(found: asyncio.Future[list[Any]], addresses: list[Any] | OSError) -> None:
    if found.done():
        return  # nobody waits any more
    if isinstance(addresses, OSError):
        found.set_exception(addresses)
    else:
        found.set_result(addresses)


def _context() -> ssl.SSLContext:
    import ssl  # not above: where nothing speaks TLS, gpumon goes without it

    return ssl.create_default_context()


def _token(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise RefusedError(f"cannot read the token in {path}: {reason}") from None


async def _refusal(answer: aiohttp.ClientResponse) -> RefusedError:
    text = (await answer.content.read(LONGEST_ANSWER)).decode(errors="replace")
    words = " ".join(text.split())[:200]
    pause = answer.headers.get("Retry-After", "")
    return RefusedError(
        f"HTTP {answer.status}" + (f": {words}" if words else ""),
        transient=answer.status not in PERMANENT,
        pause=float(pause) if pause.isascii() and pause.isdecimal() and len(pause) < 10 else 0.0,
    )


def place(url: str) -> str:
    """Give host and port of a URL, without what may be secret in it."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def rfc3339(seconds: float) -> str:
    """Give a Unix time as RFC 3339 has it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def document(incident: Incident, sender: Headers, ends: float | None) -> dict[str, Any]:
    """Give an alert as Alertmanager has it: labels that identify it, annotations that say what is to be read."""
    alert, labels = incident.alert, {name: text for name, text in incident.labels.items() if text}
    annotations = {
        "summary": incident.summary,
        "description": incident.message,
        "advice": incident.advice,
        "runbook": alert.runbook,
        "value": "" if incident.value is None else f"{incident.value:g}",
        "threshold": "" if incident.threshold is None else f"{incident.threshold:g}",
    }
    times = {"startsAt": rfc3339(incident.started)} | ({} if ends is None else {"endsAt": rfc3339(ends)})
    return {
        "labels": {**labels, **sender, "alertname": alert.name, "severity": alert.severity},
        "annotations": {name: text for name, text in annotations.items() if text},
        **times,
    }


class Alertmanager:
    """An Alertmanager: told of everything active again and again, and of what ended once."""

    name = "alertmanager"

    def __init__(
        self,
        url: str,
        token_file: str,
        sender: Headers,
        repeat_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.address = place(url)
        self.repeat_seconds = repeat_seconds
        self._sender = sender
        self._clock = clock
        self._poster = Poster(url.rstrip("/") + "/api/v2/alerts", {}, token_file)

    async def send(self, news: Sequence[Incident], active: Sequence[Incident]) -> None:
        """Send all alerts that are active and those that ended; raises RefusedError."""
        later = self._clock() + ENDS_AFTER * self.repeat_seconds
        # Those that ended go first: one of them may have begun again.
        documents = [document(old, self._sender, old.ended) for old in news if old.ended is not None]
        documents += [document(incident, self._sender, later) for incident in active]
        if documents:
            await self._poster.post(documents)

    async def close(self) -> None:
        """End the connection."""
        await self._poster.close()


class Webhook:
    """A URL that is told once of each beginning and each end, by the message Alertmanager sends to webhooks."""

    name = "webhook"
    repeat_seconds = math.inf

    def __init__(self, url: str, headers: Headers, token_file: str, sender: Headers) -> None:
        self.address = place(url)
        self._sender = sender
        self._poster = Poster(url, headers, token_file)

    async def send(self, news: Sequence[Incident], active: Sequence[Incident]) -> None:
        """Send what began and ended; raises RefusedError."""
        alerts = [
            {
                "status": "firing" if incident.ended is None else "resolved",
                # Receivers know an alert that goes on by the zero of Go's time.
                "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": "",
                **document(incident, self._sender, incident.ended),
            }
            for incident in news
        ]
        firing = any(incident.ended is None for incident in news)
        message = {
            "version": "4",
            "groupKey": f"gpumon/{self._sender.get('host', '')}",
            "truncatedAlerts": 0,
            "status": "firing" if firing else "resolved",
            "receiver": "gpumon",
            "groupLabels": self._sender,
            "commonLabels": self._sender,
            "commonAnnotations": {},
            "externalURL": "",
            "alerts": alerts,
        }
        await self._poster.post(message)

    async def close(self) -> None:
        """End the connection."""
        await self._poster.close()
