"""Curves of a page: the round numbers at their axes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffeio.converters.report.curves import svg, ticks

SIZES = st.floats(0, 1e308)


@given(SIZES, st.floats(1e-300, 1e308))
def test_axes_have_a_few_round_numbers(below: float, above: float) -> None:
    found = ticks(-below, above)
    assert 2 <= len(found) <= 6
    step = found[1] - found[0]
    digit = step / 10.0 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(digit - n) for n in (1, 2, 5, 10)) < 1e-6
    slack = 1e-6 * step
    assert -below - slack <= found[0] < -below + step + slack
    assert above - step - slack < found[-1] <= above + slack
    for value in found:  # multiples, 0 among them
        assert value / step == pytest.approx(round(value / step), abs=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_iterations_are_whole(count: int) -> None:
    found = ticks(0, max(count - 1, 1), least=1)
    assert found == [round(value) for value in found] and len(set(found)) == len(found)


@pytest.mark.parametrize(
    "values", [[5e-324], [0.0], [1e-320, -1e-320], [1.7e308, -1.7e308], [math.inf, 1.0]]
)
def test_no_values_are_too_small_or_too_far_apart(values: list[float]) -> None:
    """A rate of `exp` with a negative gamma alternates until it is the largest double."""
    assert svg("rate", [("a", values, "left")]).endswith("</svg>")
