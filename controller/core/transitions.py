"""The elementary changes of state that the rules in :mod:`.step` are made of; each keeps the counts right."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Final

from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.core.selector import COMPUTER
from mobifarm.controller.core.state import (
    CONNECTED,
    Attempt,
    AttemptState,
    Device,
    FarmState,
    Quarantine,
    Trial,
    TrialState,
)

BACK_OFF_FIRST_S: Final = 1.0
BACK_OFF_LIMIT_S: Final = 60.0
FAILURES_TO_QUARANTINE: Final = 3


def back_off_s(attempts: int) -> float:
    """Seconds to wait after the n-th broken attempt: doubled each time, bounded."""
    return min(BACK_OFF_FIRST_S * 2.0 ** min(attempts - 1, 16), BACK_OFF_LIMIT_S)


def move_trial(state: FarmState, trial: Trial, target: TrialState, at: float) -> None:
    job = state.jobs[trial.job_id]
    if trial.state is TrialState.PENDING:
        positions = job.pending[trial.method]
        del positions[bisect_left(positions, trial.position)]
        state.backing_off.pop(trial.trial_id, None)
    job.counts[trial.state] -= 1
    job.counts[target] += 1
    trial.state = target
    if target is TrialState.PENDING:
        insort(job.pending[trial.method], trial.position)
    elif not job.open:
        job.finished_at = at
    state.changes.trials.add(trial.trial_id)
    state.changes.jobs.add(job.job_id)


def end_lease(state: FarmState, attempt: Attempt, outcome: AttemptState, at: float, reason: str = "") -> None:
    """End a live lease and move its trial to where the outcome leads."""
    attempt.state, attempt.ended_at, attempt.lost_at, attempt.reason = outcome, at, None, reason
    del state.leases[attempt.attempt_id]
    device = state.devices[attempt.device_id]
    device.attempt_id = None
    state.changes.attempts.add(attempt.attempt_id)
    state.changes.devices.add(device.device_id)
    trial = state.trials[attempt.trial_id]
    if outcome is AttemptState.DONE or outcome is AttemptState.FAILED:
        trial.result_attempt_id = attempt.attempt_id
        move_trial(state, trial, TrialState(outcome.value), at)
    elif outcome is AttemptState.CANCELLED:
        move_trial(state, trial, TrialState.CANCELLED, at)
    elif len(trial.attempt_ids) >= state.jobs[trial.job_id].attempt_limit:
        move_trial(state, trial, TrialState.ABANDONED, at)
    else:
        move_trial(state, trial, TrialState.PENDING, at)
        if outcome is AttemptState.BROKEN:
            trial.not_before = at + back_off_s(len(trial.attempt_ids))
            state.backing_off[trial.trial_id] = trial.not_before


def set_stage(
    state: FarmState, device: Device, stage: DeviceState, at: float, reason: str = "", action: str = ""
) -> None:
    """Move the phone's link; a lease on a phone that goes away stays, and the time of its loss is noted."""
    lease = lease_of(state, device)
    if stage not in CONNECTED:
        device.stopping_attempt_id = None
        if lease is not None and lease.lost_at is None:
            lease.lost_at = at
            state.changes.attempts.add(lease.attempt_id)
    device.stage, device.reason, device.action, device.changed_at = stage, reason, action, at
    state.changes.devices.add(device.device_id)


def lease_of(state: FarmState, device: Device) -> Attempt | None:
    return None if device.attempt_id is None else state.leases[device.attempt_id]


def note_failure(state: FarmState, device: Device, reason: str) -> None:
    """Count a failure of the farm's on this phone; several in a row put it into quarantine."""
    device.consecutive_failures += 1
    state.changes.devices.add(device.device_id)
    if device.consecutive_failures >= FAILURES_TO_QUARANTINE and device.quarantine is None:
        what = "the log in its folder" if device.execution == COMPUTER else "the phone and its cable"
        device.quarantine = Quarantine(
            f"{device.consecutive_failures} attempts in a row failed on it, the last because: {reason}",
            f"Look at {what}, then release it.",
        )
