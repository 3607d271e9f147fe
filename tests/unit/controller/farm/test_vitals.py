from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.controller.farm.vitals import RAILS_LIMIT, Vitals, VitalsTracker

RAILS = {"rail/cpu/energy": 10.0, "rail/memory/energy": 4.0}
BATTERY = {"battery/current": -0.5, "battery/voltage": 4.0, "battery/charging": 0.0}


def test_nothing_readable_is_unknown_and_not_zero() -> None:
    assert VitalsTracker().offer(5.0, {}) == Vitals(5.0)


def test_power_of_rails_is_their_difference_over_the_phone_s_own_time() -> None:
    tracker = VitalsTracker()

    first = tracker.offer(100.0, RAILS, 1_000_000_000)
    second = tracker.offer(109.0, {"rail/cpu/energy": 13.0, "rail/memory/energy": 5.0}, 3_000_000_000)

    assert first.power_watts is None
    assert second.rail_watts == {"cpu": 1.5, "memory": 0.5}
    assert (second.power_watts, second.power_source) == (2.0, "rails")


def test_very_many_rails_count_but_are_not_all_told() -> None:
    tracker = VitalsTracker()
    tracker.offer(0.0, {f"rail/{number:04}/energy": 0.0 for number in range(1000)})

    seen = tracker.offer(1.0, {f"rail/{number:04}/energy": 1.0 for number in range(1000)})

    assert len(seen.rail_watts) == RAILS_LIMIT
    assert seen.power_watts == 1000.0


def test_readings_that_follow_closely_keep_the_power_and_the_counter() -> None:
    tracker = VitalsTracker()
    tracker.offer(0.0, {"rail/cpu/energy": 0.0})
    tracker.offer(1.0, {"rail/cpu/energy": 1.0})

    assert tracker.offer(1.1, {"rail/cpu/energy": 9.0}).power_watts == 1.0
    assert tracker.offer(2.0, {"rail/cpu/energy": 3.0}).power_watts == 2.0


@pytest.mark.parametrize(
    ("at", "values"),
    [
        (60.0, {"rail/cpu/energy": 12.0, "rail/memory/energy": 5.0}),
        (1.0, {"rail/cpu/energy": 1.0, "rail/memory/energy": 5.0}),
        (1.0, {"rail/cpu/energy": 12.0}),
    ],
    ids=["too long ago", "the counter started anew", "other rails"],
)
def test_counters_that_do_not_compare_give_no_power(at: float, values: dict[str, float]) -> None:
    tracker = VitalsTracker()
    tracker.offer(0.0, RAILS)

    assert tracker.offer(at, values).power_watts is None


def test_the_battery_tells_the_phone_s_power_only_while_nothing_charges_it() -> None:
    assert VitalsTracker().offer(0.0, BATTERY).power_watts == 2.0
    charging = VitalsTracker().offer(0.0, {**BATTERY, "battery/current": 0.5, "battery/charging": 1.0})
    assert (charging.power_watts, charging.battery_watts) == (None, 2.0)
    assert VitalsTracker().offer(0.0, {"battery/current": 1.0, "battery/voltage": 4.0}).power_watts is None


def test_the_battery_s_power_is_told_once_its_gauge_has_shown_which_way_it_counts() -> None:
    charging = {**BATTERY, "battery/charging": 1.0}
    into, out = {**charging, "battery/current": 0.5}, {**charging, "battery/current": -0.5}
    tracker = VitalsTracker()
    assert tracker.offer(0.0, out).battery_watts is None  # an inverted gauge, or a weak charger
    assert tracker.offer(1.0, into).battery_watts == 2.0
    assert tracker.offer(2.0, out).battery_watts == -2.0
    other = VitalsTracker()
    assert other.offer(0.0, {**BATTERY, "battery/current": -0.5}).battery_watts == -2.0
    assert other.offer(1.0, out).battery_watts == -2.0


def test_heat_and_clock() -> None:
    vitals = VitalsTracker().offer(
        0.0,
        {
            "thermal/skin": 31.0,
            "thermal/big": 48.0,
            "thermal/status": 1.0,
            "cpu/0/frequency": 1e9,
            "cpu/1/frequency": 2e9,
        },
    )
    assert (vitals.temperature_celsius, vitals.hottest_zone, vitals.hottest_celsius) == (31.0, "big", 48.0)
    assert (vitals.thermal_status, vitals.clock_hertz) == (1, 2e9)


names = st.sampled_from([*RAILS, *BATTERY, "thermal/skin", "thermal/status", "cpu/0/frequency"])
numbers = st.floats(-1e9, 1e9)


@given(st.lists(st.tuples(numbers, st.dictionaries(names, numbers))))
def test_any_readings_give_finite_power(readings: list[tuple[float, dict[str, float]]]) -> None:
    tracker = VitalsTracker()
    for at, values in readings:
        power = tracker.offer(at, values).power_watts
        assert power is None or (math.isfinite(power) and power >= 0)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e200, -1e308])
def test_no_number_of_a_phone_stops_the_farm_or_becomes_no_number(number: float) -> None:
    tracker = VitalsTracker()
    names = ("thermal/status", "battery/current", "battery/voltage", "rail/a/energy", "rail/b/energy")
    for at, values in enumerate((dict.fromkeys(names, -abs(number)), dict.fromkeys(names, abs(number)))):
        vitals = tracker.offer(float(at), {**values, "battery/charging": 0.0})
        json.dumps(asdict(vitals), allow_nan=False)
