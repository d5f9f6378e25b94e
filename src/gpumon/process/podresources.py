"""What the kubelet's PodResources API says: which container was given which device (podresources.proto)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gpumon.process.grpc import GrpcError, call

METHOD = "/v1.PodResourcesLister/List"

# Who gives GPUs: NVIDIA's device plugin by resources of this prefix, its DRA driver by this name.
PREFIX, DRIVER = "nvidia.com/", "gpu.nvidia.com"


@dataclass(frozen=True, slots=True)
class Allocation:
    """A device that a container was given; `resource` is what it asked for, or its claim."""

    namespace: str
    pod: str
    container: str
    resource: str
    device: str


async def allocations(socket: str, further: frozenset[str], timeout: float) -> tuple[Allocation, ...]:
    """Ask the kubelet for the GPUs it gave away; `further` names resources that do not begin with nvidia.com/.

    Raises GrpcError.
    """
    return decode(await call(socket, METHOD, b"", timeout), further)


def decode(message: bytes, further: frozenset[str] = frozenset()) -> tuple[Allocation, ...]:
    """Give the GPUs in a ListPodResourcesResponse. Raises GrpcError for what is none."""
    try:
        return tuple(_allocations(message, further))
    except (ValueError, IndexError, UnicodeDecodeError):
        raise GrpcError("answered garbage") from None


def _allocations(message: bytes, further: frozenset[str]) -> Iterator[Allocation]:
    for pod in _parts(message, 1):
        name, namespace = _text(pod, 1), _text(pod, 2)
        for container in _parts(pod, 3):
            of = _text(container, 1)
            for devices in _parts(container, 2):
                resource = _text(devices, 1)
                if resource.startswith(PREFIX) or resource in further:
                    for device in _parts(devices, 2):
                        yield Allocation(namespace, name, of, resource, device.decode())
            for claim in _parts(container, 5):
                for result in _parts(claim, 4):
                    if _text(result, 2) == DRIVER:
                        yield Allocation(namespace, name, of, f"claim/{_text(claim, 2)}", _text(result, 4))


def _parts(message: bytes, wanted: int) -> Iterator[bytes]:
    """Give the values of a field that are messages, texts or bytes."""
    for number, value in _fields(message):
        if number == wanted:
            if isinstance(value, int):
                raise ValueError("a number where a message should be")
            yield value


def _text(message: bytes, wanted: int) -> str:
    return (list(_parts(message, wanted)) or [b""])[-1].decode()  # of several the last counts


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Give the fields of a protobuf message, by number (protobuf.dev/programming-guides/encoding)."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if not number:
            raise ValueError("field 0")
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == 2:
            length, position = _varint(message, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if position + length > len(message):
            raise ValueError("ends too early")
        yield number, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number too long")
