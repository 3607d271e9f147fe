"""The elementary changes of state that the rules in :mod:`.step` are made of; each keeps the counts right."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from typing import Final

from mobifarm.controller.core.attributes import derive_attributes
from mobifarm.controller.core.conditions import Conditions
from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.core.selector import COMPUTER
from mobifarm.controller.core.state import (
    CONNECTED,
    DELIVERED,
    Attempt,
    AttemptState,
    Device,
    FarmState,
    Home,
    Quarantine,
    Trial,
    TrialState,
    Usage,
)
from mobifarm.controller.core.twins import settle

BACK_OFF_FIRST_S: Final = 1.0
BACK_OFF_LIMIT_S: Final = 60.0
FAILURES_TO_QUARANTINE: Final = 3
USAGE_HALF_LIFE_S: Final = 86_400.0  # what somebody used yesterday counts half as much as what they use today
CHECK_BACK_OFF_FIRST_S: Final = 30.0
CHECK_BACK_OFF_LIMIT_S: Final = 3600.0


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
    if job.counts[TrialState.PENDING]:
        state.waiting[job.job_id] = job
    else:
        state.waiting.pop(job.job_id, None)
    state.changes.trials.add(trial.trial_id)
    state.changes.jobs.add(job.job_id)


def end_lease(state: FarmState, attempt: Attempt, outcome: AttemptState, at: float, reason: str = "") -> None:
    """End a live lease and move its trial to where the outcome leads."""
    attempt.state, attempt.ended_at, attempt.lost_at, attempt.reason = outcome, at, None, reason
    del state.leases[attempt.attempt_id]
    device = state.devices[attempt.device_id]
    device.attempt_id = None
    if device.connected:
        device.changed_at = at
    settle(state, device)
    _account(state, attempt, at)
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


def begin_lease(state: FarmState, attempt: Attempt, trial: Trial) -> None:
    """Note where a job's work goes, for its placement."""
    job = state.jobs[attempt.job_id]
    job.shares[attempt.device_id] = job.shares.get(attempt.device_id, 0) + 1
    if trial.group and attempt.execution != COMPUTER:
        job.homes.setdefault(trial.group, Home(attempt.device_id, attempt.measurement_epoch))


def _account(state: FarmState, attempt: Attempt, at: float) -> None:
    """Charge the lease to its user; settle what the job's placement remembers of it."""
    job, seconds = state.jobs[attempt.job_id], max(0.0, at - attempt.granted_at)
    state.usage[job.user] = Usage(usage_at(state, job.user, at) + seconds, at)
    home = job.homes.get(state.trials[attempt.trial_id].group)
    here = home is not None and home.device_id == attempt.device_id
    if attempt.state in DELIVERED:
        for work in (job.work, state.work):
            work.leases += 1
            work.seconds += seconds
        if home is not None and here:
            home.results += 1
        return
    job.shares[attempt.device_id] -= 1
    if home is not None and here and home.results == 0:  # nothing was measured there: any phone will do
        del job.homes[state.trials[attempt.trial_id].group]


def usage_at(state: FarmState, user: str, at: float) -> float:
    """Device-seconds of the user's ended leases, each worth half as much for every day since."""
    usage = state.usage.get(user)
    if usage is None:
        return 0.0
    return usage.seconds * math.exp2(-max(0.0, at - usage.at) / USAGE_HALF_LIFE_S)


def set_stage(
    state: FarmState, device: Device, stage: DeviceState, at: float, reason: str = "", action: str = ""
) -> None:
    """Move the phone's link; a lease on a phone that goes away stays, and the time of its loss is noted."""
    lease = lease_of(state, device)
    if stage not in CONNECTED:
        device.stopping_attempt_id = None
        device.health_check = None
        if lease is not None and lease.lost_at is None:
            lease.lost_at = at
            state.changes.attempts.add(lease.attempt_id)
    device.stage, device.reason, device.action, device.changed_at = stage, reason, action, at
    settle(state, device)
    state.changes.devices.add(device.device_id)


def lease_of(state: FarmState, device: Device) -> Attempt | None:
    return None if device.attempt_id is None else state.leases[device.attempt_id]


def check_back_off_s(strikes: int) -> float:
    """Seconds until the health check after the n-th strike: doubled each time, bounded."""
    return min(CHECK_BACK_OFF_FIRST_S * 2.0 ** min(strikes - 1, 16), CHECK_BACK_OFF_LIMIT_S)


def quarantine(state: FarmState, device: Device, reason: str, action: str, at: float) -> None:
    """Give the phone no work until it passes a health check."""
    device.strikes += 1
    device.quarantine = Quarantine(reason, action, at + check_back_off_s(device.strikes))
    if device.connected:
        device.changed_at = at
    state.changes.devices.add(device.device_id)


def note_failure(state: FarmState, device: Device, reason: str, at: float) -> None:
    """Count a failure of the farm's on this phone; several in a row put it into quarantine."""
    device.consecutive_failures += 1
    state.changes.devices.add(device.device_id)
    if device.consecutive_failures >= FAILURES_TO_QUARANTINE and device.quarantine is None:
        what = "the log in its folder" if device.execution == COMPUTER else "the phone and its cable"
        quarantine(
            state,
            device,
            f"{device.consecutive_failures} attempts in a row failed on it, the last because: {reason}",
            f"Look at {what}; it is released when it passes a health check.",
            at,
        )


def describe(state: FarmState, device: Device) -> None:
    """Derive anew what selectors can ask of the phone."""
    if device.identity is not None:
        device.attributes = derive_attributes(
            device.device_id,
            device.identity,
            device.properties,
            execution=device.execution or "",
            host=device.host,
            memory_total_bytes=device.memory_total_bytes,
            cpu_count=device.cpu_count,
            tags=device.tags,
        )
    state.changes.devices.add(device.device_id)


def note_conditions(device: Device, conditions: Conditions, at: float) -> None:
    """Take a reading of the phone's sensors; its curves learn from it."""
    device.conditions, device.conditions_at = conditions, at
    device.thermal = device.thermal.with_reading(
        at,
        conditions.temperature_celsius,
        busy=device.attempt_id is not None,
        leases=device.leases_granted,
    )
