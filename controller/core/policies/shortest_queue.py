"""Work goes where the fewest others wait."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from mobifarm.controller.core.policies.base import Assignment
from mobifarm.controller.core.policies.round import Matches, Round, by_priority
from mobifarm.controller.core.state import Device, FarmState


class ShortestQueuePolicy:
    """Jobs in FIFO order; each trial goes to the free phone for which the fewest trials wait.

    A phone's queue is made of every waiting trial that it could do, divided by the number of phones that
    could do it. So a trial that any phone can do leaves the phones free that other jobs depend on.
    """

    name = "shortest-queue"
    work_conserving = True

    def __init__(self) -> None:
        self._matches = Matches()

    def assign(self, state: FarmState, now: float) -> Sequence[Assignment]:
        lengths = queue_lengths(state, self._matches)

        def rank(device: Device) -> tuple[float, int, str]:
            return (lengths.get(device.device_id, 0.0), device.leases_granted, device.device_id)

        current = Round(state, now, rank, self._matches)
        assignments: list[Assignment] = []
        for job in by_priority(current.waiting):
            if not current.free:
                break
            assignments += current.pairs(job)
        return assignments


def queue_lengths(state: FarmState, matches: Matches) -> Mapping[str, float]:
    """Waiting trials by phone, each divided among the usable phones that could do it."""
    trials: defaultdict[tuple[int, str], int] = defaultdict(int)
    selectors = {}
    for job in state.waiting.values():
        for method, positions in job.pending.items():
            if positions:
                trials[job.lane, method] += len(positions)
                selectors[job.lane] = job.selector
    lengths: defaultdict[str, float] = defaultdict(float)
    usable = [device for device in state.devices.values() if device.usable]
    for (lane, method), waiting in trials.items():
        able = [device for device in matches.among(selectors[lane], usable) if device.supports(method)]
        for device in able:
            lengths[device.device_id] += waiting / len(able)
    return lengths
