from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.workloads.report.scales import linear, logarithmic

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)


@given(values, st.booleans())
def test_every_value_lies_on_the_axis_and_ticks_are_round(found: list[float], zero: bool) -> None:
    scale = linear(found, 10, 200, zero=zero)
    assert 2 <= len(scale.ticks) <= 12
    close = 1e-6 * (1 + max(found) - min(found))
    assert scale.low <= min(found) + close
    assert scale.high >= max(found) - close
    assert all(10 <= scale(value) <= 200 for value in found)
    assert (scale(scale.low), scale(scale.high)) == (10, 200)
    if zero:
        assert scale.low <= 0


@given(st.lists(st.floats(1e-12, 1e6), min_size=1, max_size=20))
def test_powers_of_ten_hold_every_value(found: list[float]) -> None:
    scale = logarithmic(found, 0, 100)
    assert scale.low <= min(found) * 1.0001
    assert scale.high >= max(found) * 0.9999
    assert len({scale.label(tick) for tick in scale.ticks}) == len(scale.ticks)


def test_ticks_are_told_apart_by_their_labels() -> None:
    scale = linear([0.0, 0.01], 0, 100)
    assert len({scale.label(tick) for tick in scale.ticks}) == len(scale.ticks)
    assert [logarithmic([1e-6, 1], 0, 1).label(tick) for tick in (1e-6, 1.0)] == ["10⁻⁶", "1"]


def test_nothing_at_or_below_zero_has_a_logarithm() -> None:
    with pytest.raises(ValueError, match="no logarithm"):
        logarithmic([0.0, 1.0], 0, 1)
