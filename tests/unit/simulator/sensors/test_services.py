from __future__ import annotations

import re

import pytest

from mobifarm.simulator.profile import load_profile, profile_names
from mobifarm.simulator.sensors.model import Load, Reading, initial_state, step
from mobifarm.simulator.sensors.services import service_outputs, thermal_status


def outputs_of(name: str) -> tuple[dict[str, str], Reading]:
    profile = load_profile(name)
    reading = step(profile, 4, initial_state(profile), Load(1.0, plugged=False), 10.0)
    return service_outputs(profile, reading, plugged=False), reading


@pytest.mark.parametrize("name", profile_names())
def test_battery_service(name: str) -> None:
    outputs, reading = outputs_of(name)
    fields = dict(re.findall(r"^  ([A-Za-z ]+): (.*)$", outputs["battery"], re.MULTILINE))
    assert fields["voltage"] == str(round(reading.battery_volts * 1000))
    assert fields["status"] == "3"
    assert fields["level"] == "80"
    assert ("current now" in fields) == (name == "galaxy-s24")


@pytest.mark.parametrize("name", profile_names())
def test_thermal_service_lists_every_zone(name: str) -> None:
    outputs, reading = outputs_of(name)
    current = outputs["thermalservice"].split("Current temperatures from HAL:")[1].split("Current cooling")[0]
    found = re.findall(r"Temperature\{mValue=([\d.]+), mType=(\d+), mName=([^,]+), mStatus=0\}", current)
    assert [match[2] for match in found] == [zone.type for zone in load_profile(name).thermal.zones]
    assert float(found[0][0]) == pytest.approx(reading.state.die_celsius, abs=0.05)


def test_power_stats_only_where_there_are_rails() -> None:
    outputs, reading = outputs_of("pixel-8")
    text = outputs["android.hardware.power.stats.IPowerStats/default"]
    match = re.search(r"\[S2M_VDD_CPUCL2\]:CPU\(BIG\)\s+([\d.]+) mWs$", text, re.MULTILINE)
    assert match
    assert float(match[1]) == pytest.approx(reading.state.energy_joules["big"] * 1000, abs=0.01)
    assert len(outputs_of("galaxy-s24")[0]) == 2


@pytest.mark.parametrize(("celsius", "status"), [(20, 0), (38.9, 0), (39, 1), (46, 3), (99, 6)])
def test_thermal_status(celsius: float, status: int) -> None:
    assert thermal_status(celsius) == status
