from __future__ import annotations

import re

import pytest

from mobifarm.simulator.profile import load_profile, profile_names
from mobifarm.simulator.sensors.model import Load, Reading, initial_state, step
from mobifarm.simulator.sensors.nodes import live_nodes, static_nodes


def nodes_of(name: str, *, plugged: bool = False, busy: float = 1.0) -> tuple[dict[str, str], Reading]:
    profile = load_profile(name)
    reading = step(profile, 4, initial_state(profile), Load(busy, plugged), 10.0)
    live = live_nodes(profile, reading, uptime_ms=123456, running_ms=10000, plugged=plugged)
    return static_nodes(profile, 4) | live, reading


@pytest.mark.parametrize("name", profile_names())
def test_every_node_is_lines_and_relative(name: str) -> None:
    nodes, _ = nodes_of(name)
    assert all(text.endswith("\n") and text.strip() for text in nodes.values())
    assert not any(path.startswith(("/", "sys/")) for path in nodes)


@pytest.mark.parametrize("name", profile_names())
def test_units_are_the_kernels(name: str) -> None:
    nodes, reading = nodes_of(name)
    battery = "class/power_supply/battery"
    assert int(nodes[f"{battery}/voltage_now"]) == pytest.approx(reading.battery_volts * 1e6, abs=1)
    assert int(nodes[f"{battery}/temp"]) == pytest.approx(reading.state.body_celsius * 10, abs=1)
    assert int(nodes[f"{battery}/charge_counter"]) / 1000 == pytest.approx(
        load_profile(name).battery.capacity_mah * reading.battery_share, rel=1e-3
    )
    zones = load_profile(name).thermal.zones
    die = next(index for index, zone in enumerate(zones) if zone.node == "die")
    assert int(nodes[f"class/thermal/thermal_zone{die}/temp"]) == round(reading.state.die_celsius * 1000)
    assert nodes["devices/system/cpu/online"] == "0-3\n"


@pytest.mark.parametrize(
    ("name", "sign", "scale"), [("pixel-8", -1, 1e6), ("galaxy-s24", -1, 1e3), ("oneplus-12", 1, 1e3)]
)
def test_current_has_its_vendors_sign_and_unit(name: str, sign: int, scale: float) -> None:
    nodes, reading = nodes_of(name)
    assert reading.battery_amperes < 0
    raw = int(nodes["class/power_supply/battery/current_now"])
    assert raw == round(sign * -reading.battery_amperes * scale)
    assert nodes["class/power_supply/battery/status"] == "Discharging\n"


def test_plugged_phone_charges() -> None:
    nodes, _ = nodes_of("pixel-8", plugged=True, busy=0.0)
    assert nodes["class/power_supply/battery/status"] == "Charging\n"
    assert nodes["class/power_supply/usb/online"] == "1\n"
    assert int(nodes["class/power_supply/battery/current_now"]) > 0


def test_energy_meter_has_the_drivers_format() -> None:
    nodes, reading = nodes_of("pixel-8")
    lines = nodes["bus/iio/devices/iio:device0/energy_value"].splitlines()
    assert lines[0] == "t=123456"
    match = re.fullmatch(r"CH0\(T=10000\)\[S2M_VDD_CPUCL2\], (\d+)", lines[1])
    assert match
    assert int(match[1]) == round(reading.state.energy_joules["big"] * 1e6) > 0
    rails = nodes["bus/iio/devices/iio:device0/enabled_rails"].splitlines()
    assert rails[0] == "CH0[S2M_VDD_CPUCL2]:CPU(BIG)"


def test_phones_without_rails_have_no_energy_meter() -> None:
    nodes, _ = nodes_of("oneplus-12")
    assert not any("iio" in path for path in nodes)
