"""Which free phone gets which waiting trial. A policy only proposes: the controller turns it into leases."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mobifarm.controller.core.selector import COMPUTER
from mobifarm.controller.core.state import Device, FarmState, Job, Trial, TrialState


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

    Every free device takes the first trial whose method it supports. A trial avoids phones on which an
    attempt of it broke or expired while another phone could do it.
    """

    name = "fifo"

    def assign(self, state: FarmState, now: float) -> Sequence[Assignment]:
        free = sorted(
            (device for device in state.devices.values() if device.free),
            key=lambda device: (device.leases_granted, device.device_id),
        )
        usable = [device for device in state.devices.values() if device.usable]
        waiting = sorted(
            (job for job in state.jobs.values() if job.counts[TrialState.PENDING]),
            key=lambda job: (-job.priority, job.sequence),
        )
        assignments: list[Assignment] = []
        for job in waiting:
            if not free:
                break
            pairs = list(self._pair(state, job, self._accepted(state, job, free), usable, now))
            assignments += [Assignment(trial.trial_id, device.device_id) for trial, device in pairs]
            taken = {device.device_id for _, device in pairs}
            free = [device for device in free if device.device_id not in taken]
        return assignments

    def _accepted(self, state: FarmState, job: Job, free: list[Device]) -> list[Device]:
        accepted = [device for device in free if not job.selector.mismatches(device)]
        if job.selector.count is None:
            return accepted
        leases = state.leases.values()
        working = sum(lease.job_id == job.job_id and lease.execution != COMPUTER for lease in leases)
        computers = [device for device in accepted if device.execution == COMPUTER]
        phones = [device for device in accepted if device.execution != COMPUTER]
        return phones[: max(0, job.selector.count - working)] + computers

    def _pair(
        self, state: FarmState, job: Job, accepted: list[Device], usable: list[Device], now: float
    ) -> Iterator[tuple[Trial, Device]]:
        taken: set[str] = set()
        for device in accepted:
            lists = [positions for method, positions in job.pending.items() if device.supports(method)]
            for position in heapq.merge(*lists):
                trial = state.trials[job.trial_ids[position]]
                if trial.not_before > now or trial.trial_id in taken:
                    continue
                avoided = {state.attempts[attempt_id].device_id for attempt_id in trial.attempt_ids}
                others = (other for other in usable if other.device_id not in avoided)
                if device.device_id in avoided and any(self._can_do(job, trial, other) for other in others):
                    continue  # a phone that has not failed it will be free later
                taken.add(trial.trial_id)
                yield trial, device
                break

    def _can_do(self, job: Job, trial: Trial, device: Device) -> bool:
        return device.supports(trial.method) and not job.selector.mismatches(device)
