"""What a request is answered with: bytes once, then as each client may have them."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response

from gpumon.export.exposition import GZIP_LEVEL, accepts_gzip

# Below this a packet holds it anyway.
COMPRESS_BYTES = 1000
# Compressing this much takes a millisecond, which the loop can spare; what is larger goes to a thread.
LOOP_BYTES = 64_000

JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Content:
    """A document; `compressed` says that `data` is gzip's, `tag` stands for its state where that is not its bytes."""

    data: bytes
    media: str = JSON
    compressed: bool = False
    tag: str = ""
    cache: str = "no-cache"
    headers: Mapping[str, str] | None = None


def document(value: object) -> Content:
    """Give a value as JSON. Numbers that JSON cannot hold must not be in it."""
    return Content(json.dumps(value, separators=(",", ":"), allow_nan=False).encode())


def error(status: int, sentence: str, **headers: str) -> Response:
    """Give the answer to what went wrong, as JSON."""
    body = json.dumps({"error": sentence}).encode()
    headers |= {"Cache-Control": "no-store"}
    return Response(
        status=status, body=body, content_type=JSON, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


async def respond(request: BaseRequest, content: Content) -> Response:
    """Give the response with a document, compressed where the client takes that, or the word that it has it already."""
    tag = content.tag or f"{hash(content.data) & 0xFFFF_FFFF_FFFF_FFFF:x}"
    # Weak, because it is the same for all encodings.
    headers = {"ETag": f'W/"{tag}"', "Cache-Control": content.cache, "Vary": "Accept-Encoding"}
    headers |= content.headers or {}
    if _has(request.headers.get("If-None-Match", ""), tag):
        return Response(status=304, headers=headers)
    data, takes_gzip = content.data, accepts_gzip(request.headers.get("Accept-Encoding", ""))
    if content.compressed and not takes_gzip:
        data = zlib.decompress(data, zlib.MAX_WBITS | 16)
    elif content.compressed or (takes_gzip and len(data) >= COMPRESS_BYTES):
        headers["Content-Encoding"] = "gzip"
        if not content.compressed:
            data = await compress(data)
    return Response(body=data, headers=headers | {"Content-Type": content.media})


async def compress(data: bytes) -> bytes:
    """Give gzip's form of what may be large."""
    if len(data) <= LOOP_BYTES:
        return gzip.compress(data, GZIP_LEVEL, mtime=0)
    return await asyncio.to_thread(gzip.compress, data, GZIP_LEVEL, mtime=0)


def _has(if_none_match: str, tag: str) -> bool:
    """Say whether an If-None-Match header names a tag, weakly compared (RFC 9110, 13.1.2)."""
    return if_none_match.strip() == "*" or any(
        each.strip().removeprefix("W/") == f'"{tag}"' for each in if_none_match.split(",")
    )
