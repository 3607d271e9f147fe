"""Which free phone gets which waiting trial. A policy only proposes: the controller turns it into leases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mobifarm.controller.core.state import Device, FarmState, Job, Trial


@dataclass(frozen=True, slots=True)
class Assignment:
    trial_id: str
    device_id: str


class Policy(Protocol):
    """An interchangeable rule of scheduling. It reads the state and never changes it."""

    @property
    def name(self) -> str: ...

    def assign(self, state: FarmState, now: float) -> Sequence[Assignment]:
        """Pairs to lease now: pending trials with free phones, each trial and each phone at most once."""
        ...


class FifoPolicy:
    """Jobs by priority (higher first), then by submission; phones that had the least work so far come first.

    A trial avoids phones on which an attempt of it broke or expired while another phone could do it.
    """

    name = "fifo"

    def assign(self, state: FarmState, now: float) -> Sequence[Assignment]:
        free = sorted(
            (device for device in state.devices.values() if device.free),
            key=lambda device: (device.leases_granted, device.device_id),
        )
        usable = [device for device in state.devices.values() if device.usable]
        waiting = sorted(
            (job for job in state.jobs.values() if job.pending), key=lambda job: (-job.priority, job.sequence)
        )
        assignments: list[Assignment] = []
        for job in waiting:
            if not free:
                break
            accepted = [device for device in free if not job.selector.mismatches(device)]
            if job.selector.count is not None:
                working = sum(lease.job_id == job.job_id for lease in state.leases.values())
                accepted = accepted[: max(0, job.selector.count - working)]
            taken: set[str] = set()
            for trial, device in self._pair(state, job, accepted, usable, now):
                assignments.append(Assignment(trial.trial_id, device.device_id))
                taken.add(device.device_id)
            free = [device for device in free if device.device_id not in taken]
        return assignments

    def _pair(
        self, state: FarmState, job: Job, accepted: list[Device], usable: list[Device], now: float
    ) -> Iterator[tuple[Trial, Device]]:
        remaining = dict.fromkeys(device.device_id for device in accepted)
        for position in job.pending:
            if not remaining:
                return
            trial = state.trials[job.trial_ids[position]]
            if trial.not_before > now:
                continue
            avoided = {state.attempts[attempt_id].device_id for attempt_id in trial.attempt_ids}
            device_id = next((candidate for candidate in remaining if candidate not in avoided), None)
            if device_id is None:
                others = (device for device in usable if device.device_id not in avoided)
                if any(not job.selector.mismatches(device) for device in others):
                    continue  # a phone that has not failed it will be free later
                device_id = next(iter(remaining))
            del remaining[device_id]
            yield trial, state.devices[device_id]
