from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.simulator.profile import Profile, load_profile, profile_names
from mobifarm.simulator.sensors.model import (
    AMBIENT_CELSIUS,
    BASE,
    Load,
    Reading,
    State,
    initial_state,
    steady_temperatures,
    step,
    visible_cores,
)

PROFILES = st.sampled_from([load_profile(name) for name in profile_names()])
LOADS = st.builds(Load, st.floats(0, 100), plugged=st.booleans(), powered=st.booleans())
DURATIONS = st.floats(1e-3, 1e5)
CORES = st.integers(1, 16)


@given(PROFILES, CORES, st.floats(0, 1), st.lists(st.tuples(LOADS, DURATIONS), max_size=20))
def test_energy_grows_and_heat_and_charge_stay_in_bounds(
    profile: Profile, cores: int, share: float, history: list[tuple[Load, float]]
) -> None:
    state = initial_state(profile, share)
    most_watts = sum(c.cores * c.core_power_watts for c in profile.clusters)
    most_watts += profile.memory_power_watts + profile.base_power_watts
    # The battery warms the body too: by no more than twice what goes through it.
    hottest, _ = steady_temperatures(profile, 2 * (most_watts + profile.battery.usb_power_watts), 0.0)
    for load, duration_s in history:
        reading = step(profile, cores, state, load, duration_s)
        new = reading.state
        assert all(new.energy_joules[name] >= joules for name, joules in state.energy_joules.items())
        assert min(new.body_celsius, new.die_celsius) >= AMBIENT_CELSIUS - 1e-6
        assert max(new.body_celsius, new.die_celsius) <= hottest
        assert 0 <= reading.battery_share <= 1
        assert reading.system_watts <= most_watts + 1e-9
        assert math.isfinite(reading.battery_volts)
        state = new


def run(profile: Profile, load: Load, duration_s: float, steps: int, state: State | None = None) -> Reading:
    state = state or initial_state(profile)
    for _ in range(steps):
        reading = step(profile, 8, state, load, duration_s)
        state = reading.state
    return reading


@pytest.mark.parametrize("name", profile_names())
def test_constant_load_converges_to_the_steady_state(name: str) -> None:
    profile = load_profile(name)
    reading = run(profile, Load(1.0, plugged=False), 60.0, 500)
    base = reading.power_watts[BASE]
    loss = reading.battery_amperes**2 * profile.battery.resistance_ohms
    die, body = steady_temperatures(profile, reading.system_watts - base, base + loss)
    assert reading.state.die_celsius == pytest.approx(die, abs=0.5)
    assert reading.state.body_celsius == pytest.approx(body, abs=0.5)


def test_many_short_steps_agree_with_a_few_long_ones() -> None:
    profile = load_profile("pixel-8")
    load = Load(2.0, plugged=False)
    fine, coarse = run(profile, load, 0.1, 6000), run(profile, load, 1.0, 600)
    assert fine.state.body_celsius == pytest.approx(coarse.state.body_celsius, abs=0.2)
    assert sum(fine.state.energy_joules.values()) == pytest.approx(
        sum(coarse.state.energy_joules.values()), rel=1e-9
    )


@given(PROFILES, st.floats(0, 8), st.floats(0, 8))
def test_more_work_takes_more_power(profile: Profile, one: float, other: float) -> None:
    small, large = sorted((one, other))
    state = initial_state(profile)
    readings = [step(profile, 8, state, Load(busy, plugged=False), 1.0) for busy in (small, large)]
    assert readings[0].system_watts <= readings[1].system_watts + 1e-12


def test_battery_power_matches_the_system_power() -> None:
    profile = load_profile("galaxy-s24")
    reading = run(profile, Load(3.0, plugged=False), 1.0, 1)
    assert reading.battery_amperes * reading.battery_volts == pytest.approx(-reading.system_watts)
    charged = run(profile, Load(0.0, plugged=True), 1.0, 1)
    assert charged.battery_amperes * charged.battery_volts == pytest.approx(
        profile.battery.usb_power_watts - charged.system_watts
    )


def test_plugged_phone_becomes_full_and_draws_no_more() -> None:
    reading = run(load_profile("pixel-8"), Load(0.0, plugged=True), 60.0, 3000)
    assert reading.battery_share == pytest.approx(1.0, abs=1e-3)
    assert reading.battery_amperes == pytest.approx(0.0, abs=5e-3)


def test_switched_off_phone_cools_down_and_keeps_its_charge() -> None:
    profile = load_profile("pixel-8")
    hot = run(profile, Load(8.0, plugged=False), 60.0, 10).state
    cold = run(profile, Load(8.0, plugged=False, powered=False), 600.0, 100, hot)
    assert cold.state.die_celsius == pytest.approx(AMBIENT_CELSIUS, abs=0.1)
    assert cold.state.charge_coulombs == pytest.approx(hot.charge_coulombs)
    assert cold.state.energy_joules == hot.energy_joules


def test_fastest_cores_are_shown_and_used_first() -> None:
    profile = load_profile("pixel-8")
    assert [cluster.name for cluster in visible_cores(profile, 2)] == ["mid", "big"]
    assert len(visible_cores(profile, 64)) == 9
    reading = step(profile, 2, initial_state(profile), Load(1.0, plugged=False), 1.0)
    assert reading.power_watts["big"] == pytest.approx(2.8)
    assert reading.power_watts["mid"] == 0.0
    assert [core.frequency_khz for core in reading.cores] == [402000, 2914000]
