"""What the agent reads out of the services' texts of many vendors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent import dumpsys, readings
from mobifarm.agent.sources import BatteryService

CORPUS = Path(__file__).parents[2] / "corpus"

BATTERY: dict[str, tuple[dict[str, float], str, int | None]] = {
    "pixel-6": (
        {
            "battery/voltage": 4.197,
            "battery/temperature": 28.7,
            "battery/charge": 12697.2,
            "battery/charging": 1.0,
            "battery/capacity": 0.77,
            "ac/online": 0.0,
            "usb/online": 1.0,
            "wireless/online": 0.0,
            "dock/online": 0.0,
        },
        "charging",
        None,
    ),
    "pixel-8-android-15": (
        {
            "battery/voltage": 3.954,
            "battery/temperature": 30.5,
            "battery/charge": 10353.6,
            "battery/charging": 0.0,
            "battery/capacity": 0.64,
            "ac/online": 0.0,
            "usb/online": 0.0,
            "wireless/online": 0.0,
            "dock/online": 0.0,
        },
        "discharging",
        None,
    ),
    "samsung-s24": (
        {
            "battery/voltage": 4.021,
            "battery/temperature": 31.8,
            "battery/charge": 10768.752,
            "battery/charging": 0.0,
            "battery/capacity": 0.81,
            "ac/online": 0.0,
            "usb/online": 0.0,
            "wireless/online": 0.0,
        },
        "discharging",
        -412,
    ),
    "samsung-charging": (
        {
            "battery/voltage": 4.34,
            "battery/temperature": 33.4,
            "battery/charge": 12240.0,
            "battery/charging": 1.0,
            "battery/capacity": 0.9,
            "ac/online": 1.0,
            "usb/online": 0.0,
            "wireless/online": 0.0,
        },
        "charging",
        1530,
    ),
    "xiaomi-14": (  # two cells in series
        {
            "battery/voltage": 8.804,
            "battery/temperature": 29.6,
            "battery/charge": 15300.0,
            "battery/charging": 0.0,
            "battery/capacity": 1.0,
            "ac/online": 0.0,
            "usb/online": 1.0,
            "wireless/online": 0.0,
        },
        "full",
        None,
    ),
    "oneplus-12": (
        {
            "battery/voltage": 3.871,
            "battery/temperature": 30.1,
            "battery/charging": 0.0,
            "battery/capacity": 0.55,
            "ac/online": 0.0,
            "usb/online": 0.0,
            "wireless/online": 0.0,
        },
        "discharging",
        287,
    ),
    "unknown-values": ({}, "", None),
    "scale-200-volts": (
        {
            "battery/temperature": 31.2,
            "battery/charging": 0.0,
            "battery/capacity": 0.75,
            "ac/online": 0.0,
            "usb/online": 0.0,
        },
        "not charging",
        None,
    ),
    "updates-stopped": ({}, "", None),
    "truncated": (
        {"battery/charge": 12697.2, "battery/charging": 1.0, "ac/online": 0.0, "usb/online": 1.0},
        "charging",
        None,
    ),
    "carriage-returns": (
        {
            "battery/voltage": 3.777,
            "battery/temperature": 24.4,
            "battery/charging": 0.0,
            "battery/capacity": 0.42,
            "usb/online": 0.0,
        },
        "discharging",
        None,
    ),
    "no-service": ({}, "", None),
    "garbage": ({}, "", None),
    "set-to-arabic-digits": (
        {
            "battery/voltage": 4.123,
            "battery/temperature": 31.0,
            "battery/charging": 0.0,
            "battery/capacity": 0.8,
            "usb/online": 0.0,
        },
        "discharging",
        None,
    ),
}

THERMAL: dict[str, dict[str, float]] = {
    "pixel-8": {
        "thermal/status": 0,
        "thermal/LITTLE": 44.0,
        "thermal/BIG": 46.0,
        "thermal/G3D": 43.0,
        "thermal/TPU": 42.0,
        "thermal/battery": 30.5,
        "thermal/VIRTUAL-SKIN": 31.2,
    },
    "samsung-s24": {
        "thermal/status": 2,
        "thermal/AP": 37.9,
        "thermal/BAT": 31.8,
        "thermal/SKIN": 40.6,
        "thermal/PA": 34.0,
    },
    "xiaomi-milli-degrees": {"thermal/status": 0, "thermal/skin-quiet_therm": 36.5},
    "oneplus-unknown": {"thermal/status": 0, "thermal/skin-shell_front": 38.217},
    "localised-comma": {"thermal/status": 1, "thermal/AP": 25.6, "thermal/SKIN": 39.25},
    "truncated": {"thermal/status": 3, "thermal/SKIN": 51.5},
    "denied": {},
    "garbage": {"thermal/b-x": 33.0},
}

POWER_STATS: dict[str, dict[str, float]] = {
    "pixel-6": {
        "rail/S4M_VDD_CPUCL0/energy": 1912.34567,
        "rail/S3M_VDD_CPUCL1/energy": 812.3451,
        "rail/S2M_VDD_CPUCL2/energy": 912.345,
        "rail/S7M_VDD_TPU/energy": 0.12345,
        "rail/S2S_VDD_G3D/energy": 45.6789,
    },
    "pixel-8-delta": {"rail/S2M_VDD_CPUCL2/energy": 913.0, "rail/VSYS_PWR_RFFE/energy": 1.0005},
    "localised-comma": {"rail/S2M_VDD_CPUCL2/energy": 913.00025, "rail/S7M_VDD_TPU/energy": 0.12345},
    "truncated": {"rail/S2M_VDD_CPUCL2/energy": 913.00025},
    "snapdragon": {},
    "garbage": {},
}

ENERGY_VALUE: dict[str, dict[str, float]] = {
    "s2mpg10-odpm-energy_value": {
        "S10M_VDD_TPU": 199e-6,
        "S2M_VDD_CPUCL2": 0.76133,
        "VSYS_PWR_DISPLAY": 123.456789,
    },
    "pac1934-energy_value": {"VPH_PWR_RF": 0.1, "PPVAR_VPH": 0.25},
    "odpm-truncated": {"S10M_VDD_TPU": 199e-6},
}


def text(folder: str, name: str) -> str:
    return (CORPUS / folder / f"{name}.txt").read_bytes().decode("utf-8", "replace")


def test_every_text_of_the_corpus_is_tested() -> None:
    tables = {"battery": BATTERY, "thermal": THERMAL, "power_stats": POWER_STATS, "sysfs": ENERGY_VALUE}
    for folder, table in tables.items():
        assert {path.stem for path in (CORPUS / folder).glob("*.txt")} == table.keys()


@pytest.mark.parametrize("name", BATTERY)
def test_battery(name: str) -> None:
    values, status, current = BATTERY[name]
    told = dumpsys.parse_battery(text("battery", name))
    assert told.values == pytest.approx(values)
    assert (told.status, told.current) == (status, current)


@pytest.mark.parametrize("name", THERMAL)
def test_thermal(name: str) -> None:
    assert dumpsys.parse_thermal(text("thermal", name)) == pytest.approx(THERMAL[name])


@pytest.mark.parametrize("name", POWER_STATS)
def test_power_stats(name: str) -> None:
    assert dumpsys.parse_power_stats(text("power_stats", name)) == pytest.approx(POWER_STATS[name])


@pytest.mark.parametrize("name", ENERGY_VALUE)
def test_energy_values_of_the_kernel(name: str) -> None:
    assert readings.parse_rails(text("sysfs", name)) == pytest.approx(ENERGY_VALUE[name])


@pytest.mark.parametrize(
    ("texts", "amperes"),
    [
        (["samsung-s24"], -0.412),  # milliamperes, negative while it discharges
        (["samsung-charging"], 1.53),
        (["oneplus-12"], -0.287),  # positive while it discharges: turned round
    ],
)
def test_the_current_that_a_vendor_prints_is_brought_to_one_unit_and_sign(
    texts: list[str], amperes: float
) -> None:
    service = BatteryService()
    values = [service.parse(text("battery", name)) for name in texts]
    assert values[-1]["battery/current"] == pytest.approx(amperes)


@pytest.mark.parametrize(
    ("answer", "amperes"),
    [
        ("-351562\n", -0.351562),
        ("351562", -0.351562),
        ("Unknown get option: current_now\n", None),
        ("-2147483648\n", None),
        ("", None),
    ],
)
def test_the_current_of_android_15(answer: str, amperes: float | None) -> None:
    service = BatteryService()
    service.parse(text("battery", "pixel-8-android-15"))
    expected = {} if amperes is None else {"battery/current": pytest.approx(amperes)}
    assert service.parse_current(answer) == expected


def pieces() -> st.SearchStrategy[str]:
    """Texts of the corpus, cut and mixed with anything."""
    texts = [path.read_bytes().decode("utf-8", "replace") for path in sorted(CORPUS.glob("*/*.txt"))]
    lines = [line for one in texts for line in one.splitlines()]
    return st.lists(st.sampled_from(lines) | st.text(max_size=40), max_size=20).map("\n".join)


@given(pieces())
def test_no_text_makes_a_parser_fail_or_tell_nonsense(mixed: str) -> None:
    battery = dumpsys.parse_battery(mixed).values
    thermal = dumpsys.parse_thermal(mixed)
    rails = dumpsys.parse_power_stats(mixed)
    for value in (*battery.values(), *thermal.values(), *rails.values()):
        assert math.isfinite(value)
    assert all(-40 <= value <= 150 for value in thermal.values())
    assert all(value >= 0 for value in rails.values())
    assert all(len(name) < 120 and name.isprintable() for name in (*battery, *thermal, *rails))


def test_a_large_text_without_sense_takes_no_time() -> None:
    for junk in ("\n" * 200_000, "=" * 200_000, "[" * 200_000, "Temperature{" * 20_000, " " * 200_000):
        for parse in (dumpsys.parse_battery, dumpsys.parse_thermal, dumpsys.parse_power_stats):
            assert not parse(junk) or parse(junk) == dumpsys.BatteryText()
