"""Basic auth against bcrypt hashes, which are slow on purpose: checked off the loop, one at a time, and remembered."""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from hmac import compare_digest
from secrets import token_bytes

import bcrypt

# Wrong passwords remembered, so that a client that keeps sending one costs one check; what is beyond is forgotten.
MOST_WRONG = 100
# Checks that may wait for their turn; at a usual cost of 10 that is half a second.
MOST_WAITING = 8
# bcrypt looks at no more bytes than these, and the library refuses longer passwords.
LONGEST_PASSWORD = 72
# Salt and digest of no password, to give an unknown name the same time as a known one.
NOBODY = "." * 53


class BusyError(Exception):
    """Too many passwords are waiting to be checked."""


class Passwords:
    """Checks names and passwords against users' bcrypt hashes; keeps no password, only keyed hashes of them."""

    def __init__(self) -> None:
        self._key = token_bytes(32)
        self._right: dict[str, bytes] = {}
        self._wrong: dict[bytes, None] = {}
        self._turn = asyncio.Lock()
        self._waiting = 0
        # A thread of its own: in the loop's shared ones, checks would wait behind whatever else hangs there.
        self._thread = ThreadPoolExecutor(1, "gpumon-passwords")

    async def match(self, authorization: str, users: Mapping[str, str]) -> bool:
        """Say whether an Authorization header has one of `users` and the right password; BusyError when too many ask."""
        try:
            name, password = _credentials(authorization)
        except ValueError:
            return False
        stored = users.get(name) or _nobody(users)
        digest = blake2b(b"\0".join((name.encode(), stored.encode(), password)), key=self._key).digest()
        known = self._recall(name, digest)
        if known is not None:
            return known
        if self._waiting >= MOST_WAITING:
            raise BusyError
        self._waiting += 1
        try:
            async with self._turn:
                known = self._recall(name, digest)  # who waited before us may have asked the same
                if known is None:
                    known = await self._check(password, stored) and name in users
                    self._remember(name, digest, known)
        finally:
            self._waiting -= 1
        return known

    def close(self) -> None:
        """End the thread, once a check under way is done."""
        self._thread.shutdown(wait=False)

    async def _check(self, password: bytes, stored: str) -> bool:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, bcrypt.checkpw, password[:LONGEST_PASSWORD], stored.encode())

    def _recall(self, name: str, digest: bytes) -> bool | None:
        if compare_digest(self._right.get(name, b""), digest):
            return True
        return False if digest in self._wrong else None

    def _remember(self, name: str, digest: bytes, right: bool) -> None:
        if right:
            self._right[name] = digest
            return
        while len(self._wrong) >= MOST_WRONG:
            del self._wrong[next(iter(self._wrong))]
        self._wrong[digest] = None


def _credentials(authorization: str) -> tuple[str, bytes]:
    """Take name and password out of a header (RFC 7617); ValueError when it is none of basic auth."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise ValueError(scheme)
    try:
        name, colon, password = b64decode(encoded.strip(), validate=True).partition(b":")
    except binascii.Error as error:
        raise ValueError(encoded) from error
    if not colon:
        raise ValueError(encoded)
    return name.decode(), password


def _nobody(users: Mapping[str, str]) -> str:
    """Give a hash that nobody's password has, as costly as the costliest of `users`."""
    return f"$2b${max(stored[4:6] for stored in users.values())}${NOBODY}"
