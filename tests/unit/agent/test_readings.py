"""Sensor texts as vendors write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent import readings


@pytest.mark.parametrize(
    ("parse", "text", "expected"),
    [
        (readings.parse_voltage, "4123000\n", 4.123),
        (readings.parse_voltage, "4123\n", 4.123),  # millivolts
        (readings.parse_voltage, "8246000", 8.246),  # two cells in series
        (readings.parse_voltage, "0\n", None),
        (readings.parse_voltage, "-1\n", None),
        (readings.parse_voltage, "", None),
        (readings.parse_voltage, "4.1", None),
        (readings.parse_capacity, "83\n", 0.83),
        (readings.parse_capacity, "0", 0.0),
        (readings.parse_capacity, "-1", None),
        (readings.parse_capacity, "101", None),
        (readings.parse_charge_coulombs, "2500000\n", 9000.0),
        (readings.parse_charge_coulombs, "0", None),
        (readings.parse_battery_celsius, "312\n", 31.2),
        (readings.parse_battery_celsius, "-50", -5.0),
        (readings.parse_battery_celsius, "31200", 31.2),  # thousandths
        (readings.parse_battery_celsius, "-999", None),
        (readings.parse_battery_celsius, "-1", None),
        (readings.parse_battery_celsius, "\n", None),
        (readings.parse_battery_celsius, "<unknown>", None),
        (readings.parse_thermal_celsius, "45678\n", 45.678),
        (readings.parse_thermal_celsius, "-5000", -5.0),
        (readings.parse_thermal_celsius, "412", 41.2),  # tenths
        (readings.parse_thermal_celsius, "41", 41.0),  # degrees
        (readings.parse_thermal_celsius, "-99900", None),
        (readings.parse_thermal_celsius, "-274000", None),
        (readings.parse_thermal_celsius, "0", None),
        (readings.parse_thermal_celsius, "-1", None),
        (readings.parse_thermal_celsius, "", None),
        (readings.parse_frequency_hertz, "1804800\n", 1.8048e9),
        (readings.parse_frequency_hertz, "<unknown>\n", None),
        (readings.parse_frequency_hertz, "0", None),
        (readings.parse_charging, "Charging\n", 1.0),
        (readings.parse_charging, "Discharging\n", 0.0),
        (readings.parse_charging, "Not charging\n", 0.0),
        (readings.parse_charging, "Full\n", 0.0),
        (readings.parse_charging, "Unknown\n", None),
        (readings.parse_charging, "", None),
        (readings.parse_online, "1", 1.0),
        (readings.parse_online, "2", 1.0),
        (readings.parse_online, "0", 0.0),
        (readings.parse_online, "-1", None),
    ],
)
def test_reads_one_value(parse, text, expected):
    assert parse(text) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    "parse",
    [
        readings.parse_voltage,
        readings.parse_capacity,
        readings.parse_charge_coulombs,
        readings.parse_battery_celsius,
        readings.parse_thermal_celsius,
        readings.parse_frequency_hertz,
        readings.parse_charging,
        readings.parse_online,
        readings.parse_rails,
        readings.safe_name,
    ],
)
@given(text=st.text() | st.integers().map(str) | st.just("9" * 5000))
def test_survives_any_text(parse, text):
    parse(text)


def test_reads_the_rails_of_a_pixel():
    text = (
        "t=358400\n"
        "CH0(T=358356)[S10M_VDD_TPU], 5249310\n"
        "CH3(T=358356)[S2M_VDD_CPUCL2], 761330\n"
        "CH4(T=358356)[], 1\n"
        "garbage\n"
    )
    assert readings.parse_rails(text) == pytest.approx({"S10M_VDD_TPU": 5.24931, "S2M_VDD_CPUCL2": 0.76133})


def test_reads_the_rails_of_an_older_meter():
    assert readings.parse_rails("VBAT, 1000000\nt=5\n") == {"VBAT": 1.0}


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([-350_000, -410_000], 1e-6),
        ([15_000, 410_000], 1e-6),  # an idle moment of a gauge that counts microamperes
        ([-350, -410], 1e-3),
        ([0, 0], None),
        ([], None),
        ([0, -20_001], 1e-6),
        ([-20_000], 1e-3),
    ],
)
def test_tells_the_unit_of_a_fuel_gauge(seen, expected):
    assert readings.amperes_per_count(seen) == expected


@pytest.mark.parametrize(
    ("raw", "status", "expected"),
    [
        (-350_000, "Discharging\n", 1),
        (350_000, "Discharging\n", -1),
        (350_000, "Charging\n", 1),
        (-350_000, "Charging\n", None),
        (350_000, "Full\n", None),
        (0, "Discharging", None),
        (10, "", None),
    ],
)
def test_tells_the_sign_of_a_fuel_gauge(raw, status, expected):
    assert readings.sign_into_battery(raw, status) == expected


def test_names_hold_nothing_to_trip_over():
    assert readings.safe_name("skin therm<script>\n") == "skin-therm-script"
    assert readings.safe_name("\n") == "unnamed"
    assert len(readings.safe_name("x" * 500)) == 64
