"""From the text of a sensor file to a number in SI units. Pure; a text that tells nothing gives None.

Kernels and vendors write −1, −99.9, nothing or an error word where they do not know. Such a reading is absent
from a sample; it is never zero. Sources of the formats: Documentation/ABI/testing/sysfs-class-power,
Documentation/driver-api/thermal/sysfs-api.rst and cpufreq in the Linux kernel; IioEnergyMeterDataProvider
of AOSP for the power rails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_INTEGER = re.compile(r"[+-]?\d{1,18}\Z")
_RAIL = re.compile(
    r"(?:CH\d+\(T=\d+\)\[(?P<channel>[^\]]+)\]|(?P<plain>[^,\[\]()=]+)),\s*(?P<energy>\d{1,18})\Z"
)

# A phone never draws 20 A, so a larger number counts microamperes whatever the vendor says. Beyond 100 A it
# is no current: INT_MIN and LONG_MIN mean unknown.
_LARGEST_MILLIAMPERES = 20_000
_LARGEST_MICROAMPERES = 100_000_000
_COLDEST_CELSIUS, _HOTTEST_CELSIUS = -40.0, 150.0


def parse_integer(text: str) -> int | None:
    """A whole number and nothing else."""
    stripped = text.strip()
    return int(stripped) if _INTEGER.match(stripped) else None


def parse_voltage(text: str) -> float | None:
    """Microvolts (some vendors: millivolts) to volts; zero and below mean unknown."""
    raw = parse_integer(text)
    if raw is None or raw <= 0:
        return None
    volts = raw / 1e6 if raw >= 100_000 else raw / 1e3
    return volts if 0.5 <= volts <= 60 else None


def parse_capacity(text: str) -> float | None:
    """Per cent of charge to a fraction."""
    raw = parse_integer(text)
    return raw / 100 if raw is not None and 0 <= raw <= 100 else None


def parse_charge_coulombs(text: str) -> float | None:
    """Microampere-hours to coulombs; zero and below mean unknown."""
    raw = parse_integer(text)
    return raw * 3.6e-3 if raw is not None and raw > 0 else None


def parse_battery_celsius(text: str) -> float | None:
    """Tenths of a degree (some vendors: thousandths) to degrees Celsius; −1 and −999 mean unknown."""
    raw = parse_integer(text)
    if raw is None or raw == -1:
        return None
    return _plausible_celsius(raw / 10 if abs(raw) < 2_000 else raw / 1_000)


def parse_thermal_celsius(text: str) -> float | None:
    """Thousandths of a degree (some vendors: tenths or degrees) to degrees Celsius.

    Zones that are switched off write 0, −1 or a temperature below any that a phone survives.
    """
    raw = parse_integer(text)
    return None if raw is None else plausible_temperature(raw)


def plausible_temperature(raw: float) -> float | None:
    """A temperature in whatever scale to degrees Celsius; None for what means unknown."""
    if raw in (0, -1):
        return None
    magnitude = abs(raw)
    return _plausible_celsius(raw / 1_000 if magnitude >= 1_000 else raw / 10 if magnitude >= 200 else raw)


def parse_frequency_hertz(text: str) -> float | None:
    """Kilohertz to hertz; ``<unknown>`` and zero mean unknown."""
    raw = parse_integer(text)
    return raw * 1e3 if raw is not None and raw > 0 else None


def parse_charging(text: str) -> float | None:
    """1 while the battery takes charge, 0 while it does not, None where the kernel does not know."""
    known = {"charging": 1.0, "discharging": 0.0, "not charging": 0.0, "full": 0.0}
    return known.get(text.strip().lower())


def parse_online(text: str) -> float | None:
    """Whether an external supply feeds the phone (2 is a programmable one)."""
    raw = parse_integer(text)
    return float(raw > 0) if raw in (0, 1, 2) else None


def parse_lit(text: str) -> float | None:
    """Whether a backlight shines, from its brightness."""
    raw = parse_integer(text)
    return float(raw > 0) if raw is not None and raw >= 0 else None


def parse_rails(text: str) -> dict[str, float]:
    """Accumulated joules of every power rail in an ``energy_value`` file; lines of other forms are left out.

    Lines are ``CH3(T=358356)[S2M_VDD_CPUCL2], 761330`` (microwatt-seconds), older ones ``RAIL, 761330``; the
    first line ``t=...`` is the time of the reading.
    """
    rails: dict[str, float] = {}
    for line in text.splitlines():
        match = _RAIL.match(line.strip())
        if match:
            rails[(match["channel"] or match["plain"]).strip()] = int(match["energy"]) * 1e-6
    return rails


def amperes_per_count(readings: Sequence[int]) -> float | None:
    """Unit of a fuel gauge's ``current_now`` from what it has shown: 1e-6, 1e-3, or None if only zeros.

    The kernel says microamperes, many vendors write milliamperes.
    """
    magnitudes = [abs(reading) for reading in readings if reading != 0]
    if not magnitudes:
        return None
    return 1e-6 if max(magnitudes) > _LARGEST_MILLIAMPERES else 1e-3


def parse_current(text: str) -> int | None:
    """A fuel gauge's current as it stands, in whatever unit; None where it means unknown."""
    raw = parse_integer(text)
    return raw if raw is not None and abs(raw) <= _LARGEST_MICROAMPERES else None


def sign_into_battery(raw: int, status: str) -> int | None:
    """Factor that makes a gauge's reading positive into the battery, or None where this reading cannot tell.

    Gauges differ: negative while discharging (the kernel's word), the opposite, or never negative. A
    charging battery with a negative reading may be an inverted gauge or a phone that draws more than its
    charger gives.
    """
    word = status.strip().lower()
    if word == "discharging" and raw != 0:
        return 1 if raw < 0 else -1
    if word == "charging" and raw > 0:
        return 1
    return None


def step_of(parse: Callable[[str], float | None], text: str) -> float | None:
    """What one count of a source's number is worth, in the unit; None where it is no whole number."""
    raw = parse_integer(text)
    if raw is None:
        return None
    value = parse(text)
    for other in (parse(str(raw + 1)), parse(str(raw - 1))):
        if value is not None and other is not None and other != value:
            return abs(other - value)
    return None


def safe_name(text: str) -> str:
    """A sensor's name out of a phone's text: short, without anything a page or shell could trip over."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text.strip())[:64].strip("-") or "unnamed"


def _plausible_celsius(celsius: float) -> float | None:
    return celsius if _COLDEST_CELSIUS <= celsius <= _HOTTEST_CELSIUS else None
