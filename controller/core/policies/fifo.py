"""First come, first served."""

from __future__ import annotations

from collections.abc import Sequence

from mobifarm.controller.core.policies.base import Assignment
from mobifarm.controller.core.policies.round import Matches, Round, by_priority
from mobifarm.controller.core.state import Device, FarmState


class FifoPolicy:
    """Jobs by priority (higher first), then by submission; phones with the least work so far come first."""

    name = "fifo"
    work_conserving = True

    def __init__(self) -> None:
        self._matches = Matches()

    def assign(self, state: FarmState, now: float) -> Sequence[Assignment]:
        current = Round(state, now, least_used, self._matches)
        assignments: list[Assignment] = []
        for job in by_priority(current.waiting):
            if not current.free:
                break
            assignments += current.pairs(job)
        return assignments


def least_used(device: Device) -> tuple[int, str]:
    return (device.leases_granted, device.device_id)
