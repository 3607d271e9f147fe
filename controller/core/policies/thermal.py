"""Work goes where it will be cool soonest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from mobifarm.controller.core.gates import current_conditions
from mobifarm.controller.core.policies.base import Assignment
from mobifarm.controller.core.policies.fair_share import UNKNOWN_DURATION_S
from mobifarm.controller.core.policies.round import Matches, Round, by_priority
from mobifarm.controller.core.state import Device, FarmState

COOL_CELSIUS: Final = 32.0  # a hand-warm phone; far below where phones slow down


class ThermalPolicy:
    """Jobs in FIFO order; each trial goes to the free phone that is cool again soonest after it.

    From a phone's own heating curve follows how warm it will be after a trial of average length, and from its
    cooling curve when it will be back at ``COOL_CELSIUS``. A phone whose curves are not known yet is judged
    by its temperature now, one without any reading comes last. Too warm a phone is kept waiting by the gates
    of a job, not by this policy: it leaves no phone idle.
    """

    name = "thermal"
    work_conserving = True

    def __init__(self) -> None:
        self._matches = Matches()

    def assign(self, state: FarmState, now: float) -> Sequence[Assignment]:
        duration_s = state.work.mean_s or UNKNOWN_DURATION_S

        def rank(device: Device) -> tuple[float, float, int, str]:
            recovery_s, celsius = forecast(device, now, duration_s)
            return (recovery_s, celsius, device.leases_granted, device.device_id)

        current = Round(state, now, rank, self._matches)
        assignments: list[Assignment] = []
        for job in by_priority(current.waiting):
            if not current.free:
                break
            assignments += current.pairs(job)
        return assignments


def forecast(device: Device, now: float, duration_s: float) -> tuple[float, float]:
    """Seconds from a trial's end until the phone is cool again, and its temperature at the trial's end.

    Args:
        duration_s: of the trial, which would start at ``now``.

    Returns:
        Infinity for both where nothing is known of the phone's temperature. Without curves: as if the trial
        did not warm it, and one second per kelvin above cool, so that such phones are at least ordered.
    """
    celsius = current_conditions(device, now).temperature_celsius
    if celsius is None:
        return math.inf, math.inf
    heating, cooling = device.thermal.busy.curve(), device.thermal.idle.curve()
    if cooling is not None:
        celsius = cooling.after(celsius, max(0.0, now - device.conditions_at))
    after = celsius if heating is None else heating.after(celsius, duration_s)
    if cooling is None:
        return max(0.0, after - COOL_CELSIUS), after
    return cooling.time_to(after, max(COOL_CELSIUS, cooling.settles_at_celsius + 1.0)), after
