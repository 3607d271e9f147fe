"""The farm's state as flat rows for people and programs: what the store projects and the commands print."""

from __future__ import annotations

from dataclasses import dataclass

from mobifarm.controller.core.state import FarmState, TrialState


@dataclass(frozen=True, slots=True)
class JobView:
    """A job and how far it is; the last seven numbers count trials. Times are unix seconds."""

    job_id: str
    sequence: int  # order of submission, from 0
    name: str
    user: str
    state: str  # a JobState
    priority: int
    attempt_limit: int
    submitted_at: float
    cancelled_at: float | None
    finished_at: float | None
    trials: int
    pending: int
    leased: int
    done: int
    failed: int
    abandoned: int
    cancelled: int

    @property
    def ended(self) -> int:
        return self.trials - self.pending - self.leased


@dataclass(frozen=True, slots=True)
class TrialView:
    trial_id: str
    job_id: str
    position: int
    label: str
    state: str  # a TrialState
    attempts: int
    not_before: float  # unix time of the end of the back-off; 0 where none was needed
    result_attempt_id: str | None


@dataclass(frozen=True, slots=True)
class AttemptView:
    """Which attempt ran on which phone, and what became of it. Times are unix seconds."""

    attempt_id: str
    trial_id: str
    job_id: str
    label: str
    device_id: str
    serial: str
    fingerprint: str
    execution: str
    measurement_epoch: int
    fencing_token: int
    state: str  # an AttemptState
    granted_at: float
    started_at: float | None
    lost_at: float | None
    ended_at: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A phone as it is shown; what is known only of a phone that has been ready is empty before."""

    device_id: str
    address: str
    source: str
    host: str
    state: str  # a DeviceState
    reason: str
    action: str
    changed_at: float  # unix time
    serial: str
    fingerprint: str
    model: str
    execution: str
    agent_version: str
    measurement_epoch: int
    consecutive_failures: int
    leases_granted: int
    attempt_id: str | None
    trial_id: str | None
    ready_after_s: float | None = None  # from plugging in to ready; None where that was not seen
    tags: tuple[str, ...] | None = None  # None where an earlier version wrote the row


def job_view(state: FarmState, job_id: str) -> JobView:
    job = state.jobs[job_id]
    return JobView(
        job_id=job.job_id,
        sequence=job.sequence,
        name=job.name,
        user=job.user,
        state=job.state.value,
        priority=job.priority,
        attempt_limit=job.attempt_limit,
        submitted_at=job.submitted_at,
        cancelled_at=job.cancelled_at,
        finished_at=job.finished_at,
        trials=len(job.trial_ids),
        pending=job.counts[TrialState.PENDING],
        leased=job.counts[TrialState.LEASED],
        done=job.counts[TrialState.DONE],
        failed=job.counts[TrialState.FAILED],
        abandoned=job.counts[TrialState.ABANDONED],
        cancelled=job.counts[TrialState.CANCELLED],
    )


def trial_view(state: FarmState, trial_id: str) -> TrialView:
    trial = state.trials[trial_id]
    return TrialView(
        trial_id=trial.trial_id,
        job_id=trial.job_id,
        position=trial.position,
        label=trial.label,
        state=trial.state.value,
        attempts=len(trial.attempt_ids),
        not_before=trial.not_before,
        result_attempt_id=trial.result_attempt_id,
    )


def attempt_view(state: FarmState, attempt_id: str) -> AttemptView:
    attempt = state.attempts[attempt_id]
    return AttemptView(
        attempt_id=attempt.attempt_id,
        trial_id=attempt.trial_id,
        job_id=attempt.job_id,
        label=state.trials[attempt.trial_id].label,
        device_id=attempt.device_id,
        serial=attempt.identity.serial,
        fingerprint=attempt.identity.fingerprint,
        execution=attempt.execution,
        measurement_epoch=attempt.measurement_epoch,
        fencing_token=attempt.fencing_token,
        state=attempt.state.value,
        granted_at=attempt.granted_at,
        started_at=attempt.started_at,
        lost_at=attempt.lost_at,
        ended_at=attempt.ended_at,
        reason=attempt.reason,
    )


def device_view(state: FarmState, device_id: str) -> DeviceView:
    device = state.devices[device_id]
    reason, action = device.reason, device.action
    if device.quarantine is not None:
        checking = "a health check runs on it" if device.health_check else ""
        reason = "; ".join(text for text in (device.reason, device.quarantine.reason, checking) if text)
        action = device.quarantine.action
    elif device.same_as is not None:
        reason = f"it is the same phone as {device.same_as}, which gets its work"
        action = f"It takes over when {device.same_as} goes; to take it out, `mobifarm devices forget`."
    elif device.stopping_attempt_id is not None:
        reason = f"waiting until attempt {device.stopping_attempt_id} has stopped"
    if device.drained is not None:
        reason = "; ".join(text for text in (reason, device.drained) if text)
        action = action or "`mobifarm devices undrain` gives it work again."
    lease = None if device.attempt_id is None else state.leases[device.attempt_id]
    return DeviceView(
        device_id=device.device_id,
        address=device.address,
        source=device.source,
        host=device.host,
        state=device.state.value,
        reason=reason,
        action=action,
        changed_at=device.changed_at,
        serial="" if device.identity is None else device.identity.serial,
        fingerprint="" if device.identity is None else device.identity.fingerprint,
        model=device.properties.get("ro.product.model", ""),
        execution=device.execution or "",
        agent_version=device.agent_version,
        measurement_epoch=device.measurement_epoch,
        consecutive_failures=device.consecutive_failures,
        leases_granted=device.leases_granted,
        attempt_id=device.attempt_id,
        trial_id=None if lease is None else lease.trial_id,
        ready_after_s=device.ready_after_s,
        tags=device.tags,
    )


def job_attempts(state: FarmState, job_id: str) -> list[AttemptView]:
    """Every attempt of a job, in the order of its trials, then of the leases."""
    return [
        attempt_view(state, attempt_id)
        for trial_id in state.jobs[job_id].trial_ids
        for attempt_id in state.trials[trial_id].attempt_ids
    ]
