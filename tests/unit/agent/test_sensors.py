"""Probing a phone's /sys, built here as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mobifarm.agent import sensors
from mobifarm.agent.sources import ServiceSource

CORPUS = Path(__file__).parents[2] / "corpus"


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    battery = tmp_path / "sys/class/power_supply/battery"
    write(
        battery,
        type="Battery\n",
        voltage_now="3900000\n",
        current_now="-350000\n",
        status="Discharging\n",
        capacity="83\n",
        temp="312\n",
        charge_counter="2500000\n",
    )
    write(tmp_path / "sys/class/power_supply/usb", type="USB\n", online="1\n", voltage_now="5000000\n")
    thermal = tmp_path / "sys/class/thermal"
    write(thermal / "thermal_zone0", type="cpu-0-0-usr\n", temp="45000\n")
    write(thermal / "thermal_zone2", type="cpu-0-0-usr\n", temp="46000\n")
    write(thermal / "thermal_zone10", type="skin-therm\n", temp="-99900\n")
    write(thermal / "thermal_zone11", type="soc\n", temp="80\n")
    write(thermal / "cooling_device0", type="cpu\n")
    write(tmp_path / "sys/devices/system/cpu", cpu0__cpufreq__scaling_cur_freq="1804800\n", cpuidle="x")
    (tmp_path / "sys/bus/iio/devices").mkdir(parents=True)
    write(tmp_path / "sys/bus/iio/devices/iio:device0", energy_value="t=1\nCH0(T=1)[VDD], 2000000\n")
    write(tmp_path / "proc", meminfo="MemTotal:  8000 kB\nMemAvailable:  4000 kB\n")
    return tmp_path


def described(found: sensors.Sensors) -> dict[str, sensors.SensorDescription]:
    names = [description.name for description in found.descriptions]
    assert len(names) == len(set(names))
    return {description.name: description for description in found.descriptions}


def test_reads_everything_in_si_units(phone: Path):
    values = sensors.probe(phone).read()

    assert values.pop("agent/rss") > 1e6
    assert values == pytest.approx(
        {
            "battery/voltage": 3.9,
            "battery/current": -0.35,
            "battery/capacity": 0.83,
            "battery/temperature": 31.2,
            "battery/charge": 9000.0,
            "battery/charging": 0.0,
            "usb/voltage": 5.0,
            "usb/online": 1.0,
            "thermal/cpu-0-0-usr": 45.0,
            "thermal/cpu-0-0-usr-2": 46.0,
            "cpu/0/frequency": 1.8048e9,
            "rail/VDD/energy": 2.0,
            "memory/available": 4_096_000.0,
        }
    )


def test_describes_every_value_and_every_absence(phone: Path):
    found = sensors.probe(phone)
    descriptions = described(found)

    assert found.read().keys() == {name for name, one in descriptions.items() if one.readable}
    assert descriptions["battery/current"].sign == "positive_into_battery"
    assert descriptions["battery/current"].unit == "A"
    assert descriptions["thermal/skin-therm"].reason == "the phone writes a value that means unknown"
    assert descriptions["thermal/soc"].reason == "this zone is not a temperature"
    assert all(bool(one.reason) != one.readable for one in descriptions.values())


def test_a_value_that_becomes_known_later_appears(phone: Path):
    found = sensors.probe(phone)
    write(phone / "sys/class/thermal/thermal_zone10", temp="36500\n")
    assert found.read()["thermal/skin-therm"] == 36.5


def test_a_file_that_disappears_leaves_the_others(phone: Path):
    found = sensors.probe(phone)
    (phone / "sys/class/power_supply/battery/voltage_now").unlink()
    values = found.read()
    assert "battery/voltage" not in values
    assert values["battery/capacity"] == 0.83


def test_a_phone_that_tells_nothing_says_why(tmp_path: Path):
    descriptions = described(sensors.probe(tmp_path))

    absent = {name: one.reason for name, one in descriptions.items() if not one.readable}
    assert absent.pop("screen/on") == "no such sensor on this phone"
    assert absent == dict.fromkeys(
        ["battery", "thermal", "cpu", "rail", "memory/available"], "no such file or directory"
    )


def test_a_file_that_cannot_be_read_is_named_with_the_reason(phone: Path):
    path = phone / "sys/class/power_supply/battery/current_now"
    path.unlink()
    path.mkdir()  # unlike a mode, this stops root too
    found = sensors.probe(phone)
    assert described(found)["battery/current"].reason == "is a directory"
    assert "battery/current" not in found.read()


def test_the_unit_of_the_current_is_learned_and_kept(phone: Path):
    gauge = phone / "sys/class/power_supply/battery"
    write(gauge, current_now="-15000\n")
    found = sensors.probe(phone)
    assert found.read()["battery/current"] == pytest.approx(-15.0)  # as far as one reading tells

    write(gauge, current_now="-350000\n")
    assert found.read()["battery/current"] == pytest.approx(-0.35)
    for _ in range(100):
        write(gauge, current_now="-15000\n")
        value = found.read()["battery/current"]
    assert value == pytest.approx(-0.015)


def test_the_sign_of_an_inverted_gauge_is_kept_while_charging(phone: Path):
    gauge = phone / "sys/class/power_supply/battery"
    write(gauge, current_now="350000\n")
    found = sensors.probe(phone)
    assert found.read()["battery/current"] == pytest.approx(-0.35)

    write(gauge, current_now="-900000\n", status="Charging\n")
    assert found.read()["battery/current"] == pytest.approx(0.9)


def test_an_ambiguous_sign_is_unknown(phone: Path):
    write(phone / "sys/class/power_supply/battery", current_now="-350000\n", status="Charging\n")
    found = sensors.probe(phone)
    assert described(found)["battery/current"].sign == "unknown"
    assert found.read()["battery/current"] == pytest.approx(-0.35)


def test_memory_total(phone: Path, tmp_path: Path):
    assert sensors.memory_total_bytes(phone) == 8_192_000
    assert sensors.memory_total_bytes(tmp_path / "nowhere") is None


@pytest.mark.parametrize(("brightness", "on"), [("0\n", 0.0), ("1023\n", 1.0)])
def test_the_screen_is_on_while_its_light_shines(phone: Path, brightness: str, on: float):
    write(phone / "sys/class/backlight/panel0-backlight", brightness="5\n", actual_brightness=brightness)
    assert sensors.probe(phone).read()["screen/on"] == on


def test_the_storage_that_is_left_is_that_of_the_agents_folder(phone: Path, tmp_path: Path):
    found = sensors.probe(phone, tmp_path)
    assert found.read()["storage/available"] > 0
    assert described(found)["storage/available"].unit == "byte"


ANSWERS = {
    "battery": (CORPUS / "battery/samsung-s24.txt").read_text(),
    "thermalservice": (CORPUS / "thermal/pixel-8.txt").read_text(),
    "android.hardware.power.stats.IPowerStats/default": (CORPUS / "power_stats/pixel-6.txt").read_text(),
}


def answer(command: Sequence[str]) -> str:
    return ANSWERS.get(command[1], "") if command[0] == "dumpsys" else ""


def refuse(command: Sequence[str]) -> str:
    raise OSError(None, "dumpsys did not answer in 5 s")


def test_services_stand_in_where_the_kernel_tells_nothing(tmp_path: Path):
    found = sensors.probe(tmp_path, ask=answer)
    descriptions = described(found)

    assert descriptions["battery/voltage"].source == "dumpsys battery"
    assert (descriptions["battery/voltage"].unit, descriptions["battery/voltage"].resolution) == ("V", 1e-3)
    current = descriptions["battery/current"]
    assert (current.unit, current.sign, current.resolution) == ("A", "positive_into_battery", 1e-3)
    assert descriptions["thermal/VIRTUAL-SKIN"].unit == "degC"
    assert descriptions["thermal/status"].source == "dumpsys thermalservice"
    assert descriptions["rail/S7M_VDD_TPU/energy"].unit == "J"
    [source] = [one for one in found._sources if isinstance(one, ServiceSource)]
    source.ask_due()
    values = found.read()
    assert values["battery/current"] == pytest.approx(-0.412)
    assert values["usb/online"] == 0.0
    assert values["thermal/status"] == 0.0
    assert found.read().keys() == {name for name, one in descriptions.items() if one.readable}


def test_what_the_kernel_tells_is_not_asked_of_services(phone: Path):
    asked: list[str] = []

    def note(command: Sequence[str]) -> str:
        asked.append(" ".join(command))
        return answer(command)

    descriptions = described(sensors.probe(phone, ask=note))
    assert asked == ["dumpsys thermalservice"]
    assert descriptions["thermal/status"].readable
    assert "thermal/BIG" not in descriptions
    assert descriptions["battery/voltage"].source.endswith("voltage_now")


def test_services_that_do_not_answer_are_told_with_the_reason(tmp_path: Path):
    descriptions = described(sensors.probe(tmp_path, ask=refuse))
    assert descriptions["thermal/status"].reason == "dumpsys did not answer in 5 s"
    assert not descriptions["battery/voltage"].readable


def test_resolution_is_the_step_of_the_format(phone: Path):
    resolutions = {name: one.resolution for name, one in described(sensors.probe(phone)).items()}
    assert resolutions["battery/voltage"] == pytest.approx(1e-6)
    assert resolutions["battery/current"] == pytest.approx(1e-6)
    assert resolutions["battery/temperature"] == pytest.approx(0.1)
    assert resolutions["battery/capacity"] == pytest.approx(0.01)
    assert resolutions["thermal/cpu-0-0-usr"] == pytest.approx(1e-3)
    assert resolutions["cpu/0/frequency"] == 1000.0
    assert resolutions["rail/VDD/energy"] == 1e-6
    assert resolutions["memory/available"] == 1024.0


def test_governors_are_words(phone: Path):
    write(phone / "sys/devices/system/cpu/cpu0/cpufreq", scaling_governor="schedutil\n")
    write(phone / "sys/devices/system/cpu/cpu1/cpufreq", scaling_governor="<b>\n")
    assert sensors.cpu_governors(phone) == {"0": "schedutil"}
