"""One gRPC call over a Unix socket: HTTP/2 (RFC 9113) as far as a single unary call needs it.

grpcio would do it for 22 MB of memory, half of all that gpumon takes; this is for one small question to the kubelet.
Response headers are compressed (HPACK) and are not read: a call has worked when a whole message came.
"""

from __future__ import annotations

import asyncio
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 0x1
END_HEADERS, PADDED = 0x4, 0x8
_ENABLE_PUSH, _INITIAL_WINDOW_SIZE = 2, 4
STREAM = 1

# An answer for a thousand pods is some 300 kB; what is longer than this is no answer.
MOST_BYTES = 16 << 20
# The largest frame a peer may send that was not asked for larger ones.
MOST_FRAME_BYTES = 1 << 14


class GrpcError(Exception):
    """A call that brought no answer; the message says why, to follow "the kubelet"."""


async def call(path: str, method: str, request: bytes, timeout: float) -> bytes:
    """Give the answer of a method, as in /v1.PodResourcesLister/List, of the server at a Unix socket.

    Raises GrpcError; takes no longer than `timeout` seconds.
    """
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(_opening(method, request))
                return _message(await _answer(reader, writer))
            finally:
                writer.close()
    except TimeoutError:
        raise GrpcError(f"does not answer within {timeout:g} s") from None
    except FileNotFoundError:
        raise GrpcError(f"has no socket at {path}") from None
    except asyncio.IncompleteReadError:
        raise GrpcError("ended the connection") from None
    except OSError as error:
        raise GrpcError(f"cannot be reached: {error.strerror or error}") from None


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Give one HTTP/2 frame."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def _opening(method: str, request: bytes) -> bytes:
    """Give all that is sent: settings, room for the answer, headers, and the message."""
    settings = struct.pack(">HIHI", _ENABLE_PUSH, 0, _INITIAL_WINDOW_SIZE, MOST_BYTES)
    headers = b"".join(
        (
            b"\x83\x86",  # :method POST and :scheme http, of HPACK's static table (RFC 7541, appendix A)
            _literal(b"\x04", method),  # :path
            _literal(b"\x01", "localhost"),  # :authority
            _literal(b"\x0f\x10", "application/grpc"),  # content-type
            b"\x00" + _text("te") + _text("trailers"),
        )
    )
    message = struct.pack(">BI", 0, len(request)) + request
    return b"".join(
        (
            PREFACE,
            frame(SETTINGS, 0, 0, settings),
            frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", MOST_BYTES)),
            frame(HEADERS, END_HEADERS, STREAM, headers),
            frame(DATA, END_STREAM, STREAM, message),
        )
    )


def _literal(name: bytes, value: str) -> bytes:
    """Give a header that is not to be indexed, by the static table's name."""
    return name + _text(value)


def _text(text: str) -> bytes:
    data = text.encode()
    assert len(data) < 127  # longer ones have their length in several bytes
    return bytes((len(data),)) + data


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Read frames until the stream ends, and give its data."""
    data = bytearray()
    while True:
        length_kind, flags, stream = struct.unpack(">IBI", await reader.readexactly(9))
        length, kind = length_kind >> 8, length_kind & 0xFF
        if length > MOST_FRAME_BYTES:
            raise GrpcError("does not speak gRPC")
        payload = await reader.readexactly(length)
        if kind == SETTINGS and not flags & ACK:
            writer.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            writer.write(frame(PING, ACK, 0, payload))
        elif kind in (RST_STREAM, GOAWAY):
            raise GrpcError("refused to answer")
        elif kind == DATA and stream & 0x7FFFFFFF == STREAM:
            data += payload[1 : length - payload[0]] if flags & PADDED and payload else payload
            if len(data) > MOST_BYTES:
                raise GrpcError("answered more than 16 MiB")
        if kind in (DATA, HEADERS) and stream & 0x7FFFFFFF == STREAM and flags & END_STREAM:
            return bytes(data)


def _message(data: bytes) -> bytes:
    """Give the message of a stream; a call that failed has none."""
    if len(data) < 5:
        raise GrpcError("refused to answer: it may not have this API")
    compressed, length = struct.unpack_from(">BI", data)
    if compressed or length != len(data) - 5:
        raise GrpcError("answered garbage")
    return data[5:]
