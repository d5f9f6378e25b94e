"""The pages scrapers get: rendered once per snapshot and encoding, when the first asks; only the age is added later."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from struct import pack
from typing import TYPE_CHECKING

from gpumon.catalog import AGE, DAEMON, HEALTH_KINDS, KINDS, SNAPSHOT_AGE, UP, Entity, Snapshot
from gpumon.export.prometheus import Form, Renderer, families, number
from gpumon.hub import Hub

if TYPE_CHECKING:
    from gpumon.export.dcgm import Dcgm

# A longer header is no scraper's (Prometheus's have 50 to 250 characters) and not worth the time to read.
LONGEST_HEADER = 1024
# gzip level: 1 takes 0.7 ms for 2,000 series; 6 takes 2.1 ms to save one byte in eight.
GZIP_LEVEL = 1

# A snapshot older than this many ticks is neither served nor sent.
STALE_TICKS = 3

DOWN = Entity(DAEMON, (), tuple(0.0 if column.reading is UP else None for column in DAEMON.columns))


@dataclass(frozen=True, slots=True)
class Body:
    """A rendered page without its tail: as sent; checksum and size of what is compressed are for the end of it."""

    content: bytes
    checksum: int = 0
    size: int = 0


class Exposition:
    """Gives the page of the hub's newest snapshot; belongs to the loop, so that concurrent scrapers share one render.

    A snapshot older than `stale_secs` is withheld: then gpumon's own health is all that is served, with `gpumon_up` 0.
    `clock` is the one of `Snapshot.monotonic`. `dcgm` adds the readings under dcgm-exporter's names.
    """

    def __init__(self, hub: Hub, stale_secs: float, clock: Callable[[], float], dcgm: Dcgm | None = None) -> None:
        self._hub = hub
        self._stale_secs = stale_secs
        self._clock = clock
        self._dcgm = dcgm
        kinds = [kind for kind in KINDS if kind is not AGE]
        self._renderer = Renderer(kinds if dcgm is None else (*kinds, *dcgm.kinds))
        (self._age,) = families((AGE,))
        self._age_name = AGE.metric(SNAPSHOT_AGE)
        self._shown: tuple[Snapshot | None, bool] = (None, False)
        self._bodies: dict[tuple[Form, bool], Body] = {}
        self.renders: Counter[tuple[Form, bool]] = Counter()  # bodies made so far, by form and whether compressed

    def page(self, form: Form, gzip: bool) -> bytes:
        """Give the page as of now; costs a copy of it, and the first time of a snapshot about 1 ms per 1,000 series."""
        snapshot = self._hub.latest
        age = None if snapshot is None else max(self._clock() - snapshot.monotonic, 0.0)
        shown = (snapshot, age is not None and age <= self._stale_secs)
        if shown[0] is not self._shown[0] or shown[1] is not self._shown[1]:
            self._shown = shown
            self._bodies.clear()
        body = self._body(form, gzip)
        tail = self._tail(form, age)
        return gzip_end(body, tail) if gzip else body.content + tail

    def _body(self, form: Form, gzip: bool) -> Body:
        body = self._bodies.get((form, gzip))
        if body is None:
            families = self._renderer.render(self._entities(*self._shown), form)
            body = gzip_start(families) if gzip else Body(b"".join(families))
            self._bodies[form, gzip] = body
            self.renders[form, gzip] += 1
        return body

    def _entities(self, snapshot: Snapshot | None, fresh: bool) -> list[Entity]:
        entities = served(snapshot, fresh)
        if self._dcgm is not None and snapshot is not None and fresh:
            entities += self._dcgm.entities(snapshot)
        return entities

    def _tail(self, form: Form, age: float | None) -> bytes:
        text = "" if age is None else f"{self._age.headers[form]}{self._age_name} {number(round(age, 3))}\n"
        return (text + "# EOF\n" if form is Form.OPENMETRICS else text).encode()


def served(snapshot: Snapshot | None, fresh: bool) -> list[Entity]:
    """Give what is told of a snapshot: all of one that is fresh, else gpumon's own health, as one that is down."""
    if snapshot is None:
        return [DOWN]
    if fresh:
        return list(snapshot.entities)
    health = [
        _down(entity) if entity.kind is DAEMON else entity
        for entity in snapshot.entities
        if entity.kind in HEALTH_KINDS
    ]
    return health if snapshot.of(DAEMON) else [*health, DOWN]


def _down(daemon: Entity) -> Entity:
    up = DAEMON.index[UP.name]
    return replace(daemon, values=(*daemon.values[:up], 0.0, *daemon.values[up + 1 :]))


def gzip_start(families: Iterable[bytes]) -> Body:
    """Compress all but the tail, piece by piece so that the whole is never in memory."""
    compressor = zlib.compressobj(GZIP_LEVEL, wbits=zlib.MAX_WBITS | 16)
    pieces, checksum, size = [], 0, 0
    for family in families:
        pieces.append(compressor.compress(family))
        checksum = zlib.crc32(family, checksum)
        size += len(family)
    # This flush ends at a whole byte, so that a block with the tail can follow.
    pieces.append(compressor.flush(zlib.Z_SYNC_FLUSH))
    return Body(b"".join(pieces), checksum, size)


def gzip_end(body: Body, tail: bytes) -> bytes:
    """Append the tail as a last, stored block, and gzip's trailer (RFC 1952): one ordinary gzip stream.

    A second gzip member would be shorter to write, but not every client reads past the first.
    """
    size = len(tail)
    block = pack("<BHH", 1, size, size ^ 0xFFFF)
    trailer = pack("<II", zlib.crc32(tail, body.checksum), (body.size + size) & 0xFFFFFFFF)
    return b"".join((body.content, block, tail, trailer))


def choose_form(accept: str) -> Form:
    """Give the form that an Accept header likes best: OpenMetrics 1.x where it is asked for by name, else text."""
    text = openmetrics = 0.0
    for name, parameters in _weighted(accept):
        quality = _quality(parameters)
        if name == "application/openmetrics-text" and parameters.get("version", "1.").strip('"').startswith("1."):
            openmetrics = max(openmetrics, quality)
        elif name == "text/plain":
            text = max(text, quality)
    return Form.OPENMETRICS if openmetrics > 0 and openmetrics >= text else Form.TEXT


def accepts_gzip(accept_encoding: str) -> bool:
    """Say whether an Accept-Encoding header allows gzip."""
    offers = {name: _quality(parameters) for name, parameters in _weighted(accept_encoding)}
    return offers.get("gzip", offers.get("*", 0.0)) > 0


def _weighted(header: str) -> list[tuple[str, dict[str, str]]]:
    """Split a header of alternatives into names and their parameters; one too long for a scraper's counts as empty."""
    found = []
    for item in header.lower().split(",") if len(header) <= LONGEST_HEADER else ():
        name, *parameters = (part.strip() for part in item.split(";"))
        found.append((name, dict(p.split("=", 1) for p in parameters if "=" in p)))
    return found


def _quality(parameters: dict[str, str]) -> float:
    try:
        return float(parameters.get("q", "1"))
    except ValueError:
        return 0.0
