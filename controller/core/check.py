"""What must hold of the farm's state after every event."""

from __future__ import annotations

from collections import Counter

from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.core.hosts import is_there
from mobifarm.controller.core.selector import COMPUTER
from mobifarm.controller.core.state import DELIVERED, LIVE, Device, FarmState, Job, Trial, TrialState
from mobifarm.controller.errors import Bug


def check(state: FarmState) -> None:
    """Check every invariant, in time linear in the size of the state.

    Raises:
        Bug: naming the invariant that does not hold.
    """
    _check_leases(state)
    _check_devices(state)
    for trial in state.trials.values():
        _check_trial(state, trial)
    for job in state.jobs.values():
        _check_job(state, job)


def _require(holds: bool, invariant: str) -> None:
    if not holds:
        raise Bug(f"An invariant of the farm does not hold: {invariant}.")


def _check_leases(state: FarmState) -> None:
    live = {attempt_id for attempt_id, attempt in state.attempts.items() if attempt.state in LIVE}
    _require(live == set(state.leases), "the leases are the live attempts")
    tokens = [attempt.fencing_token for attempt in state.attempts.values()]
    _require(tokens == sorted(set(tokens)), "fencing tokens grow from lease to lease")
    _require(not tokens or tokens[-1] < state.next_fencing_token, "the next fencing token is a new one")
    for attempt_id, attempt in state.attempts.items():
        _require(
            attempt_id in state.trials[attempt.trial_id].attempt_ids, f"{attempt_id} is known to its trial"
        )
        _require(
            (attempt.ended_at is None) == attempt.live, f"{attempt_id} has an end if and only if it ended"
        )
    for attempt_id, lease in state.leases.items():
        device, trial = state.devices[lease.device_id], state.trials[lease.trial_id]
        _require(state.attempts[attempt_id] is lease, f"{attempt_id} is one object")
        _require(device.attempt_id == attempt_id, f"{lease.device_id} knows its one lease {attempt_id}")
        _require(trial.state is TrialState.LEASED, f"{lease.trial_id} is leased by {attempt_id}")
        _require(trial.attempt_ids[-1] == attempt_id, f"{attempt_id} is the last attempt of {lease.trial_id}")
        _require((lease.lost_at is None) == device.connected, f"{attempt_id} knows whether its phone is away")
        _require(device.identity == lease.identity, f"{attempt_id} is with the phone that it was granted")


def _check_devices(state: FarmState) -> None:
    for device_id, device in state.devices.items():
        busy = device.attempt_id, device.stopping_attempt_id
        _require(device.device_id == device_id, f"{device_id} is filed under its id")
        _require(
            device.attempt_id is None or device.attempt_id in state.leases, f"{device_id} has a live lease"
        )
        _require(None in busy, f"{device_id} works and stops at once")
        _require(device.stopping_attempt_id not in state.leases, f"{device_id} stops only ended attempts")
        _require(device.stopping_attempt_id is None or device.connected, f"{device_id} stops while connected")
        _require(device.stage is not DeviceState.RETIRED or busy == (None, None), f"{device_id} retired idle")
        _require(
            not device.connected or device.identity is not None, f"{device_id} is connected and identified"
        )
        _require(
            device.stage not in (DeviceState.LEASED, DeviceState.QUARANTINED),
            f"the stage of {device_id} is its link's",
        )
        _require(
            device.health_check is None or (device.connected and busy == (None, None)),
            f"{device_id} is checked only while it is there and does nothing else",
        )
        _require(
            device.same_as is None or (device.connected and _shares_agent(state, device, device.same_as)),
            f"{device_id} gives way only to another place of the same phone",
        )
        waits = device.quarantine is not None and device.quarantine.next_check_at is not None
        _require(not waits or device.strikes > 0, f"{device_id} knows how often it was quarantined")
        _require(
            not device.connected or is_there(state, device),
            f"{device_id} is connected only while its host is",
        )


def _shares_agent(state: FarmState, device: Device, other: str) -> bool:
    return other != device.device_id and state.devices[other].agent_session == device.agent_session != ""


def _check_trial(state: FarmState, trial: Trial) -> None:
    attempts = [state.attempts[attempt_id] for attempt_id in trial.attempt_ids]
    delivered = [attempt for attempt in attempts if attempt.state in DELIVERED]
    has_result = trial.state in (TrialState.DONE, TrialState.FAILED)
    name, limit = trial.trial_id, state.jobs[trial.job_id].attempt_limit
    _require(len(attempts) <= limit, f"{name} has at most {limit} attempts")
    _require(len(delivered) == has_result, f"{name} has one result if and only if it is done or failed")
    if has_result:
        _require(trial.result_attempt_id == delivered[0].attempt_id, f"{name} knows its result")
        _require(trial.state.value == delivered[0].state.value, f"{name} ended as its attempt did")
        _require(attempts[-1] is delivered[0], f"{name} was not tried again after its result")
    else:
        _require(trial.result_attempt_id is None, f"{name} has no result")
    live = sum(attempt.live for attempt in attempts)
    _require(
        live == (trial.state is TrialState.LEASED), f"{name} has one live lease if and only if it is leased"
    )
    _require(
        trial.state is not TrialState.ABANDONED or len(attempts) == limit, f"{name} was abandoned in vain"
    )
    if trial.trial_id in state.backing_off:
        _require(trial.state is TrialState.PENDING, f"{name} backs off while pending")


def _check_job(state: FarmState, job: Job) -> None:
    trials = [state.trials[trial_id] for trial_id in job.trial_ids]
    counts = Counter(trial.state for trial in trials)
    name = job.job_id
    _require(
        [trial.position for trial in trials] == list(range(len(trials))), f"{name} has its trials in order"
    )
    _require(all(job.counts[kind] == counts[kind] for kind in TrialState), f"{name} counts its trials right")
    pending: dict[str, list[int]] = {method: [] for method in job.pending}
    for trial in trials:
        if trial.state is TrialState.PENDING:
            pending.setdefault(trial.method, []).append(trial.position)
    _require(job.pending == pending, f"{name} knows its pending trials")
    waits = state.waiting.get(name) is job
    _require(waits == (counts[TrialState.PENDING] > 0), f"{name} waits if and only if it has pending trials")
    _check_placement(state, job, trials)
    _require(job.cancelled_at is None or not job.open, f"{name} is cancelled and has no open trial")
    _require((job.finished_at is None) == job.open, f"{name} has an end if and only if all its trials ended")


def _check_placement(state: FarmState, job: Job, trials: list[Trial]) -> None:
    shares: Counter[str] = Counter()
    homes: dict[str, set[tuple[str, int]]] = {}
    for trial in trials:
        for attempt in (state.attempts[attempt_id] for attempt_id in trial.attempt_ids):
            if attempt.live or attempt.state in DELIVERED:
                shares[attempt.device_id] += 1
                if trial.group and attempt.execution != COMPUTER:
                    place = attempt.device_id, attempt.measurement_epoch
                    homes.setdefault(trial.group, set()).add(place)
    counted = {device_id: share for device_id, share in job.shares.items() if share}
    _require(counted == shares, f"{job.job_id} counts its trials by phone")
    known = {group: {(home.device_id, home.measurement_epoch)} for group, home in job.homes.items()}
    _require(known == homes, f"groups of {job.job_id} have one home")
