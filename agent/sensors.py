"""What this phone can tell about itself: every source is probed once and described, then read at will.

A source that cannot be opened stays in the description with the reason and is not read any more. Modes and
labels differ per vendor, so nothing is assumed from the phone's model.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from mobifarm.agent import readings
from mobifarm.agent.memory import parse_kibibytes, rss_bytes

# Qualcomm registers battery levels and current limits as thermal zones; they are no temperatures.
_NOT_TEMPERATURES = re.compile(r"soc\Z|.*(vbat|ibat|bcl|-lvl)", re.IGNORECASE)

_SUPPLY_FILES: tuple[tuple[str, str, Callable[[str], float | None], str], ...] = (
    ("voltage", "voltage_now", readings.parse_voltage, "V"),
    ("capacity", "capacity", readings.parse_capacity, "1"),
    ("temperature", "temp", readings.parse_battery_celsius, "degC"),
    ("charge", "charge_counter", readings.parse_charge_coulombs, "C"),
    ("charging", "status", readings.parse_charging, "1"),
    ("online", "online", readings.parse_online, "1"),
)


@dataclass(frozen=True, slots=True)
class SensorDescription:
    """One value that a sample may hold; ``sign`` is for currents only, ``reason`` is for unreadable ones."""

    name: str
    source: str
    unit: str
    readable: bool
    sign: str = ""
    reason: str = ""


class Source(Protocol):
    """Something that is read at every sample."""

    def read(self) -> Mapping[str, float]:
        """Values by sensor name without what is unknown now. Raises OSError where nothing can be read."""
        ...


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file with one value."""

    name: str
    path: Path
    parse: Callable[[str], float | None]

    def read(self) -> Mapping[str, float]:
        """The file's value."""
        value = self.parse(_text(self.path))
        return {} if value is None else {self.name: value}


@dataclass(slots=True)
class CurrentSource:
    """A supply's current; its unit is learned from what it shows, its sign from the charging status."""

    name: str
    path: Path
    status: Path | None
    sign: int | None = None
    _seen: deque[int] = field(default_factory=lambda: deque(maxlen=64))
    _microamperes: bool = False

    def read(self) -> Mapping[str, float]:
        """Amperes, positive into the battery where the sign is known."""
        raw = readings.parse_integer(_text(self.path))
        if raw is None:
            return {}
        if raw == 0:
            return {self.name: 0.0}
        self._seen.append(raw)
        unit = 1e-6 if self._microamperes else readings.amperes_per_count(self._seen)
        if unit is None:
            return {}
        self._microamperes = unit == 1e-6
        return {self.name: raw * unit * (self._sign_now(raw) or 1)}

    def _sign_now(self, raw: int) -> int | None:
        if self.status is None:
            return None
        told = readings.sign_into_battery(raw, _text(self.status))
        if told is not None and self.sign is None:
            self.sign = told
        return told if told is not None else self.sign


@dataclass(frozen=True, slots=True)
class RailSource:
    """A file with the accumulated energy of several power rails."""

    path: Path
    prefix: str

    def read(self) -> Mapping[str, float]:
        """Joules since the phone started, by rail."""
        rails = readings.parse_rails(_text(self.path))
        return {f"{self.prefix}/{readings.safe_name(rail)}/energy": joules for rail, joules in rails.items()}


@dataclass(frozen=True, slots=True)
class MemorySource:
    """The agent's own resident memory."""

    name: str

    def read(self) -> Mapping[str, float]:
        """Bytes."""
        size = rss_bytes()
        return {} if size is None else {self.name: float(size)}


@dataclass(frozen=True, slots=True)
class Sensors:
    """All that was found on this phone."""

    descriptions: tuple[SensorDescription, ...]
    sources: tuple[Source, ...]

    def read(self) -> dict[str, float]:
        """One sample in the units of the descriptions; what cannot be read now is absent."""
        values: dict[str, float] = {}
        for source in self.sources:
            try:
                values.update(source.read())
            except OSError:  # a sensor that comes and goes; the sample lacks it
                continue
        return values


@dataclass(frozen=True, slots=True)
class StorageSource:
    """What this user may still write to a file system."""

    name: str
    folder: Path

    def read(self) -> Mapping[str, float]:
        """Bytes."""
        found = os.statvfs(self.folder)
        return {self.name: float(found.f_bavail * found.f_frsize)}


def probe(root: Path, home: Path | None = None) -> Sensors:
    """Find and try every source below ``root`` (``/`` on a phone), and the storage that ``home`` is on."""
    found = _Findings()
    _probe_supplies(found, root / "sys/class/power_supply")
    _probe_thermal(found, root / "sys/class/thermal")
    _probe_frequencies(found, root / "sys/devices/system/cpu")
    _probe_rails(found, root / "sys/bus/iio/devices")
    _probe_screen(found, root / "sys/class")
    if home is not None:
        found.try_source("storage/available", StorageSource("storage/available", home), str(home), "byte")
    meminfo = root / "proc/meminfo"
    found.try_file("memory/available", meminfo, _parse_available, "byte")
    found.try_source("agent/rss", MemorySource("agent/rss"), "/proc/self/status", "byte")
    return Sensors(tuple(found.descriptions), tuple(found.sources))


def memory_total_bytes(root: Path) -> int | None:
    """Memory that the phone's kernel manages."""
    try:
        return parse_kibibytes(_text(root / "proc/meminfo"), "MemTotal")
    except OSError:
        return None


class _Findings:
    """Collects sources and their descriptions, one name each."""

    def __init__(self) -> None:
        self.descriptions: list[SensorDescription] = []
        self.sources: list[Source] = []
        self._names: set[str] = set()

    def free_name(self, name: str, suffix: str) -> str:
        return name if name not in self._names else f"{name}-{suffix}"

    def missing(self, name: str, source: Path, unit: str, reason: str) -> None:
        self._describe(SensorDescription(name, str(source), unit, False, reason=reason))

    def try_file(self, name: str, path: Path, parse: Callable[[str], float | None], unit: str) -> None:
        self.try_source(name, FileSource(name, path, parse), str(path), unit)

    def try_current(self, source: CurrentSource) -> None:
        self.try_source(source.name, source, str(source.path), "A")
        sign = "unknown" if source.sign is None else "positive_into_battery"
        self.descriptions[-1] = replace(self.descriptions[-1], sign=sign)

    def try_source(self, name: str, source: Source, path: str, unit: str) -> None:
        try:
            values = source.read()
        except OSError as error:
            self._describe(SensorDescription(name, path, unit, False, reason=_words(error)))
            return
        self.sources.append(source)
        reason = "" if name in values else "the phone writes a value that means unknown"
        self._describe(SensorDescription(name, path, unit, name in values, reason=reason))

    def try_rails(self, source: RailSource) -> None:
        try:
            values = source.read()
        except OSError as error:
            self.missing(source.prefix, source.path, "J", _words(error))
            return
        if not values:
            self.missing(source.prefix, source.path, "J", "no rail in a known format")
            return
        self.sources.append(source)
        for name in values:
            self._describe(SensorDescription(name, str(source.path), "J", True))

    def _describe(self, description: SensorDescription) -> None:
        self._names.add(description.name)
        self.descriptions.append(description)


def _probe_supplies(found: _Findings, folder: Path) -> None:
    supplies = _list(found, folder, "battery", "V")
    batteries = [
        s for s in supplies if _text_or_empty(s / "type").strip() == "Battery" or s.name == "battery"
    ]
    # Fuel gauges and charger chips register as batteries too; "battery" is what Android itself reads.
    main = next((one for one in batteries if one.name == "battery"), next(iter(batteries), None))
    for supply in supplies:
        prefix = "battery" if supply == main else readings.safe_name(supply.name)
        for name, file, parse, unit in _SUPPLY_FILES:
            if (supply == main and file != "online") or os.path.exists(supply / file):
                found.try_file(f"{prefix}/{name}", supply / file, parse, unit)
        status = supply / "status" if supply in batteries else None
        current = CurrentSource(f"{prefix}/current", supply / "current_now", status)
        if supply == main or os.path.exists(current.path):
            found.try_current(current)


def _probe_thermal(found: _Findings, folder: Path) -> None:
    for zone in _list(found, folder, "thermal", "degC", "thermal_zone"):
        number = zone.name.removeprefix("thermal_zone")
        kind = readings.safe_name(_text_or_empty(zone / "type") or zone.name)
        name = found.free_name(f"thermal/{kind}", number)
        if _NOT_TEMPERATURES.match(kind):
            found.missing(name, zone / "temp", "degC", "this zone is not a temperature")
        else:
            found.try_file(name, zone / "temp", readings.parse_thermal_celsius, "degC")


def _probe_frequencies(found: _Findings, folder: Path) -> None:
    for cpu in _list(found, folder, "cpu", "Hz", "cpu"):
        if cpu.name.removeprefix("cpu").isdigit():
            number = int(cpu.name.removeprefix("cpu"))
            path = cpu / "cpufreq/scaling_cur_freq"
            found.try_file(f"cpu/{number}/frequency", path, readings.parse_frequency_hertz, "Hz")


def _probe_rails(found: _Findings, folder: Path) -> None:
    devices = _list(found, folder, "rail", "J", "iio:device")
    meters = [device / "energy_value" for device in devices if (device / "energy_value").exists()]
    if devices and not meters:
        found.missing("rail", folder, "J", "no energy meter among the devices")
    for index, meter in enumerate(meters):
        found.try_rails(RailSource(meter, "rail" if index == 0 else f"rail-{index}"))


def _probe_screen(found: _Findings, classes: Path) -> None:
    """A dark backlight is a screen that is off; phones without a readable one leave it unknown."""
    names = ("backlight/*/actual_brightness", "backlight/*/brightness", "leds/lcd-backlight/brightness")
    lights = [path for name in names for path in sorted(classes.glob(name))]
    if lights:
        found.try_file("screen/on", lights[0], readings.parse_lit, "1")
    else:
        found.missing("screen/on", classes / "backlight", "1", "no such sensor on this phone")


def _list(found: _Findings, folder: Path, name: str, unit: str, prefix: str = "") -> list[Path]:
    """Entries of ``folder`` in natural order; where there are none, the reason goes into the description."""
    try:
        entries = [entry for entry in folder.iterdir() if entry.name.startswith(prefix)]
    except OSError as error:
        found.missing(name, folder, unit, _words(error))
        return []
    if not entries:
        found.missing(name, folder, unit, "no such sensor on this phone")
    return sorted(entries, key=lambda entry: (len(entry.name), entry.name))


def _text(path: Path) -> str:
    return path.read_bytes()[:65536].decode("utf-8", "replace")


def _text_or_empty(path: Path) -> str:
    try:
        return _text(path)
    except OSError:
        return ""


def _parse_available(text: str) -> float | None:
    return parse_kibibytes(text, "MemAvailable")


def _words(error: OSError) -> str:
    return (error.strerror or "cannot be read").lower()
