"""Phone profiles: what a virtual phone pretends to be. Data files in ``profiles/``, checked on reading."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal


class UnknownProfileError(ValueError):
    """No profile has this name."""


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
        abi = {"aarch64": "arm64-v8a"}.get(platform.machine(), platform.machine())
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
    """Read a profile. Raises :class:`UnknownProfileError`; TypeError or KeyError for a broken file."""
    known = profile_names()
    if name not in known:
        raise UnknownProfileError(f"no phone profile is called {name!r}; choose one of: {', '.join(known)}")
    text = (files("mobifarm.simulator") / "profiles" / f"{name}.json").read_text(encoding="utf-8")
    return parse_profile(name, json.loads(text))


def parse_profile(name: str, data: dict[str, Any]) -> Profile:
    """Build a profile from its JSON form. Raises TypeError or KeyError for missing or unknown fields."""
    thermal = dict(data["thermal"])
    zones = tuple(ThermalZone(**zone) for zone in thermal.pop("zones"))
    fields = {
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
    return Profile(name=name, **fields)


def serial_of(phone_name: str) -> str:
    """A phone's serial number: the same for the same name, everywhere."""
    return "VP" + hashlib.sha256(phone_name.encode()).hexdigest()[:10].upper()
