"""What this phone can tell about itself: every source is probed once and described, then read at will.

A source that cannot be opened stays in the description with the reason and is not read any more. Modes and
labels differ per vendor, so nothing is assumed from the phone's model. Where the kernel's files are denied,
Android's services are asked instead.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from mobifarm.agent import dumpsys, readings
from mobifarm.agent.memory import parse_kibibytes
from mobifarm.agent.sources import (
    Ask,
    BatteryService,
    CurrentCalibration,
    CurrentSource,
    FileSource,
    MemorySource,
    Query,
    RailSource,
    ServiceSource,
    Source,
    StorageSource,
    text_of,
    text_or_empty,
)

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

# How often a service is asked. Each answer costs the phone some milliseconds of processor time.
_BATTERY_PERIOD_S: Final = 2.0
_POWER_STATS_PERIOD_S: Final = 1.0
_THERMAL_PERIOD_S: Final = 10.0
_THERMAL_ALONE_PERIOD_S: Final = 2.0  # where no zone of the kernel can be read

# Unit and resolution of what services tell, temperatures and rails aside.
_SERVICE_UNITS: Final[Mapping[str, tuple[str, float]]] = {
    "battery/voltage": ("V", 1e-3),
    "battery/charge": ("C", 3.6e-3),
    "battery/capacity": ("1", 0.01),
    "battery/charging": ("1", 1.0),
    "battery/current": ("A", 1e-3),
    "thermal/status": ("1", 1.0),
}
_RESOLUTIONS: Final[Mapping[str, float]] = {"byte": 1024.0, "1": 1.0}


@dataclass(frozen=True, slots=True)
class SensorDescription:
    """One value that a sample may hold.

    Attributes:
        source: file or command.
        sign: of currents only: ``positive_into_battery`` or ``unknown``.
        reason: why it is not readable.
        resolution: smallest step of the source's format, in the unit; None where there is none.
    """

    name: str
    source: str
    unit: str
    readable: bool
    sign: str = ""
    reason: str = ""
    resolution: float | None = None


class Sensors:
    """All that was found on this phone."""

    def __init__(
        self,
        descriptions: tuple[SensorDescription, ...],
        sources: tuple[Source, ...],
        gauges: Mapping[str, CurrentCalibration],
    ) -> None:
        self._descriptions = descriptions
        self._sources = sources
        self._gauges = gauges

    @property
    def descriptions(self) -> tuple[SensorDescription, ...]:
        """Of all values, with what is known by now of the gauges."""
        return tuple(
            replace(one, sign=_sign(gauge), resolution=gauge.resolution)
            if one.readable and (gauge := self._gauges.get(one.name)) is not None
            else one
            for one in self._descriptions
        )

    def read(self) -> dict[str, float]:
        """One sample in the units of the descriptions; what cannot be read now is absent."""
        values: dict[str, float] = {}
        for source in self._sources:
            try:
                values.update(source.read())
            except OSError:  # a sensor that comes and goes; the sample lacks it
                continue
        return values

    @property
    def services_cpu_s(self) -> float:
        """Processor time that asking Android's services has taken so far."""
        return sum(source.cpu_s for source in self._sources if isinstance(source, ServiceSource))


def probe(root: Path, home: Path | None = None, ask: Ask | None = None) -> Sensors:
    """Find and try every source.

    Args:
        root: folder of ``sys`` and ``proc``, ``/`` on a phone.
        home: a folder on the storage that is told of.
        ask: of Android's services; None where there are none.
    """
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
    if ask is not None:
        _probe_services(found, ask)
    return Sensors(tuple(found.descriptions.values()), tuple(found.sources), found.gauges)


def cpu_governors(root: Path) -> dict[str, str]:
    """The cpufreq governor of every processor that tells, by its number."""
    governors: dict[str, str] = {}
    for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"):
        word = text_or_empty(path).strip()
        if re.fullmatch(r"[A-Za-z_]{1,32}", word):
            governors[path.parent.parent.name.removeprefix("cpu")] = word
    return governors


def memory_total_bytes(root: Path) -> int | None:
    """Memory that the phone's kernel manages."""
    try:
        return parse_kibibytes(text_of(root / "proc/meminfo"), "MemTotal")
    except OSError:
        return None


class _Findings:
    """Collects sources and their descriptions, one name each."""

    def __init__(self) -> None:
        self.descriptions: dict[str, SensorDescription] = {}
        self.sources: list[Source] = []
        self.gauges: dict[str, CurrentCalibration] = {}

    def readable(self, prefix: str) -> bool:
        return any(one.readable for name, one in self.descriptions.items() if name.startswith(prefix))

    def free_name(self, name: str, suffix: str) -> str:
        return name if name not in self.descriptions else f"{name}-{suffix}"

    def missing(self, name: str, source: Path, unit: str, reason: str) -> None:
        self.describe(SensorDescription(name, str(source), unit, False, reason=reason))

    def try_file(self, name: str, path: Path, parse: Callable[[str], float | None], unit: str) -> None:
        step = readings.step_of(parse, text_or_empty(path))
        self.try_source(name, FileSource(name, path, parse), str(path), unit, step)

    def try_current(self, source: CurrentSource) -> None:
        self.try_source(source.name, source, str(source.path), "A")
        self.gauges[source.name] = source.calibration

    def try_source(
        self, name: str, source: Source, path: str, unit: str, resolution: float | None = None
    ) -> None:
        try:
            values = source.read()
        except OSError as error:
            self.describe(SensorDescription(name, path, unit, False, reason=_words(error)))
            return
        self.sources.append(source)
        reason = "" if name in values else "the phone writes a value that means unknown"
        step = _RESOLUTIONS.get(unit) if resolution is None else resolution
        self.describe(SensorDescription(name, path, unit, name in values, reason=reason, resolution=step))

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
            self.describe(SensorDescription(name, str(source.path), "J", True, resolution=1e-6))

    def describe(self, description: SensorDescription) -> None:
        self.descriptions[description.name] = description


def _probe_supplies(found: _Findings, folder: Path) -> None:
    supplies = _list(found, folder, "battery", "V")
    batteries = [s for s in supplies if text_or_empty(s / "type").strip() == "Battery" or s.name == "battery"]
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
        kind = readings.safe_name(text_or_empty(zone / "type") or zone.name)
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


def _probe_services(found: _Findings, ask: Ask) -> None:
    """Ask each service once: what the kernel's files do not tell is taken from them."""
    battery = BatteryService()
    has_zones = found.readable("thermal/")
    known = {name for name, one in found.descriptions.items() if one.readable}

    def thermal(text: str) -> dict[str, float]:
        values = dumpsys.parse_thermal(text)
        # Zones of the kernel and temperatures of the HAL have other names for the same places.
        return {name: value for name, value in values.items() if not has_zones or name == "thermal/status"}

    thermal_period_s = _THERMAL_PERIOD_S if has_zones else _THERMAL_ALONE_PERIOD_S
    asked = [_probe_service(found, ask, dumpsys.THERMAL, thermal_period_s, thermal, "thermal/status")]
    if not all(f"battery/{name}" in known for name in ("voltage", "temperature", "charging", "current")):
        for command, parse, name in (
            (dumpsys.BATTERY, battery.parse, "battery/voltage"),
            (dumpsys.CURRENT_NOW, battery.parse_current, "battery/current"),
        ):
            if not found.readable(name) or command is dumpsys.BATTERY:
                new = _without(parse, known)
                asked.append(_probe_service(found, ask, command, _BATTERY_PERIOD_S, new, name))
        if found.readable("battery/current") and "battery/current" not in known:
            found.gauges["battery/current"] = battery.gauge
            if asked[1] is None:  # the current's sign needs the status
                asked[1] = Query(dumpsys.BATTERY, _BATTERY_PERIOD_S, _without(battery.parse, known))
    if not found.readable("rail"):
        parse_rails = dumpsys.parse_power_stats
        asked.append(
            _probe_service(found, ask, dumpsys.POWER_STATS, _POWER_STATS_PERIOD_S, parse_rails, "rail")
        )
    queries = [query for query in asked if query is not None]
    if queries:
        found.sources.append(ServiceSource(queries, ask))


def _without(
    parse: Callable[[str], Mapping[str, float]], known: Set[str]
) -> Callable[[str], dict[str, float]]:
    return lambda text: {name: value for name, value in parse(text).items() if name not in known}


def _probe_service(
    found: _Findings,
    ask: Ask,
    command: tuple[str, ...],
    period_s: float,
    parse: Callable[[str], Mapping[str, float]],
    name: str,
) -> Query | None:
    """Try one service; None where it has nothing to tell, of which ``name`` then says why."""
    source, reason = " ".join(command), "the service tells nothing in a known format"
    try:
        values = parse(ask(command))
    except OSError as error:
        reason, values = _words(error), {}
    for one in values:
        unit, resolution = _service_unit(one)
        found.describe(SensorDescription(one, source, unit, True, resolution=resolution))
    if not values and name not in found.descriptions:
        unit = _service_unit(name)[0]
        found.describe(SensorDescription(name, source, unit, False, reason=reason))
    return Query(command, period_s, parse) if values else None


def _service_unit(name: str) -> tuple[str, float]:
    """Unit and resolution of what a service tells."""
    if name.startswith("rail"):
        return "J", 1e-5
    if name.endswith("/online"):
        return "1", 1.0
    return _SERVICE_UNITS.get(name, ("degC", 0.1))


def _sign(gauge: CurrentCalibration) -> str:
    return "unknown" if gauge.sign is None else "positive_into_battery"


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


def _parse_available(text: str) -> float | None:
    return parse_kibibytes(text, "MemAvailable")


def _words(error: OSError) -> str:
    return (error.strerror or "cannot be read").lower()
