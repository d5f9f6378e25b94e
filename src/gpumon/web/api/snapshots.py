"""The newest snapshot as JSON: rendered once, when the first asks, and the same bytes for everyone."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import inf

from gpumon.catalog import BUILD, Entity, EntityKind, Histogram, Snapshot
from gpumon.export.exposition import Body, gzip_end, gzip_start, served
from gpumon.hub import Hub
from gpumon.web.api.times import iso


class NoSnapshotError(Exception):
    """There are no readings yet."""


class Snapshots:
    """Gives the hub's newest snapshot as JSON; belongs to the loop.

    Of a snapshot older than `stale_secs` only gpumon's own health is given, as by /metrics.
    `clock` is the one of `Snapshot.monotonic`.
    """

    def __init__(self, hub: Hub, stale_secs: float, clock: Callable[[], float]) -> None:
        self._hub = hub
        self._stale_secs = stale_secs
        self._clock = clock
        self._shown: tuple[Snapshot | None, bool] = (None, False)
        self._bodies: dict[bool, Body] = {}
        self.renders = 0

    @property
    def state(self) -> tuple[int, bool]:
        """Give the number of the newest snapshot, and whether it is stale. Raises NoSnapshotError."""
        snapshot = self._newest()
        return snapshot.number, self._age(snapshot) > self._stale_secs

    def fresh_for(self) -> float:
        """Give the seconds until the newest snapshot is stale; 0 when it is, or when there is none."""
        snapshot = self._hub.latest
        return 0.0 if snapshot is None else max(0.0, self._stale_secs - self._age(snapshot))

    def page(self, *, gzip: bool) -> bytes:
        """Give the newest snapshot as it is now. Raises NoSnapshotError."""
        snapshot = self._newest()
        age = self._age(snapshot)
        stale = age > self._stale_secs
        body = self._body(snapshot, stale, gzip=gzip)
        tail = f',"age_seconds":{age:.3f},"stale":{"true" if stale else "false"}}}'.encode()
        return gzip_end(body, tail) if gzip else body.content + tail

    def _newest(self) -> Snapshot:
        if self._hub.latest is None:
            raise NoSnapshotError
        return self._hub.latest

    def _age(self, snapshot: Snapshot) -> float:
        return max(self._clock() - snapshot.monotonic, 0.0)

    def _body(self, snapshot: Snapshot, stale: bool, *, gzip: bool) -> Body:
        if self._shown[0] is not snapshot or self._shown[1] is not stale:
            self._shown = (snapshot, stale)
            self._bodies = {}
        body = self._bodies.get(gzip)
        if body is None:
            plain = self._bodies.get(False)
            text = render(snapshot, fresh=not stale) if plain is None else plain.content
            self.renders += plain is None
            body = self._bodies[gzip] = gzip_start([text]) if gzip else Body(text)
        return body


def render(snapshot: Snapshot, *, fresh: bool) -> bytes:
    """Give a snapshot as a JSON object that is left open, for what differs from request to request.

    Of each kind its entities, each with its labels as text and what is known of its readings as numbers.
    """
    head = {"time": iso(snapshot.time), "sequence": snapshot.number, "driver": driver(snapshot)}
    kinds: dict[EntityKind, list[str]] = {}
    for entity in served(snapshot, fresh):
        kinds.setdefault(entity.kind, []).append(_text(entity))
    entities = ",".join(f'"{kind.name}":[{",".join(found)}]' for kind, found in kinds.items())
    return f'{_dumps(head)[:-1]},"entities":{{{entities}}}'.encode()


def driver(snapshot: Snapshot) -> str:
    """Give where the readings of GPUs come from."""
    builds = snapshot.of(BUILD)
    return builds[0].label("driver") if builds else "none"


# One encoder for all, because json.dumps makes one each time.
_dumps = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
# How the labels and the columns of a kind begin in an object.
_keys: dict[EntityKind, tuple[tuple[str, ...], tuple[str, ...]]] = {}


def _text(entity: Entity) -> str:
    """Write an entity by hand, which takes half the time of making an object first."""
    kind = entity.kind
    keys = _keys.get(kind)
    if keys is None:
        keys = _keys[kind] = (
            tuple(f'"{label.name}":' for label in kind.labels),
            tuple(f'"{name}":' for name in kind.index),
        )
    parts = [key + _dumps(text) for key, text in zip(keys[0], entity.labels, strict=True)]
    for key, value in zip(keys[1], entity.values, strict=True):
        if value is not None and -inf < value < inf:
            whole = int(value)
            parts.append(f"{key}{whole}" if whole == value else f"{key}{value!r}")
    for reading, histogram in zip(kind.histograms, entity.histograms, strict=False):
        if histogram is not None and histogram.believable:
            parts.append(f'"{reading.name}":{_dumps(distribution(histogram))}')
    return f"{{{','.join(parts)}}}"


def plain(value: float) -> float | int:
    """Give a whole number as such, because it is shorter to write."""
    whole = int(value)
    return whole if whole == value else value


def distribution(histogram: Histogram) -> dict[str, object]:
    """Give a distribution: `counts` has one number per bound, not accumulated, and one for what lies above the last."""
    return {
        "count": plain(histogram.count),
        "sum": plain(histogram.sum),
        "bounds": [plain(bound) for bound in histogram.bounds],
        "counts": [plain(count) for count in histogram.counts],
    }
