import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.controller.core.thermal import Curve, Fit, Thermal


def readings(curve, start, step_s, number):
    return [curve.after(start, step_s * index) for index in range(number)]


@given(
    rate=st.floats(1 / 1800, 1 / 120),
    settles=st.floats(18, 30),
    start=st.floats(38, 55),
    step_s=st.floats(5, 40),
)
def test_the_curve_that_made_the_readings_is_found(rate, settles, start, step_s):
    truth = Curve(rate, settles)
    series = readings(truth, start, step_s, 40)
    fit = Fit()
    for before, after in itertools.pairwise(series):
        fit = fit.with_interval(step_s, before, after)
    found = fit.curve()
    if found is None:
        assert max(series) - min(series) < 10  # too much alike
        return
    assert found.rate_per_s == pytest.approx(rate, rel=0.05)
    assert found.settles_at_celsius == pytest.approx(settles, abs=1.0)


@given(st.lists(st.tuples(st.floats(0.1, 180), st.floats(-40, 150), st.floats(-40, 150)), max_size=30))
def test_any_readings_give_a_curve_that_cools_or_none(intervals):
    fit = Fit()
    for duration_s, before, after in intervals:
        fit = fit.with_interval(duration_s, before, after)
    curve = fit.curve()
    if curve is not None:
        assert curve.rate_per_s > 0
        assert math.isfinite(curve.settles_at_celsius)


def test_time_to_a_temperature_is_what_the_curve_takes():
    curve = Curve(1 / 600, 23.0)
    rest_s = curve.time_to(40.0, 30.0)
    assert curve.after(40.0, rest_s) == pytest.approx(30.0)
    assert curve.time_to(29.0, 30.0) == 0.0
    assert curve.time_to(40.0, 23.0) == math.inf


def test_only_intervals_in_which_the_phone_did_one_thing_count():
    thermal = Thermal()
    thermal = thermal.with_reading(0.0, 30.0, busy=False, leases=0)
    thermal = thermal.with_reading(10.0, 31.0, busy=True, leases=1)  # work began in between
    thermal = thermal.with_reading(20.0, 32.0, busy=True, leases=1)
    thermal = thermal.with_reading(30.0, 33.0, busy=True, leases=2)  # another trial since
    thermal = thermal.with_reading(400.0, 33.0, busy=True, leases=2)  # too long ago
    thermal = thermal.with_reading(410.0, None, busy=True, leases=2)
    thermal = thermal.with_reading(420.0, 33.0, busy=True, leases=2)
    assert (thermal.busy.readings, thermal.idle.readings) == (1.0, 0.0)


def test_few_or_equal_readings_tell_no_curve():
    fit = Fit()
    for _ in range(5):
        fit = fit.with_interval(10.0, 40.0, 38.0)
    assert fit.curve() is None
    still = Fit()
    for _ in range(50):
        still = still.with_interval(10.0, 30.0, 30.2).with_interval(10.0, 30.2, 30.0)
    assert still.curve() is None
