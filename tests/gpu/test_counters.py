"""Counters never lose what a register's wrap hides, and start anew when the driver does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpumon.gpu.counters import DriverCounter, Integral


@given(
    st.sampled_from((32, 64)).flatmap(
        lambda bits: st.tuples(
            st.just(bits),
            st.integers(0, (1 << bits) - 1),
            # Less than half a register per step: what a wrap can be told from a reset by.
            st.lists(st.integers(0, (1 << (bits - 1)) - 1), max_size=50),
        )
    )
)
def test_a_wrapping_register_is_counted_on(case: tuple[int, int, list[int]]) -> None:
    """However often a register wraps, the count grows by exactly what was added."""
    bits, start, steps = case
    counter = DriverCounter()
    true = start
    counter.advance(start, bits)
    for step in steps:
        true += step
        raw = true % (1 << bits)
        shown = counter.advance(raw, bits)
        assert shown == true


def test_a_counter_reset_by_the_driver_starts_from_its_own_zero() -> None:
    """After a driver reload the count is the driver's new count, which every consumer knows as a reset."""
    counter = DriverCounter()
    counter.advance(5000, 64)
    assert counter.advance(7, 64) == 7
    assert counter.advance(9, 64) == 9


def test_a_reset_after_wraps_forgets_the_wraps() -> None:
    """What was added for wraps belongs to the register before the reset."""
    counter = DriverCounter()
    counter.advance((1 << 32) - 10, 32)
    assert counter.advance(10, 32) == (1 << 32) + 10
    assert counter.advance(3, 32) == 3


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0.001, 60)), min_size=1, max_size=50))
def test_an_integral_never_goes_back(steps: list[tuple[float, float]]) -> None:
    """Whatever the rates and gaps, the total only grows."""
    integral = Integral()
    time, last = 0.0, 0.0
    for rate, seconds in steps:
        time += seconds
        total = integral.advance(rate, time, longest_gap=10)
        assert total >= last
        last = total


def test_an_integral_adds_nothing_over_a_gap() -> None:
    """Over a time without readings nothing is known, and nothing is invented."""
    integral = Integral()
    integral.advance(100, 0, longest_gap=6)
    assert integral.advance(100, 2, longest_gap=6) == 200
    assert integral.advance(100, 3600, longest_gap=6) == 200
    assert integral.advance(100, 3602, longest_gap=6) == 400


def test_an_integral_survives_a_clock_set_back() -> None:
    """A clock that is set back adds nothing and takes nothing away."""
    integral = Integral()
    integral.advance(100, 1000, longest_gap=6)
    integral.advance(100, 1002, longest_gap=6)
    assert integral.advance(100, 10, longest_gap=6) == 200
    assert integral.advance(100, 12, longest_gap=6) == 400
