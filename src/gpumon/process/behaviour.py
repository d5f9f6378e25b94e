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
    """Fading means of what one process does on a GPU: `sm` and `encoder` in percent, the others as shares of 1.

    `tensor` and `dram` are of the GPU as a whole while this process alone worked on it; None where they are not known.
    """

    __slots__ = ("_profiled", "_watched", "_weight", "dram", "encoder", "sm", "tensor", "worked")

    def __init__(self) -> None:
        self._watched = self._weight = self._profiled = 0.0
        self.sm = self.worked = self.encoder = 0.0
        self.tensor: float | None = None
        self.dram: float | None = None

    def add(self, seconds: float, sm: float | None, encoder: float | None) -> None:
        """Add a tick; None for no sample, which is no work."""
        self._watched += seconds
        self._weight = self._weight * 0.5 ** (seconds / HALF_LIFE_SECONDS) + seconds
        part = seconds / self._weight
        self.sm += ((sm or 0.0) - self.sm) * part
        self.worked += ((1.0 if sm else 0.0) - self.worked) * part
        self.encoder += ((encoder or 0.0) - self.encoder) * part

    def add_profile(self, seconds: float, tensor: float | None, dram: float | None) -> None:
        """Add what the GPU did as a whole while this process alone worked on it."""
        if tensor is None or dram is None:
            return
        self._profiled = self._profiled * 0.5 ** (seconds / HALF_LIFE_SECONDS) + seconds
        part = seconds / self._profiled
        self.tensor = tensor if self.tensor is None else self.tensor + (tensor - self.tensor) * part
        self.dram = dram if self.dram is None else self.dram + (dram - self.dram) * part

    def words(self) -> tuple[str, ...] | None:
        """Give what can be said of the behaviour; None before it was watched for long enough."""
        if self._watched < LEAST_SECONDS:
            return None
        return tuple(word for word, holds in WORDS.items() if holds(self))


def _computes(watch: Watch) -> bool | None:
    """Say whether it computes more than it moves memory; None where the GPU has no profiling counters."""
    if watch.tensor is None or watch.dram is None or watch.tensor + watch.dram < 0.02:
        return None
    return watch.tensor > 0.15 and watch.dram < 1.5 * watch.tensor


def _trains(watch: Watch) -> bool:
    # Without profiling counters only what never rests is taken for training.
    computes = _computes(watch)
    sm, worked = (70, 0.85) if computes else (85, 0.95)
    return computes is not False and watch.sm > sm and watch.worked > worked


def _answers(watch: Watch) -> bool:
    if watch.sm <= 3 or _trains(watch):
        return False
    computes = _computes(watch)
    return computes is False or (computes is None and watch.worked <= 0.8)


WORDS: Mapping[str, Callable[[Watch], bool]] = {
    "busy": lambda watch: watch.sm > 60,
    "steady": lambda watch: watch.worked > 0.9,
    "encoding": lambda watch: watch.encoder > 10,
    "trains": _trains,
    "answers": _answers,
}
