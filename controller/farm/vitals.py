"""A phone's newest readings in the terms that people watch: power, heat, clock. Pure.

Names and units of the readings are those of the agent (:mod:`mobifarm.agent.sensors`). None is unknown; it is
never zero and never an old value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from mobifarm.controller.core.conditions import conditions_of

LONGEST_INTERVAL_S: Final = 15.0  # an older counter says nothing of the power now
RAILS_LIMIT: Final = 64  # that are told one by one: a phone's word must not fill the memory
SHORTEST_INTERVAL_S: Final = 0.4  # meters of phones tick at some 10 Hz: shorter differences are noise

PowerSource = Literal["rails", "battery"]


@dataclass(frozen=True, slots=True)
class Vitals:
    """One moment of a phone.

    Attributes:
        at: unix time.
        power_watts: what the phone uses: the sum of its power rails, or what the battery gives while nothing
            charges it. None where neither can be read.
        power_source: where ``power_watts`` comes from.
        rail_watts: mean power of each rail since the reading before; of very many the first by name.
        battery_watts: into the battery (positive) or out of it; while the phone charges it says nothing about
            what the phone uses. None until the gauge has shown which way it counts.
        battery: the share of its charge, 0 to 1.
        temperature_celsius: the battery's, or the skin's where the battery has no sensor, as gates see it.
        hottest_celsius: of all thermal zones; ``hottest_zone`` is its name.
        thermal_status: Android's, 0 (none) to 6 (shutdown).
        clock_hertz: of the fastest core now.
        agent_rss_bytes: the agent's resident memory.
    """

    at: float
    power_watts: float | None = None
    power_source: PowerSource | None = None
    rail_watts: Mapping[str, float] = field(default_factory=dict)
    battery_watts: float | None = None
    battery: float | None = None
    charging: bool | None = None
    temperature_celsius: float | None = None
    hottest_celsius: float | None = None
    hottest_zone: str = ""
    thermal_status: int | None = None
    clock_hertz: float | None = None
    agent_rss_bytes: float | None = None


class VitalsTracker:
    """Turns the readings of one phone into vitals; it remembers the energy counters of the last one."""

    def __init__(self) -> None:
        self._sign_known = False
        self._counters: Mapping[str, float] = {}
        self._counted_at_s = 0.0
        self._rail_watts: Mapping[str, float] = {}

    def offer(self, at: float, values: Mapping[str, float], monotonic_ns: int | None = None) -> Vitals:
        """The vitals of one reading.

        Args:
            at: unix time at which it came.
            values: by sensor name.
            monotonic_ns: the phone's own time of it, which does not jitter as ``at`` does; ``at`` stands in.
        """
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        rails = self._rails(at if monotonic_ns is None else monotonic_ns * 1e-9, values)
        seen = conditions_of(values)
        battery_watts = _product(values.get("battery/current"), values.get("battery/voltage"))
        power, source = _power(rails, battery_watts, seen.charging)
        zones = {name.removeprefix("thermal/"): value for name, value in values.items() if _is_zone(name)}
        hottest = max(zones, key=lambda zone: zones[zone], default="")
        clocks = [value for name, value in values.items() if name.endswith("/frequency")]
        status = values.get("thermal/status")
        return Vitals(
            at=at,
            power_watts=power,
            power_source=source,
            rail_watts=rails if len(rails) <= RAILS_LIMIT else dict(sorted(rails.items())[:RAILS_LIMIT]),
            battery_watts=battery_watts if self._knows_sign(battery_watts, seen.charging) else None,
            battery=seen.battery,
            charging=seen.charging,
            temperature_celsius=seen.temperature_celsius,
            hottest_celsius=zones.get(hottest),
            hottest_zone=hottest,
            thermal_status=None if status is None else round(status),
            clock_hertz=max(clocks, default=None),
            agent_rss_bytes=values.get("agent/rss"),
        )

    def _knows_sign(self, battery_watts: float | None, charging: bool | None) -> bool:
        """Less than nothing into a charging battery: an inverted gauge, or too weak a charger."""
        if battery_watts and charging is not None and (battery_watts > 0) == charging:
            self._sign_known = True
        return self._sign_known or charging is False

    def _rails(self, now_s: float, values: Mapping[str, float]) -> Mapping[str, float]:
        """Watts by rail. Readings that follow too closely repeat the last: a difference would be noise."""
        counters = {
            name.removesuffix("/energy"): value for name, value in values.items() if name.endswith("/energy")
        }
        passed_s = now_s - self._counted_at_s
        same = counters.keys() == self._counters.keys()
        if same and 0 <= passed_s < SHORTEST_INTERVAL_S:
            return self._rail_watts
        fell = any(counters[name] < before for name, before in self._counters.items() if name in counters)
        if same and not fell and 0 < passed_s <= LONGEST_INTERVAL_S:
            self._rail_watts = {
                name.removeprefix("rail/"): watts
                for name, joules in counters.items()
                if math.isfinite(watts := (joules - self._counters[name]) / passed_s)
            }
        else:
            self._rail_watts = {}
        self._counters, self._counted_at_s = counters, now_s
        return self._rail_watts


def _power(
    rails: Mapping[str, float], battery_watts: float | None, charging: bool | None
) -> tuple[float | None, PowerSource | None]:
    if rails and math.isfinite(watts := sum(rails.values())):
        return watts, "rails"
    if battery_watts is not None and charging is False:
        return abs(battery_watts), "battery"  # the sign of some gauges is not known; nothing flows in now
    return None, None


def _product(amperes: float | None, volts: float | None) -> float | None:
    if amperes is None or volts is None:
        return None
    watts = amperes * volts
    return watts if math.isfinite(watts) else None  # the product of two absurd numbers is none


def _is_zone(name: str) -> bool:
    return name.startswith("thermal/") and name != "thermal/status"
