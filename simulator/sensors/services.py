"""Output of ``dumpsys`` services that carry sensor values, in AOSP's formats. Pure."""

from __future__ import annotations

from typing import Final

from mobifarm.simulator.profile import Profile, ThermalZone
from mobifarm.simulator.sensors.model import Reading
from mobifarm.simulator.sensors.nodes import (
    battery_percent,
    charge_counter_uah,
    charging_status,
    zone_celsius,
)

# Skin temperatures from which Android's thermal statuses 1 (light) to 6 (shutdown) hold.
SKIN_THRESHOLDS_CELSIUS: Final = (39.0, 43.0, 45.0, 46.5, 52.0, 55.0)

_CPU, _BATTERY, _SKIN, _NPU = 0, 2, 3, 9
_STATUS_NUMBERS = {"Charging": 2, "Discharging": 3, "Full": 5}
_METER = "PowerStats HAL 2.0 energy meter"


def service_outputs(profile: Profile, reading: Reading, *, plugged: bool) -> dict[str, str]:
    """Service name → text."""
    outputs = {
        "battery": _battery(profile, reading, plugged=plugged),
        "thermalservice": _thermal(profile, reading),
    }
    if profile.rail_devices:
        outputs["android.hardware.power.stats.IPowerStats/default"] = _power_stats(profile, reading)
    return outputs


def thermal_status(celsius: float) -> int:
    """Android's thermal status for a skin temperature: 0 (none) to 6 (shutdown)."""
    return sum(celsius >= threshold for threshold in SKIN_THRESHOLDS_CELSIUS)


def _battery(profile: Profile, reading: Reading, *, plugged: bool) -> str:
    lines = [
        "Current Battery Service state:",
        "  AC powered: false",
        f"  USB powered: {str(plugged).lower()}",
        "  Wireless powered: false",
        "  Dock powered: false",
        f"  Max charging current: {900000 if plugged else 0}",
        f"  Max charging voltage: {5000000 if plugged else 0}",
        f"  Charge counter: {charge_counter_uah(reading)}",
        f"  status: {_STATUS_NUMBERS[charging_status(reading)]}",
        "  health: 2",
        "  present: true",
        f"  level: {battery_percent(reading)}",
        "  scale: 100",
        f"  voltage: {round(reading.battery_volts * 1000)}",
        f"  temperature: {round(reading.state.body_celsius * 10)}",
        "  technology: Li-ion",
    ]
    if profile.properties["ro.product.manufacturer"] == "samsung":
        lines.append(f"  current now: {round(reading.battery_amperes * 1000)}")
    return "\n".join(lines) + "\n"


def _thermal(profile: Profile, reading: Reading) -> str:
    status = thermal_status(reading.state.body_celsius)
    temperatures = [
        f"\tTemperature{{mValue={zone_celsius(zone, reading):.1f}, mType={kind}, mName={zone.type}, "
        f"mStatus={status if kind == _SKIN else 0}}}"
        for zone in profile.thermal.zones
        for kind in [_temperature_type(zone)]
    ]
    hot = ", ".join(["NaN", *(f"{threshold:.1f}" for threshold in SKIN_THRESHOLDS_CELSIUS)])
    cold = ", ".join(["NaN"] * (1 + len(SKIN_THRESHOLDS_CELSIUS)))
    thresholds = [
        f"\tTemperatureThreshold{{mType={_SKIN}, mName={zone.type}, mHotThrottlingThresholds=[{hot}], "
        f"mColdThrottlingThresholds=[{cold}]}}"
        for zone in profile.thermal.zones
        if _temperature_type(zone) == _SKIN
    ]
    return "\n".join(
        [
            "IsStatusOverride: false",
            f"Thermal Status: {status}",
            "Cached temperatures:",
            *temperatures,
            "HAL Ready: true",
            "HAL connection:",
            "\tThermalHAL AIDL 2  connected: yes",
            "Current temperatures from HAL:",
            *temperatures,
            "Current cooling devices from HAL:",
            "Temperature static thresholds from HAL:",
            *thresholds,
            "",
        ]
    )


def _temperature_type(zone: ThermalZone) -> int:
    if zone.type == "battery":
        return _BATTERY
    if zone.node == "body":
        return _SKIN
    return _NPU if zone.type.startswith("nsp") else _CPU


def _power_stats(profile: Profile, reading: Reading) -> str:
    lines = [f"============= {_METER} =============="]
    for device in profile.rail_devices:
        for rail in device.rails:
            name = f"[{rail.channel}]:{rail.subsystem}"
            lines.append(f"{name:>32}   {reading.state.energy_joules[rail.source] * 1000:14.2f} mWs")
    lines.append(f"========== End of {_METER} ==========")
    return "\n".join(lines) + "\n"
