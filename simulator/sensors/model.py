"""The phone's physics, much simplified. Pure. Every figure that comes from here is modelled, never measured.

Power: a second of CPU time costs the core's full power, whatever the load (race to idle). So the energy of a
piece of work does not depend on how busy the machine below the phone was with other things. Work goes to the
fastest cores first. Memory follows the share of busy cores, the rest is constant. The clock that is shown
rises with the load, a quarter above it as schedutil asks for.

Heat: die and body are two masses, chained to the air by thermal resistances; one implicit Euler step, which
is stable for every step length: temperatures stay between the air's and those of the steady state.

Battery: open-circuit voltage linear in the charge, one internal resistance; the port's power feeds the phone
first and charges with what is left, less and less above 80 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mobifarm.simulator.profile import BASE, MEMORY, Battery, Cluster, Profile

AMBIENT_CELSIUS: Final = 23.0

_SCHEDUTIL_HEADROOM = 1.25
_TAPER_ABOVE = 0.8
_CHARGING_LOSS = 0.1
_COULOMBS_PER_MAH = 3.6


@dataclass(frozen=True, slots=True)
class Load:
    """What happened during a step: cores' worth of CPU time used, and the switches."""

    busy_cores: float
    plugged: bool
    powered: bool = True


@dataclass(frozen=True, slots=True)
class Core:
    """A core that the phone shows, and what runs on its cluster."""

    cluster: Cluster
    frequency_khz: int


@dataclass(frozen=True, slots=True)
class State:
    """Everything that lasts. ``energy_joules`` counts up per source (cluster names, "memory", "base")."""

    die_celsius: float
    body_celsius: float
    charge_coulombs: float
    energy_joules: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the sensors show after a step. Current and power are positive into the battery."""

    cores: tuple[Core, ...]
    power_watts: Mapping[str, float]
    battery_amperes: float
    battery_volts: float
    battery_share: float
    state: State

    @property
    def system_watts(self) -> float:
        """What the phone uses."""
        return sum(self.power_watts.values())


def initial_state(profile: Profile, battery_share: float = 0.8) -> State:
    """A phone that lay switched off: as warm as the air."""
    sources = [*(cluster.name for cluster in profile.clusters), MEMORY, BASE]
    return State(
        AMBIENT_CELSIUS,
        AMBIENT_CELSIUS,
        battery_share * _capacity(profile.battery),
        dict.fromkeys(sources, 0.0),
    )


def visible_cores(profile: Profile, machine_cores: int) -> tuple[Cluster, ...]:
    """The clusters of the cores that the phone shows: its fastest ones, as many as the machine really has."""
    cores = [cluster for cluster in profile.clusters for _ in range(cluster.cores)]
    return tuple(cores[-min(machine_cores, len(cores)) :])


def step(profile: Profile, machine_cores: int, state: State, load: Load, duration_s: float) -> Reading:
    """The phone ``duration_s`` (> 0) later."""
    shown = visible_cores(profile, machine_cores)
    busy = _spread(shown, min(max(load.busy_cores, 0.0), float(len(shown)))) if load.powered else {}
    clocks = {cluster.name: _clock(cluster, busy.get(cluster.name, 0.0)) for cluster in profile.clusters}
    power = {
        cluster.name: busy.get(cluster.name, 0.0) * cluster.core_power_watts for cluster in profile.clusters
    }
    power[MEMORY] = profile.memory_power_watts * sum(busy.values()) / len(shown)
    power[BASE] = profile.base_power_watts if load.powered else 0.0
    system = sum(power.values())

    battery = profile.battery
    share = state.charge_coulombs / _capacity(battery)
    into_battery = _charging_power(battery, share, system) if load.plugged else -system
    amperes = _battery_current(battery, share, into_battery)
    charge = min(max(state.charge_coulombs + amperes * duration_s, 0.0), _capacity(battery))

    loss = amperes**2 * battery.resistance_ohms + _CHARGING_LOSS * max(into_battery, 0.0)
    die, body = _temperatures(profile, state, system - power[BASE], power[BASE] + loss, duration_s)
    energy = {name: joules + power[name] * duration_s for name, joules in state.energy_joules.items()}
    return Reading(
        cores=tuple(Core(cluster, clocks[cluster.name]) for cluster in shown),
        power_watts=power,
        battery_amperes=amperes,
        battery_volts=_open_circuit_volts(battery, share) + amperes * battery.resistance_ohms,
        battery_share=charge / _capacity(battery),
        state=State(die, body, charge, energy),
    )


def steady_temperatures(profile: Profile, die_watts: float, body_watts: float) -> tuple[float, float]:
    """Die and body in °C after a long time at constant power."""
    thermal = profile.thermal
    body = AMBIENT_CELSIUS + thermal.body_resistance_k_per_w * (die_watts + body_watts)
    return body + thermal.die_resistance_k_per_w * die_watts, body


def _capacity(battery: Battery) -> float:
    return battery.capacity_mah * _COULOMBS_PER_MAH


def _spread(shown: tuple[Cluster, ...], busy: float) -> dict[str, float]:
    """Busy cores per cluster, the fastest first."""
    spread: dict[str, float] = {}
    for cluster in reversed(shown):
        part = min(busy, 1.0)
        spread[cluster.name] = spread.get(cluster.name, 0.0) + part
        busy -= part
    return spread


def _clock(cluster: Cluster, busy: float) -> int:
    # One busy core drives the whole cluster's clock.
    wanted = _SCHEDUTIL_HEADROOM * min(busy, 1.0) * cluster.maximum_khz
    return round(min(max(wanted, cluster.minimum_khz), cluster.maximum_khz))


def _charging_power(battery: Battery, share: float, system_watts: float) -> float:
    taper = min(1.0, (1.0 - share) / (1.0 - _TAPER_ABOVE))
    supply = min(battery.usb_power_watts, system_watts + taper * battery.usb_power_watts)
    return supply - system_watts


def _open_circuit_volts(battery: Battery, share: float) -> float:
    return battery.empty_volts + share * (battery.full_volts - battery.empty_volts)


def _battery_current(battery: Battery, share: float, watts: float) -> float:
    """I in P = (V₀ + I·R)·I, the root near P / V₀; where P is out of reach, the current of the most power."""
    volts, resistance = _open_circuit_volts(battery, share), battery.resistance_ohms
    discriminant = max(volts**2 + 4.0 * resistance * watts, 0.0)
    return (math.sqrt(discriminant) - volts) / (2.0 * resistance)


def _temperatures(
    profile: Profile, state: State, die_watts: float, body_watts: float, duration_s: float
) -> tuple[float, float]:
    thermal = profile.thermal
    inner, outer = 1.0 / thermal.die_resistance_k_per_w, 1.0 / thermal.body_resistance_k_per_w
    die_rate = thermal.die_capacity_j_per_k / duration_s
    body_rate = thermal.body_capacity_j_per_k / duration_s
    die_diagonal, body_diagonal = die_rate + inner, body_rate + inner + outer
    die_side = die_rate * state.die_celsius + die_watts
    body_side = body_rate * state.body_celsius + body_watts + outer * AMBIENT_CELSIUS
    determinant = die_diagonal * body_diagonal - inner**2
    return (
        (die_side * body_diagonal + inner * body_side) / determinant,
        (body_side * die_diagonal + inner * die_side) / determinant,
    )
