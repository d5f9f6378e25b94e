"""Labels of this node's pods, from the API server; only where the settings ask for some.

Asked for one node only (a field selector), and only for metadata: with PartialObjectMetadata the server sends neither
specs nor environments. It also says which UID is which pod, so that sharing pods are always told apart.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    import aiohttp

# Where Kubernetes puts a pod's own credentials.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_SECS = 10.0
# A node has some hundred pods of a few kB of metadata each.
MOST_BYTES = 32 << 20
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"


class ApiError(Exception):
    """The API server did not say; the message says why, to follow "the API server"."""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod by its UID, with those of its labels that were asked for."""

    namespace: str
    name: str
    labels: tuple[tuple[str, str], ...]


class ApiServer:
    """Kubernetes's API server, as a pod reaches it: by environment, with its service account."""

    def __init__(
        self, node: str, wanted: frozenset[str], environ: Mapping[str, str] = os.environ, account: Path = ACCOUNT
    ) -> None:
        self._node = node
        self._wanted = wanted
        self._environ = environ
        self._account = account
        self._session: aiohttp.ClientSession | None = None

    async def pods(self) -> dict[str, PodFacts]:
        """Give the pods of the node by UID. Raises ApiError."""
        host, port = self._environ.get("KUBERNETES_SERVICE_HOST"), self._environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise ApiError("is not known: gpumon does not run in Kubernetes")
        place = f"[{host}]" if ":" in host else host
        selector = quote(f"spec.nodeName={self._node}", safe="")
        url = f"https://{place}:{port}/api/v1/pods?fieldSelector={selector}&resourceVersion=0"
        return _pods(await self._get(url), self._wanted)

    async def _get(self, url: str) -> bytes:
        import aiohttp

        try:
            # Tokens are renewed in place, so they are read each time.
            headers = {"Authorization": f"Bearer {self._token()}", "Accept": METADATA_ONLY}
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECS)
            async with (await self._connect()).get(url, headers=headers, timeout=timeout) as answer:
                if answer.status != 200:
                    raise ApiError(_refusal(answer.status))
                body = await answer.content.read(MOST_BYTES)
                while (more := await answer.content.read(MOST_BYTES)) and len(body) < MOST_BYTES:
                    body += more
                return body
        except TimeoutError:
            raise ApiError(f"does not answer within {TIMEOUT_SECS:g} s") from None
        except (OSError, aiohttp.ClientError) as error:
            raise ApiError(f"cannot be reached: {type(error).__name__}") from None

    async def _connect(self) -> aiohttp.ClientSession:
        import ssl

        import aiohttp

        if self._session is None:
            try:
                # Reading the certificate blocks, for a moment and once.
                context = await asyncio.to_thread(ssl.create_default_context, cafile=str(self._account / "ca.crt"))
            except OSError:
                raise ApiError(f"cannot be asked: no certificate at {self._account}/ca.crt") from None
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=1))
        return self._session

    def _token(self) -> str:
        try:
            return (self._account / "token").read_text().strip()
        except OSError:
            raise ApiError(f"cannot be asked: no service account token at {self._account}/token") from None

    async def close(self) -> None:
        """End the connection."""
        if self._session is not None:
            await self._session.close()


def _refusal(status: int) -> str:
    if status in (401, 403):
        return f"refused ({status}): the service account needs the right to list pods"
    return f"answered {status}"


def _pods(body: bytes, wanted: frozenset[str]) -> dict[str, PodFacts]:
    found = {}
    try:
        for item in json.loads(body)["items"]:
            metadata = item["metadata"]
            labels = metadata.get("labels") or {}
            chosen = tuple(sorted((str(key), str(value)) for key, value in labels.items() if key in wanted))
            facts = PodFacts(str(metadata["namespace"]), str(metadata["name"]), chosen)
            found[str(metadata["uid"])] = facts
            # A static pod's processes carry the hash of its manifest instead of the UID that the API server gave it.
            static = (metadata.get("annotations") or {}).get("kubernetes.io/config.hash")
            if static:
                found[str(static)] = facts
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ApiError("answered garbage") from None
    return found
