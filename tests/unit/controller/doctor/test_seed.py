"""From findings to a virtual phone's profile; the simulator's own reader is the judge."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.controller.doctor.finding import Finding, Verdict, finding
from mobifarm.controller.doctor.probes import SHELL_PROBES
from mobifarm.controller.doctor.seed import document, virtual_phone
from mobifarm.controller.transport.interface import ShellResult
from mobifarm.simulator.profile import UnknownProfileError, load_profile, parse_profile


def ok(probe: str, value: Any) -> Finding:
    return finding(probe, Verdict("ok", value, "m"), "e")


FOUND = [
    ok(
        "properties", {"ro.product.model": "Pixel 8", "ro.product.cpu.abi": "arm64-v8a", "ro.soc.model": "T3"}
    ),
    ok("memory", (7 << 30) + 5),
    ok("clusters", [{"cores": 4, "minimum_khz": 300000, "maximum_khz": 1800000}]),
    ok(
        "battery",
        {
            "capacity_uah": 4_575_000,
            "current_unit": "mA",
            "current_sign": "positive_out_of_battery",
            "denied": ["cycle_count", "../../etc/passwd"],
        },
    ),
    ok("thermal_zones", [{"type": "BIG", "readable": True}, {"type": "skin", "readable": False}]),
    ok("power_rails", {"odpm": [{"channel": "C", "subsystem": "CPU"}], "closed": []}),
]


def test_what_was_found_is_what_the_virtual_phone_is(tmp_path: Any) -> None:
    path = tmp_path / "R5CT 10.json"
    path.write_text(json.dumps(document("usb:1-2", "R5CT", 5.0, FOUND)))
    profile = load_profile(str(path))
    assert profile.name == "R5CT-10"
    assert profile.properties["ro.product.model"] == "Pixel 8"
    assert profile.properties["ro.product.manufacturer"] == "unknown"
    assert "ro.product.cpu.abi" not in profile.properties, "that is the machine's"
    assert profile.memory_gib == 8
    assert [(cluster.cores, cluster.maximum_khz) for cluster in profile.clusters] == [(4, 1800000)]
    battery = profile.battery
    assert (battery.capacity_mah, battery.current_unit, battery.discharge_sign) == (4575, "mA", 1)
    assert [(zone.type, zone.node) for zone in profile.thermal.zones] == [("BIG", "die"), ("skin", "body")]
    assert [device.name for device in profile.rail_devices] == ["closed", "odpm"]
    assert set(profile.unreadable) == {
        "class/power_supply/battery/cycle_count",
        "class/thermal/thermal_zone1/temp",
        "bus/iio/devices/iio:device0/energy_value",
    }


def test_a_phone_that_tells_nothing_makes_a_profile_too() -> None:
    assert parse_profile("x", virtual_phone([])).clusters


@given(st.lists(st.tuples(st.sampled_from(SHELL_PROBES), st.text()), max_size=8))
def test_no_phone_can_make_a_profile_that_reaches_outside(answers: list[tuple[Any, str]]) -> None:
    found = [finding(probe.name, probe.parse(ShellResult(0, text, "")), text) for probe, text in answers]
    profile = parse_profile("x", json.loads(json.dumps(virtual_phone(found))))
    assert not any(path.startswith("/") or ".." in path for path in profile.unreadable)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x"])
def test_a_written_profile_that_reaches_outside_is_refused(tmp_path: Any, path: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(json.dumps({**virtual_phone([]), "unreadable": [path]}))
    with pytest.raises(UnknownProfileError, match="no path below"):
        load_profile(str(file))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"virtual_phone": 3}', '{"findings": []}'])
def test_a_file_that_is_no_profile_is_refused_in_one_sentence(tmp_path: Any, text: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(UnknownProfileError, match="no phone profile"):
        load_profile(str(file))
    with pytest.raises(UnknownProfileError, match="cannot be read"):
        load_profile(str(tmp_path / "absent.json"))
