"""From the text of Android's services to numbers in SI units. Pure; what a text does not tell is absent.

Formats: ``BatteryService``, ``ThermalManagerService`` and the power stats HAL's ``dumpsys`` in AOSP (HAL 2.0:
the energy meter in mWs). Vendors add lines, leave lines out, and write numbers in the phone's language (a
comma, other digits); texts may end anywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from mobifarm.agent import readings

BATTERY = ("dumpsys", "battery")
CURRENT_NOW = ("cmd", "battery", "get", "current_now")
THERMAL = ("dumpsys", "thermalservice")
POWER_STATS = ("dumpsys", "android.hardware.power.stats.IPowerStats/default")

_LINE = re.compile(r"^[ \t]{0,20}([A-Za-z][A-Za-z _]{0,40}?) ?[:=] ?(\S[^\r\n]{0,60}?)[ \r]?$", re.MULTILINE)
_STATUSES = {2: "charging", 3: "discharging", 4: "not charging", 5: "full"}
_BOOLEANS = {"true": 1.0, "false": 0.0}
_SUPPLIES = {"ac powered": "ac", "usb powered": "usb", "wireless powered": "wireless", "dock powered": "dock"}
_CURRENTS = ("current now", "current_now", "battery current", "battery current now")

_TEMPERATURE = re.compile(
    r"Temperature\{mValue=(?P<value>[^,}]{1,20}(?:,\d{1,6})?), ?mType=(?P<type>-?\d{1,3}), ?"
    r"mName=(?P<name>[^,}\n]{1,64}), ?mStatus=-?\d{1,3}\}"
)
_STATUS = re.compile(r"^[ \t]{0,20}Thermal Status: ?(\d)[ \r]?$", re.MULTILINE)
_SKIN = 3
_NOT_TEMPERATURES = (6, 7, 8)  # the battery current limiter's voltage, current and level

_RAIL = re.compile(
    r"^[ \t]{0,40}\[(?P<channel>[^\]\n]{1,64})\]:[^\n]{0,64}?[ \t](?P<energy>[\d.,٫]{1,24}) mWs", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class BatteryText:
    """What ``dumpsys battery`` tells.

    Attributes:
        values: by sensor name, without the current.
        status: in the words of the power supply class; "" where it is unknown.
        current: as the vendor prints it (Samsung: milliamperes), None on most phones.
    """

    values: dict[str, float] = field(default_factory=dict)
    status: str = ""
    current: int | None = None


def parse_battery(text: str) -> BatteryText:
    """Read ``dumpsys battery``; values that ``cmd battery set`` has made up are none."""
    if "UPDATES STOPPED" in text:
        return BatteryText()
    found: dict[str, str] = {}
    for name, value in _LINE.findall(text):
        found.setdefault(name.lower(), value)

    def integer(name: str) -> int | None:
        return readings.parse_integer(found.get(name, ""))

    status = _STATUSES.get(integer("status") or 0, "")
    level, scale = integer("level"), integer("scale") or 100
    values = {
        "battery/voltage": readings.parse_voltage(found.get("voltage", "")),
        "battery/temperature": readings.parse_battery_celsius(found.get("temperature", "")),
        "battery/charge": readings.parse_charge_coulombs(found.get("charge counter", "")),
        "battery/charging": readings.parse_charging(status),
        "battery/capacity": level / scale if level is not None and 0 <= level <= scale else None,
        **{
            f"{supply}/online": _BOOLEANS.get(found.get(name, "").lower())
            for name, supply in _SUPPLIES.items()
        },
    }
    currents = [integer(name) for name in _CURRENTS]
    return BatteryText(
        {name: value for name, value in values.items() if value is not None},
        status,
        next((current for current in currents if current is not None), None),
    )


def parse_thermal(text: str) -> dict[str, float]:
    """Read ``dumpsys thermalservice``: ``thermal/status`` is Android's, ``thermal/NAME`` are temperatures.

    Temperatures come from the HAL; where it gives none, from what the service has kept.
    """
    values: dict[str, float] = {}
    if status := _STATUS.search(text):
        values["thermal/status"] = float(status[1])
    _, found, rest = text.partition("Current temperatures from HAL:")
    fresh = list(_temperatures(rest.partition("Current cooling devices")[0])) if found else []
    for name, celsius in fresh or _temperatures(text.partition("HAL Ready")[0]):
        values.setdefault(name, celsius)
    return values


def _temperatures(text: str) -> Iterator[tuple[str, float]]:
    for match in _TEMPERATURE.finditer(text):
        kind, celsius = int(match["type"]), _number(match["value"])
        if kind in _NOT_TEMPERATURES or celsius is None:
            continue
        known = readings.plausible_temperature(celsius)
        if known is not None:
            name = readings.safe_name(match["name"])
            if kind == _SKIN and "skin" not in name.lower():
                name = f"skin-{name}"
            if name != "status":
                yield f"thermal/{name}", known


def parse_power_stats(text: str) -> dict[str, float]:
    """Read the energy meter of the power stats service: joules since the phone started, by rail."""
    lines = text.partition("energy meter")[2].partition("End of")[0]
    rails: dict[str, float] = {}
    for match in _RAIL.finditer(lines):
        energy = _number(match["energy"])
        if energy is not None and energy >= 0:
            rails.setdefault(f"rail/{readings.safe_name(match['channel'])}/energy", energy / 1000)
    return rails


def _number(text: str) -> float | None:
    """A decimal number in any language's digits and decimal sign; one with thousands marks is refused."""
    plain = text.strip().replace("٫", ".").replace(",", ".")
    try:
        number = float(plain)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
