"""How a phone warms up and cools down, fitted to its own telemetry. Pure.

Newton's law of cooling, dT/dt = k·(T∞ − T), once for the idle phone (T∞: where it settles without work) and
once for the busy one (T∞: where an edit that never ends would bring it). Between two readings

    ΔT = a·Δt − k·Tm·Δt        with a = k·T∞ and Tm the mean of both temperatures,

which is linear in a and k: least squares over running sums, with older readings forgotten slowly. So a fit
costs the same after a minute and after a year, and it is the same at every replay of the log.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final

FORGETTING: Final = 0.99  # weight of all that is known at each new reading: the last hundred matter
LONGEST_INTERVAL_S: Final = 180.0
LEAST_READINGS: Final = 6
LEAST_SPREAD_KELVIN: Final = 0.5  # standard deviation of the temperatures below which k is guesswork


@dataclass(frozen=True, slots=True)
class Curve:
    """``rate_per_s`` is k, ``settles_at_celsius`` is T∞."""

    rate_per_s: float
    settles_at_celsius: float

    def after(self, celsius: float, duration_s: float) -> float:
        """Temperature after this time, from ``celsius`` on."""
        distance = celsius - self.settles_at_celsius
        return self.settles_at_celsius + distance * math.exp(-self.rate_per_s * duration_s)

    def time_to(self, celsius: float, goal_celsius: float) -> float:
        """Seconds until a cooling phone is at the goal or below; infinity where it never gets there."""
        if celsius <= goal_celsius:
            return 0.0
        if goal_celsius <= self.settles_at_celsius:
            return math.inf
        distances = (celsius - self.settles_at_celsius) / (goal_celsius - self.settles_at_celsius)
        return math.log(distances) / self.rate_per_s


@dataclass(frozen=True, slots=True)
class Fit:
    """The running sums of one curve; Σ over intervals with weights that fade."""

    readings: float = 0.0
    tt: float = 0.0  # Σ Δt²
    ttm: float = 0.0  # Σ Δt²·Tm
    ttmm: float = 0.0  # Σ Δt²·Tm²
    td: float = 0.0  # Σ Δt·ΔT
    tdm: float = 0.0  # Σ Δt·ΔT·Tm

    def with_interval(self, duration_s: float, start_celsius: float, end_celsius: float) -> Fit:
        """The fit with one more interval between readings."""
        mean, change, fade = (start_celsius + end_celsius) / 2, end_celsius - start_celsius, FORGETTING
        square = duration_s * duration_s
        return Fit(
            fade * self.readings + 1,
            fade * self.tt + square,
            fade * self.ttm + square * mean,
            fade * self.ttmm + square * mean * mean,
            fade * self.td + duration_s * change,
            fade * self.tdm + duration_s * change * mean,
        )

    def curve(self) -> Curve | None:
        """The fitted curve; None while the readings are too few, too much alike, or contradict the law."""
        if self.readings < LEAST_READINGS:
            return None
        mean = self.ttm / self.tt
        variance = self.ttmm / self.tt - mean * mean
        if variance < LEAST_SPREAD_KELVIN**2:
            return None
        # Least squares of ΔT/Δt on Tm with weights Δt²; centred, so that nothing cancels.
        rate = -(self.tdm - mean * self.td) / (self.tt * variance)
        if rate <= 0:
            return None
        return Curve(rate, mean + self.td / self.tt / rate)


@dataclass(frozen=True, slots=True)
class Thermal:
    """What is known of one phone's heat. ``mark`` tells which work, if any, the last reading belongs to."""

    idle: Fit = field(default_factory=Fit)
    busy: Fit = field(default_factory=Fit)
    at: float = -math.inf
    celsius: float | None = None
    mark: tuple[bool, int] = (False, 0)

    def with_reading(self, at: float, celsius: float | None, *, busy: bool, leases: int) -> Thermal:
        """One reading more; it counts for a curve where the phone did the same thing since the one before.

        Args:
            at: unix seconds.
            busy: whether the phone has a lease.
            leases: how many it ever had; an interval across the end or beginning of work tells nothing.
        """
        mark = (busy, leases)
        duration_s = at - self.at
        known = replace(self, at=at, celsius=celsius, mark=mark)
        if celsius is None or self.celsius is None or mark != self.mark:
            return known
        if not 0 < duration_s <= LONGEST_INTERVAL_S:
            return known
        fit = (self.busy if busy else self.idle).with_interval(duration_s, self.celsius, celsius)
        return replace(known, busy=fit) if busy else replace(known, idle=fit)
