"""The phone's /sys files: names, units and formats of the Linux and Pixel drivers. Pure.

Paths are relative to /sys. Formats: kernel ``Documentation/ABI/testing/sysfs-class-power`` (µV, µA, µAh,
0.1 °C; many vendors say mA), ``sysfs-class-thermal`` (m°C), cpufreq (kHz), and the ``s2mpg`` energy meters'
IIO files (cumulative µWs).
"""

from __future__ import annotations

from mobifarm.simulator.profile import Profile, ThermalZone
from mobifarm.simulator.sensors.model import Reading, visible_cores

_BATTERY = "class/power_supply/battery"
_USB = "class/power_supply/usb"
_CPU = "devices/system/cpu"


def static_nodes(profile: Profile, machine_cores: int) -> dict[str, str]:
    """Files that never change: path → text."""
    cores = visible_cores(profile, machine_cores)
    everyone = f"0-{len(cores) - 1}" if len(cores) > 1 else "0"
    nodes = {
        f"{_BATTERY}/type": "Battery",
        f"{_BATTERY}/present": "1",
        f"{_BATTERY}/health": "Good",
        f"{_BATTERY}/technology": "Li-ion",
        f"{_BATTERY}/charge_full_design": str(profile.battery.capacity_mah * 1000),
        f"{_BATTERY}/charge_full": str(profile.battery.capacity_mah * 1000),
        f"{_USB}/type": "USB",
        f"{_CPU}/possible": everyone,
        f"{_CPU}/present": everyone,
        f"{_CPU}/online": everyone,
        f"{_CPU}/kernel_max": str(len(cores) - 1),
    }
    for index, cluster in enumerate(cores):
        siblings = " ".join(str(other) for other, core in enumerate(cores) if core == cluster)
        clock = f"{_CPU}/cpu{index}/cpufreq"
        topology = f"{_CPU}/cpu{index}/topology"
        nodes |= {
            f"{_CPU}/cpu{index}/online": "1",
            f"{topology}/physical_package_id": "0",
            f"{topology}/core_id": str(index),
            f"{topology}/core_siblings_list": everyone,
            f"{topology}/thread_siblings_list": str(index),
            f"{clock}/scaling_governor": "schedutil",
            f"{clock}/scaling_driver": "cpufreq-dt",
            f"{clock}/scaling_min_freq": str(cluster.minimum_khz),
            f"{clock}/scaling_max_freq": str(cluster.maximum_khz),
            f"{clock}/cpuinfo_min_freq": str(cluster.minimum_khz),
            f"{clock}/cpuinfo_max_freq": str(cluster.maximum_khz),
            f"{clock}/related_cpus": siblings,
            f"{clock}/affected_cpus": siblings,
        }
    for index, zone in enumerate(profile.thermal.zones):
        nodes[f"class/thermal/thermal_zone{index}/type"] = zone.type
    for index, device in enumerate(profile.rail_devices):
        folder = _rail_folder(index)
        nodes[f"{folder}/name"] = device.name
        nodes[f"{folder}/sampling_rate"] = "125.000000"
        nodes[f"{folder}/enabled_rails"] = "\n".join(
            f"CH{channel}[{rail.channel}]:{rail.subsystem}" for channel, rail in enumerate(device.rails)
        )
    return {path: text + "\n" for path, text in nodes.items()}


def live_nodes(
    profile: Profile, reading: Reading, *, uptime_ms: int, running_ms: int, plugged: bool
) -> dict[str, str]:
    """Files that change: path → text.

    ``uptime_ms`` is the time since the kernel's boot, ``running_ms`` how long the energy meters have counted.
    """
    battery = profile.battery
    scale = 1e6 if battery.current_unit == "uA" else 1e3
    nodes = {
        f"{_BATTERY}/status": charging_status(reading),
        f"{_BATTERY}/capacity": str(battery_percent(reading)),
        f"{_BATTERY}/voltage_now": str(round(reading.battery_volts * 1e6)),
        f"{_BATTERY}/current_now": str(round(-battery.discharge_sign * reading.battery_amperes * scale)),
        f"{_BATTERY}/charge_counter": str(charge_counter_uah(reading)),
        f"{_BATTERY}/temp": str(round(reading.state.body_celsius * 10)),
        f"{_USB}/online": str(int(plugged)),
    }
    for index, core in enumerate(reading.cores):
        nodes[f"{_CPU}/cpu{index}/cpufreq/scaling_cur_freq"] = str(core.frequency_khz)
    for index, zone in enumerate(profile.thermal.zones):
        celsius = zone_celsius(zone, reading)
        nodes[f"class/thermal/thermal_zone{index}/temp"] = str(round(celsius * 1000))
    for index, device in enumerate(profile.rail_devices):
        lines = [f"t={uptime_ms}"]
        for channel, rail in enumerate(device.rails):
            microjoules = round(reading.state.energy_joules[rail.source] * 1e6)
            lines.append(f"CH{channel}(T={running_ms})[{rail.channel}], {microjoules}")
        nodes[f"{_rail_folder(index)}/energy_value"] = "\n".join(lines)
    return {path: text + "\n" for path, text in nodes.items()}


def zone_celsius(zone: ThermalZone, reading: Reading) -> float:
    """What a thermal zone shows."""
    return reading.state.die_celsius if zone.node == "die" else reading.state.body_celsius


def battery_percent(reading: Reading) -> int:
    """Charge as a phone shows it."""
    return round(100 * reading.battery_share)


def charge_counter_uah(reading: Reading) -> int:
    """Charge in the battery, µAh."""
    return round(reading.state.charge_coulombs / 3.6e-3)


def charging_status(reading: Reading) -> str:
    """The power supply class's word; below a milliampere nothing flows."""
    if reading.battery_amperes > 1e-3:
        return "Charging"
    return "Discharging" if reading.battery_amperes < -1e-3 else "Full"


def _rail_folder(index: int) -> str:
    return f"bus/iio/devices/iio:device{index}"
