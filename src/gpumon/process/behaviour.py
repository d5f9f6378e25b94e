"""How a process uses its GPU, watched over time, in words that rules look at.

Thresholds are from how the kinds of work differ in NVIDIA's profiling counters: training keeps the tensor cores busy all
the time, answering requests comes in bursts, and writing an answer moves more memory than it computes.
They were tried on the simulated loads only (unverified on real ones).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

# Before so many seconds of watching nothing is said: loading a model looks like nothing else.
LEAST_SECONDS = 30.0
# What was long ago counts less and less: half after so many seconds.
HALF_LIFE_SECONDS = 120.0


class Watch:
    """Fading means of what one process does on a GPU."""

    __slots__ = ("_sums", "_watched", "_weights")

    def __init__(self) -> None:
        self._watched = 0.0
        self._sums = {"sm": 0.0, "worked": 0.0, "encoder": 0.0, "tensor": 0.0, "dram": 0.0}
        self._weights = dict.fromkeys(self._sums, 0.0)

    def add(self, seconds: float, sm: float | None, encoder: float | None) -> None:
        """Add a tick: percents, None for no sample, which is no work."""
        self._watched += seconds
        fade = 0.5 ** (seconds / HALF_LIFE_SECONDS)
        for name, value in (("sm", sm or 0.0), ("worked", 1.0 if sm else 0.0), ("encoder", encoder or 0.0)):
            self._put(name, value, seconds, fade)

    def add_profile(self, seconds: float, tensor: float | None, dram: float | None) -> None:
        """Add what the GPU did as a whole while this process alone worked on it, as shares of 1."""
        fade = 0.5 ** (seconds / HALF_LIFE_SECONDS)
        if tensor is not None and dram is not None:
            self._put("tensor", tensor, seconds, fade)
            self._put("dram", dram, seconds, fade)

    def _put(self, name: str, value: float, seconds: float, fade: float) -> None:
        self._sums[name] = self._sums[name] * fade + value * seconds
        self._weights[name] = self._weights[name] * fade + seconds

    def mean(self, name: str) -> float | None:
        """Give a fading mean; None when there was nothing to make it of."""
        weight = self._weights[name]
        return self._sums[name] / weight if weight else None

    def words(self) -> tuple[str, ...] | None:
        """Give what can be said of the behaviour; None before it was watched for long enough."""
        if self._watched < LEAST_SECONDS:
            return None
        return tuple(word for word, holds in WORDS.items() if holds(self))


def _over(name: str, limit: float) -> Callable[[Watch], bool]:
    return lambda watch: (watch.mean(name) or 0.0) > limit


def _computes(watch: Watch) -> bool | None:
    """Say whether it computes more than it moves memory; None where the GPU has no profiling counters."""
    tensor, dram = watch.mean("tensor"), watch.mean("dram")
    if tensor is None or dram is None or tensor + dram < 0.02:
        return None
    return tensor > 0.15 and dram < 1.5 * tensor


def _trains(watch: Watch) -> bool:
    # Without profiling counters only what never rests is taken for training.
    computes = _computes(watch)
    sm, worked = (70, 0.85) if computes else (85, 0.95)
    return computes is not False and _over("sm", sm)(watch) and _over("worked", worked)(watch)


def _answers(watch: Watch) -> bool:
    if not _over("sm", 3)(watch) or _trains(watch):
        return False
    computes = _computes(watch)
    return computes is False or (computes is None and not _over("worked", 0.8)(watch))


WORDS: Mapping[str, Callable[[Watch], bool]] = {
    "busy": _over("sm", 60),
    "steady": _over("worked", 0.9),
    "encoding": _over("encoder", 10),
    "trains": _trains,
    "answers": _answers,
}
