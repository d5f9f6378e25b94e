"""Who may ask: names this gpumon is asked by, sites whose pages may read it, the token."""

from __future__ import annotations

import hmac
import socket
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response

from gpumon.settings import Api, SettingsError
from gpumon.web.api.answer import error

# What a page of another site may send, and how long its browser may remember that.
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "Authorization, If-None-Match",
    "Access-Control-Max-Age": "600",
}
# A shorter one can be guessed by trying.
SHORTEST_TOKEN = 16


class Guard:
    """Refuses what may not pass. SettingsError where the settings cannot be used."""

    def __init__(self, settings: Api) -> None:
        self._token = token(settings).encode()
        self._origins = frozenset(origin.rstrip("/").lower() for origin in settings.allowed_origins.split())
        names = settings.allowed_hosts.lower().split()
        self._any_host = "*" in names
        self._names = frozenset(("localhost", socket.gethostname().lower(), *names))

    @property
    def asks_token(self) -> bool:
        """Say whether requests need a token."""
        return bool(self._token)

    def refuse(self, request: BaseRequest) -> Response | None:
        """Give the answer to a request that may not pass, whatever it is for; None to one that may.

        A page of another site may make its own name resolve to this machine (DNS rebinding): then its browser takes it
        for one origin with us, but the Host header still says that name. An address is nobody's name.
        """
        host = request.headers.get("Host", "")
        if not self._any_host and _name(host) not in self._names and not _is_address(_name(host)):
            return error(403, f"Host {_shown(host)} is not a name of this gpumon: add it to api.allowed_hosts")
        origin = request.headers.get("Origin")
        if origin is not None and not self._is_own(origin, host) and not self._is_listed(origin):
            return error(403, f"Origin {_shown(origin)} is another site: add it to api.allowed_origins")
        # An image or a script of another site's page names no origin; it could not be read, but would keep us at work.
        if origin is None and _fetched_by_another_site(request):
            return error(403, "a page of another site asks: add its origin to api.allowed_origins, and ask by CORS")
        return None

    def refuse_stranger(self, request: BaseRequest) -> Response | None:
        """Give the answer to a request without the token where one is needed."""
        if not self._token:
            return None
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(
            given.strip().encode("utf-8", "surrogateescape"), self._token
        ):
            return None
        return error(401, "a token is needed: Authorization: Bearer <api.token>", WWW_Authenticate="Bearer")

    def headers(self, request: BaseRequest) -> dict[str, str]:
        """Give the headers by which a browser lets the page of a listed site read the answer."""
        if not self._origins:
            return {}
        origin = request.headers.get("Origin", "")
        if not self._is_listed(origin):
            return {"Vary": "Origin"}
        return {"Vary": "Origin", "Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": "ETag"}

    def _is_own(self, origin: str, host: str) -> bool:
        return "://" in origin and origin.partition("://")[2].lower() == host.lower()

    def _is_listed(self, origin: str) -> bool:
        return origin.lower() in self._origins


def _fetched_by_another_site(request: BaseRequest) -> bool:
    """Say whether a browser says so; not of a link that somebody follows, which shows the answer to that person."""
    sent = request.headers
    return sent.get("Sec-Fetch-Site") == "cross-site" and sent.get("Sec-Fetch-Mode") != "navigate"


def token(settings: Api) -> str:
    """Give the token, "" for none. SettingsError where it cannot be read or used."""
    found, where = settings.token, "api.token"
    if settings.token_file:
        where = f"the token in {settings.token_file} (api.token_file)"
        if settings.token:
            raise SettingsError("api.token and api.token_file are both set; allowed is one of them.")
        try:
            found = Path(settings.token_file).expanduser().read_text(encoding="utf-8").split("\n", 1)[0].strip()
        except (OSError, ValueError) as failure:
            reason = failure.strerror if isinstance(failure, OSError) else "it is no text"
            raise SettingsError(f"Cannot read api.token_file {settings.token_file}: {reason}.") from None
    if (found or settings.token_file) and (len(found) < SHORTEST_TOKEN or not found.isascii() or " " in found):
        raise SettingsError(
            f"{where} cannot be used; allowed are {SHORTEST_TOKEN} ASCII characters or more, without blanks."
        )
    return found


def is_open(settings: Api) -> bool:
    """Say whether others than this machine can reach the API, and need no token."""
    local = settings.address == "localhost" or (
        _is_address(settings.address) and ip_address(settings.address).is_loopback
    )
    return not local and not settings.token and not settings.token_file


def _name(host: str) -> str:
    """Give the name in a Host header, without port and brackets; "" when it is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _shown(text: str) -> str:
    return '"' + "".join(c if c.isprintable() else "?" for c in text[:100]) + '"'
