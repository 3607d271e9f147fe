"""From findings to a virtual phone: the profile that ``mobifarm simulate run --profile FILE`` reads.

What was found is taken over. What no probe can tell (heat, power of the cores, the battery's resistance) gets
plausible values, and ``assumed`` names them: figures of a virtual phone are never a phone's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from mobifarm.controller.doctor.finding import Finding

FORMAT: Final = "mobifarm-doctor/1"
_NEEDED_PROPERTIES: Final = (
    "ro.product.manufacturer",
    "ro.product.model",
    "ro.product.name",
    "ro.product.device",
)
# The virtual phone says these itself.
_OWN_PROPERTIES: Final = re.compile(r"ro\.product\.cpu\.|ro\.boot\.mobifarm\.")
_BODY_ZONE: Final = re.compile(r"battery|skin|soc_therm|quiet|shell|xo|charger", re.IGNORECASE)
_ASSUMED: Final = (
    "base_power_watts",
    "memory_power_watts",
    "clusters.core_power_watts",
    "battery.empty_volts",
    "battery.full_volts",
    "battery.resistance_ohms",
    "battery.usb_power_watts",
    "thermal",
    "rail_devices.rails.source",
)


def document(device_id: str, serial: str, examined_at: float, findings: Sequence[Finding]) -> dict[str, Any]:
    """The doctor's file: who was examined when (unix seconds), every finding, and the virtual phone."""
    return {
        "format": FORMAT,
        "device_id": device_id,
        "serial": serial,
        "examined_at": examined_at,
        "findings": [asdict(finding) for finding in findings],
        "virtual_phone": virtual_phone(findings),
        "assumed": list(_ASSUMED),
    }


def virtual_phone(findings: Sequence[Finding]) -> dict[str, Any]:
    """A profile in the simulator's form, see ``simulator/profiles``."""
    found = {finding.probe: finding.value for finding in findings}
    properties = _properties(found.get("properties") or {})
    battery = found.get("battery") or {}
    return {
        "title": f"{properties['ro.product.model']}, as mobifarm doctor found it",
        "properties": properties,
        "memory_gib": max(1, -(-int(found.get("memory") or 0) // (1 << 30))),
        "clusters": _clusters(found.get("clusters") or []),
        "base_power_watts": 0.5,
        "memory_power_watts": 0.5,
        "battery": {
            "capacity_mah": max(1, int(battery.get("capacity_uah") or 4_000_000) // 1000),
            "empty_volts": 3.4,
            "full_volts": 4.4,
            "resistance_ohms": 0.1,
            "current_unit": battery.get("current_unit") or "uA",
            "discharge_sign": _discharge_sign(battery),
            "usb_power_watts": 4.5,
        },
        "thermal": {
            "die_resistance_k_per_w": 5.0,
            "die_capacity_j_per_k": 4.0,
            "body_resistance_k_per_w": 5.5,
            "body_capacity_j_per_k": 120.0,
            "zones": [
                {"type": zone["type"], "node": "body" if _BODY_ZONE.search(zone["type"]) else "die"}
                for zone in found.get("thermal_zones") or []
            ],
        },
        "rail_devices": [
            {"name": name, "rails": [{**rail, "source": "base"} for rail in rails]}
            for name, rails in (found.get("power_rails") or {}).items()
        ],
        "unreadable": _unreadable(found),
    }


def _properties(found: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in found.items()
        if not _OWN_PROPERTIES.match(name) and "=" not in name and "\n" not in name + value
    }
    return {**dict.fromkeys(_NEEDED_PROPERTIES, "unknown"), **kept}


def _clusters(found: Sequence[Mapping[str, int]]) -> list[dict[str, Any]]:
    known = found or [{"cores": 4, "minimum_khz": 300_000, "maximum_khz": 2_000_000}]
    return [
        {
            "name": f"cluster-{number}",
            **cluster,
            # About as the clock's square, 3 W at 3 GHz.
            "core_power_watts": round(3.0 * (cluster["maximum_khz"] / 3e6) ** 2, 2),
        }
        for number, cluster in enumerate(known)
    ]


def _discharge_sign(battery: Mapping[str, Any]) -> int:
    """-1 is the kernel's convention; what was seen decides."""
    inverted = battery.get("current_sign") == "positive_out_of_battery"
    return 1 if inverted or battery.get("current_seen") == "negative while charging" else -1


def _unreadable(found: Mapping[str, Any]) -> list[str]:
    battery = found.get("battery") or {}
    denied = [f"class/power_supply/battery/{name}" for name in battery.get("denied", ())]
    zones = found.get("thermal_zones") or []
    denied += [
        f"class/thermal/thermal_zone{number}/temp"
        for number, zone in enumerate(zones)
        if not zone["readable"]
    ]
    for number, rails in enumerate((found.get("power_rails") or {}).values()):
        denied += [f"bus/iio/devices/iio:device{number}/energy_value"] if not rails else []
    return sorted(path for path in denied if re.fullmatch(r"[\w/:.-]+", path) and ".." not in path)
