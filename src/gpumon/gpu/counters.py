"""What is kept between readings: counters that never wrap, integrals that never go back. Kept per device, across re-opening."""

from __future__ import annotations

from collections.abc import Hashable


class DriverCounter:
    """A counter of the driver, made to go on where its register wraps."""

    __slots__ = ("_last", "_offset")

    def __init__(self) -> None:
        self._last: float | None = None
        self._offset = 0

    def advance(self, raw: float, bits: int) -> float:
        """Take the newest raw value of a register of `bits` bits and give the count.

        A value below the last one is a wrap when it went from the register's upper half to its lower one;
        otherwise the counter was reset (driver reloaded), and counts from its own zero again.
        """
        last = self._last
        if last is not None and raw < last:
            half = 1 << (bits - 1)
            self._offset = self._offset + (1 << bits) if last >= half > raw else 0
        self._last = raw
        return raw + self._offset


class Integral:
    """A rate integrated over time, from the first reading on."""

    __slots__ = ("_rate", "_time", "total")

    def __init__(self) -> None:
        self.total = 0.0
        self._time: float | None = None
        self._rate = 0.0

    def advance(self, rate: float, time: float, longest_gap: float) -> float:
        """Add the time since the last reading at the mean of both rates, and give the total.

        Over a gap longer than `longest_gap` seconds nothing is known, and nothing is added.
        """
        if self._time is not None and 0 < time - self._time <= longest_gap:
            self.total += (self._rate + rate) / 2 * (time - self._time)
        self._time, self._rate = time, rate
        return self.total


class Ledger:
    """All that is kept of one device, by what it counts. Used by one thread at a time."""

    def __init__(self) -> None:
        self._counters: dict[Hashable, DriverCounter] = {}
        self.busy_seconds = 0.0
        self.busy_polled = Integral()
        self.energy = Integral()
        self.times_lost = 0

    def counter(self, key: Hashable) -> DriverCounter:
        """Give the counter of that key, a new one at first."""
        return self._counters.setdefault(key, DriverCounter())
