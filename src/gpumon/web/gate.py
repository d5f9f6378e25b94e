"""What a web-config file puts before a port: TLS, client certificates, rate limit, login, headers."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response

from gpumon.log import Onsets
from gpumon.settings import SettingsError
from gpumon.web.passwords import BusyError, Passwords
from gpumon.web.tls import names_in, server_context
from gpumon.web.webconfig import WebConfig, load_web_config, state

# How long a changed file may go unnoticed; looking takes some microseconds per file.
LOOK_SECS = 1.0
# How long until a wrong one is read again, which takes some milliseconds.
RETRY_SECS = 10.0


class Gate:
    """Holds a web-config in force; when its file or one that it names changes, the new one, if it is right."""

    def __init__(self, config: WebConfig, clock: Callable[[], float]) -> None:
        self._take(config)
        self._clock = clock
        self._looked = clock()
        self._troubles = Onsets(structlog.get_logger())
        self._passwords = Passwords()
        self._tokens = float(config.rate_limit[1]) if config.rate_limit else 0.0
        self._filled = clock()

    def _take(self, config: WebConfig) -> None:
        self._config = config
        self._context = server_context(config.tls) if config.tls else None

    def close(self) -> None:
        """Let go of what runs."""
        self._passwords.close()

    def context(self) -> ssl.SSLContext | None:
        """Give the TLS settings for the next connection; None is no TLS."""
        self._look()
        return self._context

    def admits(self, certificate: Mapping[str, Any]) -> bool:
        """Say whether a client certificate, verified already, has one of the names that are allowed."""
        allowed = self._config.allowed_sans
        return allowed is None or not allowed.isdisjoint(names_in(certificate))

    @property
    def headers(self) -> Mapping[str, str]:
        """Give the headers that every response gets."""
        return self._config.headers

    async def refuse(self, request: BaseRequest) -> Response | None:
        """Give the answer to a request that may not pass, None to one that may."""
        self._look()
        if not self._take_token():
            return Response(status=429, text="too many requests: see rate_limit in the web-config file\n")
        users = self._config.users
        if not users:
            return None
        try:
            if await self._passwords.match(request.headers.get("Authorization", ""), users):
                return None
        except BusyError:
            return Response(status=503, text="too many logins at once\n")
        return Response(status=401, text="name and password needed\n", headers={"WWW-Authenticate": "Basic"})

    def _take_token(self) -> bool:
        """Count a request against the rate limit, a bucket that holds `burst` and gets one token per interval."""
        if self._config.rate_limit is None:
            return True
        interval, burst = self._config.rate_limit
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._filled) / interval, burst)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _look(self) -> None:
        """Take up changed files; a mistake in them is said once, and what was in force stays in force."""
        now = self._clock()
        if now - self._looked < LOOK_SECS:
            return
        self._looked = now
        if all(state(path) == known for path, known in self._config.files):
            return
        try:
            config = load_web_config(self._config.path)
            if (config.tls is None) != (self._config.tls is None):
                raise SettingsError(f"Web-config file {config.path} switches TLS on or off, which takes a restart.")
        except SettingsError as error:
            self._looked += RETRY_SECS
            self._troubles.fail("web-config", "changed web-config not taken up", reason=str(error))
        else:
            self._take(config)
            self._troubles.mend("web-config", "changed web-config taken up")
