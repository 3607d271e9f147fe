"""Phone profiles: what a virtual phone pretends to be. Data files in ``profiles/``, checked on reading."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

from mobifarm.simulator.emulation import host_abi

_NEEDED_PROPERTIES = ("ro.product.manufacturer", "ro.product.model")
# Sources of power beside the clusters.
MEMORY: Final = "memory"
BASE: Final = "base"


class UnknownProfileError(ValueError):
    """No profile has this name, or the file is none."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """CPU cores of one kind. ``core_power_watts`` is one busy core's power."""

    name: str
    cores: int
    minimum_khz: int
    maximum_khz: int
    core_power_watts: float


@dataclass(frozen=True, slots=True)
class Battery:
    """A battery, its fuel gauge's habits, and the power that the USB port gives."""

    capacity_mah: int
    empty_volts: float
    full_volts: float
    resistance_ohms: float
    current_unit: Literal["uA", "mA"]
    discharge_sign: Literal[-1, 1]
    usb_power_watts: float


@dataclass(frozen=True, slots=True)
class ThermalZone:
    """A sensor on the die or on the body."""

    type: str
    node: Literal["die", "body"]


@dataclass(frozen=True, slots=True)
class Thermal:
    """A chain of two masses: die - body - air."""

    die_resistance_k_per_w: float
    die_capacity_j_per_k: float
    body_resistance_k_per_w: float
    body_capacity_j_per_k: float
    zones: tuple[ThermalZone, ...]


@dataclass(frozen=True, slots=True)
class Rail:
    """A metered supply; ``source`` is a cluster's name, "memory" or "base"."""

    channel: str
    subsystem: str
    source: str


@dataclass(frozen=True, slots=True)
class RailDevice:
    """An IIO energy meter."""

    name: str
    rails: tuple[Rail, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of phone."""

    name: str
    title: str
    properties: dict[str, str]
    memory_gib: int
    clusters: tuple[Cluster, ...]
    base_power_watts: float
    memory_power_watts: float
    battery: Battery
    thermal: Thermal
    rail_devices: tuple[RailDevice, ...]
    unreadable: tuple[str, ...]

    def phone_properties(self, serial: str) -> dict[str, str]:
        """What ``getprop`` shows on a phone of this kind: the profile's names and the machine's real ABI."""
        abi = host_abi()
        return {
            **self.properties,
            "ro.serialno": serial,
            "ro.boot.serialno": serial,
            "ro.product.cpu.abi": abi,
            "ro.product.cpu.abilist": abi,
            "ro.boot.mobifarm.virtual": "1",
            "sys.boot_completed": "1",
        }


def profile_names() -> list[str]:
    """Names of all profiles, sorted."""
    folder = files("mobifarm.simulator") / "profiles"
    return sorted(
        entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json")
    )


def load_profile(name: str) -> Profile:
    """Read a profile that comes with the program, or one that ``mobifarm doctor`` wrote (``….json``).

    Raises :class:`UnknownProfileError`; TypeError or KeyError for a broken file of the program's own.
    """
    if name.endswith(".json"):
        return _load_file(Path(name))
    known = profile_names()
    if name not in known:
        raise UnknownProfileError(f"no phone profile is called {name!r}; choose one of: {', '.join(known)}")
    text = (files("mobifarm.simulator") / "profiles" / f"{name}.json").read_text(encoding="utf-8")
    return parse_profile(name, json.loads(text))


def _load_file(path: Path) -> Profile:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem)[:40].strip("-") or "phone"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return parse_profile(name, document.get("virtual_phone", document))
    except OSError as error:
        raise UnknownProfileError(f"the phone profile {path} cannot be read ({error.strerror})") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UnknownProfileError(
            f"{path} is no phone profile ({error}): give a file that `mobifarm doctor` wrote"
        ) from None


def parse_profile(name: str, data: dict[str, Any]) -> Profile:
    """Build a profile from its JSON form.

    Raises TypeError or KeyError for missing or unknown fields, ValueError for a path outside of /sys, a
    property that cannot be one, and numbers and names that no phone could be modelled by.
    """
    for path in data["unreadable"]:
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"{path[:80]!r} is no path below /sys")
    for key, value in data["properties"].items():
        if "=" in key or "\n" in key + value:
            raise ValueError(f"{key[:80]!r} is no property")
    missing = [name for name in _NEEDED_PROPERTIES if not data["properties"].get(name)]
    if missing:
        raise ValueError(f"it has no property {missing[0]}")
    thermal = dict(data["thermal"])
    zones = tuple(ThermalZone(**zone) for zone in thermal.pop("zones"))
    parts = {
        **data,
        "clusters": tuple(Cluster(**cluster) for cluster in data["clusters"]),
        "battery": Battery(**data["battery"]),
        "thermal": Thermal(**thermal, zones=zones),
        "rail_devices": tuple(
            RailDevice(device["name"], tuple(Rail(**rail) for rail in device["rails"]))
            for device in data["rail_devices"]
        ),
        "unreadable": tuple(data["unreadable"]),
    }
    profile = Profile(name=name, **parts)
    _check(profile)
    return profile


def _check(profile: Profile) -> None:
    for name, value in _numbers(profile):
        # The model divides by them, and takes powers for heat that flows out.
        low = 0.0 if name.endswith("_watts") else 1e-9
        if name == "discharge_sign":
            good = value in (-1, 1)
        else:
            good = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= 1e9
        if not good:
            raise ValueError(f"{name} is {str(value)[:40]!r}: that is no number it could be")
    if not profile.clusters:
        raise ValueError("it has no clusters")
    sources = {MEMORY, BASE, *(cluster.name for cluster in profile.clusters)}
    for rail in (rail for device in profile.rail_devices for rail in device.rails):
        if rail.source not in sources:
            raise ValueError(f"the rail {rail.channel[:40]!r} has no source of the name {rail.source[:40]!r}")


def _numbers(part: object) -> Iterator[tuple[str, object]]:
    """Names and values of all that is to be a number in a dataclass and those within it."""
    if isinstance(part, tuple):
        for inner in part:
            yield from _numbers(inner)
    elif is_dataclass(part):
        for field in fields(part):
            value = getattr(part, field.name)
            if field.type in ("int", "float") or field.name == "discharge_sign":
                yield field.name, value
            else:
                yield from _numbers(value)


def serial_of(phone_name: str) -> str:
    """A phone's serial number: the same for the same name, everywhere."""
    return "VP" + hashlib.sha256(phone_name.encode()).hexdigest()[:10].upper()
