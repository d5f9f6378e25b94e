"""Asking a model server over HTTP: one short question with a time-out and a limit, and why there is no answer."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import aiohttp

# A page of TGI with its histogram of 1,024 buckets has 60 kB, one of vLLM with eight engines 300 kB.
LIMIT_BYTES = 8 << 20

# What a status means to someone who watches.
MEANINGS = {
    400: "refuses to say (400); a router of several models is not looked into",
    401: "needs an API key (401)",
    403: "does not allow it (403)",
    404: "not there (404)",
    429: "too busy to say (429)",
    501: "switched off (501)",
    503: "not ready (503)",
}

Json = object


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `body` where the status was 200, else why not; `status` is 0 where nothing came at all."""

    status: int
    body: bytes = b""
    trouble: str = ""

    @property
    def json(self) -> Json:
        """Give the body as JSON; None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class Client:
    """Asks servers. One for all, used on one event loop; `close` it.

    Takes no redirects and no proxies from the environment: only the server that was named is asked.
    """

    def __init__(self, timeout: float) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=timeout),
            # Unpacking costs more than reading what comes from this machine anyway.
            headers={"Accept": "text/plain;version=0.0.4, */*", "Accept-Encoding": "identity"},
        )

    async def get(self, url: str) -> Answer:
        """Give what GET answers; raises nothing."""
        return await self._ask("GET", url)

    async def post(self, url: str, question: dict[str, str]) -> Answer:
        """Give what POST answers to a JSON object; raises nothing."""
        return await self._ask("POST", url, json=question)

    async def _ask(self, method: str, url: str, **more: dict[str, str]) -> Answer:
        try:
            async with self._session.request(method, url, allow_redirects=False, **more) as response:  # type: ignore[arg-type]
                if response.status != 200:
                    status = response.status
                    return Answer(status, trouble=MEANINGS.get(status, f"answers with status {status}"))
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > LIMIT_BYTES:
                        return Answer(0, trouble=f"answers with more than {LIMIT_BYTES >> 20} MiB")
                return Answer(200, bytes(body))
        except TimeoutError:
            return Answer(0, trouble="does not answer in time")
        except aiohttp.ClientConnectorError as error:
            return Answer(0, trouble=f"cannot be reached ({_reason(error.os_error)})")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(0, trouble=f"does not speak HTTP ({type(error).__name__})")

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()


def _reason(error: OSError) -> str:
    """Give the system's words; asyncio puts its own in their place, with an address that is said already."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)


def dig(answer: Json, path: str) -> list[str]:
    """Give the texts at a path of keys joined by dots, `*` for all members of a list; empty if it is not there."""
    found: list[Json] = [answer]
    for key in path.split("."):
        if key == "*":
            found = [member for some in found if isinstance(some, list) for member in some]
        else:
            found = [some[key] for some in found if isinstance(some, dict) and key in some]
    return [str(some) for some in found if some is not None]
