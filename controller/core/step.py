"""The farm's rules: what each event changes, and what is to be done about it.

``step`` either raises before it has changed anything or applies the whole event, so a controller steps,
appends the event to the log, waits until that is durable, and runs the commands. Two kinds of events:

* decisions of the controller (a job, a lease) must fit the state; one that does not is a :class:`Bug`;
* news from phones may be late, doubled or stale; what no longer matters is ignored, and a result whose lease
  has ended is only acknowledged, never counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mobifarm.controller.core import hosts
from mobifarm.controller.core.care import UNPROVEN_BASE, CareNews, care
from mobifarm.controller.core.commands import Acknowledge, CancelAttempt, Command, Dispatch
from mobifarm.controller.core.conditions import UNKNOWN
from mobifarm.controller.core.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    ControllerStarted,
    DeviceAdded,
    DeviceConditions,
    DeviceForgotten,
    DeviceLost,
    DeviceReady,
    DeviceState,
    DeviceStateChanged,
    DeviceTagged,
    Event,
    HostJoined,
    HostLost,
    JobCancelled,
    JobSubmitted,
    LeaseExpired,
    LeaseGranted,
)
from mobifarm.controller.core.state import (
    Attempt,
    AttemptState,
    Device,
    FarmState,
    Job,
    Quarantine,
    Trial,
    TrialState,
    take_changes,
)
from mobifarm.controller.core.thermal import Thermal
from mobifarm.controller.core.transitions import (
    begin_lease,
    describe,
    end_lease,
    lease_of,
    move_trial,
    note_conditions,
    note_failure,
    quarantine,
    set_stage,
)
from mobifarm.controller.core.twins import leases_of_phone, meet, settle
from mobifarm.controller.errors import Bug

Commands = tuple[Command, ...]

# A phone's word is untrusted: no report may push the tokens of later leases near the end of uint64.
FENCING_TOKEN_STEP_LIMIT: Final = 2**32


def step(state: FarmState, event: Event) -> tuple[FarmState, Commands]:
    """Apply one event.

    Args:
        state: changed in place and returned; on an exception it is as before.
        event: what happened; events arrive in the order of the log.

    Raises:
        Bug: a decision does not fit the state, or an event names a phone that was never added.
    """
    return state, _apply(state, event)


def replay(events: Iterable[Event]) -> FarmState:
    """The state of an empty farm after these events; their commands belong to the past."""
    state = FarmState()
    for event in events:
        _apply(state, event)
    take_changes(state)
    return state


def _apply(state: FarmState, event: Event) -> Commands:
    match event:
        case LeaseGranted():
            return _lease_granted(state, event)
        case AttemptStarted():
            return _attempt_started(state, event)
        case AttemptFinished():
            return _attempt_finished(state, event)
        case AttemptFailed():
            return _attempt_failed(state, event)
        case LeaseExpired():
            return _lease_expired(state, event)
        case JobSubmitted():
            return _job_submitted(state, event)
        case JobCancelled():
            return _job_cancelled(state, event)
        case ControllerStarted():
            return _controller_started(state, event)
        case DeviceAdded():
            return _device_added(state, event)
        case HostJoined():
            return hosts.joined(state, event)
        case HostLost():
            return hosts.lost(state, event)
        case _:
            return _device_news(state, event)


# Jobs and leases


def _job_submitted(state: FarmState, event: JobSubmitted) -> Commands:
    if event.job_id in state.jobs:
        raise Bug(f"Job {event.job_id} was submitted twice.")
    trial_ids = tuple(plan.trial_id for plan in event.trials)
    if not trial_ids or len(set(trial_ids)) < len(trial_ids) or any(id_ in state.trials for id_ in trial_ids):
        raise Bug(f"Job {event.job_id} has no trials, or trials whose ids are taken.")
    if event.attempt_limit < 1:
        raise Bug(f"Job {event.job_id} allows no attempt.")
    counts = dict.fromkeys(TrialState, 0)
    counts[TrialState.PENDING] = len(trial_ids)
    pending: dict[str, list[int]] = {}
    for position, plan in enumerate(event.trials):
        state.trials[plan.trial_id] = Trial(
            plan.trial_id, event.job_id, position, plan.label, plan.method, plan.group
        )
        pending.setdefault(plan.method, []).append(position)
    wishes = (*event.selector.signature, event.gates)
    job = Job(
        event.job_id,
        event.name,
        event.user,
        event.selector,
        event.priority,
        event.attempt_limit,
        submitted_at=event.at,
        sequence=len(state.jobs),
        trial_ids=trial_ids,
        pending=pending,
        counts=counts,
        gates=event.gates,
        lane=state.lanes.setdefault(wishes, len(state.lanes)),
    )
    state.jobs[event.job_id] = state.waiting[event.job_id] = job
    state.changes.jobs.add(event.job_id)
    state.changes.trials.update(trial_ids)
    return ()


def _job_cancelled(state: FarmState, event: JobCancelled) -> Commands:
    job = state.jobs.get(event.job_id)
    if job is None:
        raise Bug(f"Job {event.job_id} is to be cancelled but is not known.")
    if not job.open:
        return ()
    job.cancelled_at = event.at
    for positions in job.pending.values():
        for position in reversed(positions.copy()):
            move_trial(state, state.trials[job.trial_ids[position]], TrialState.CANCELLED, event.at)
    commands: list[Command] = []
    for attempt in [lease for lease in state.leases.values() if lease.job_id == job.job_id]:
        end_lease(state, attempt, AttemptState.CANCELLED, event.at, "the job was cancelled")
        commands += _stop(state, attempt)
    return tuple(commands)


def _stop(state: FarmState, attempt: Attempt) -> Commands:
    """Stop what a connected phone does for an ended lease; until it reports the end it gets no other work."""
    device = state.devices[attempt.device_id]
    if not device.connected:
        return ()  # it will tell at its return what it holds
    device.stopping_attempt_id = attempt.attempt_id
    return (CancelAttempt(device.device_id, attempt.attempt_id),)


def _lease_granted(state: FarmState, event: LeaseGranted) -> Commands:
    trial, device = state.trials.get(event.trial_id), state.devices.get(event.device_id)
    if trial is None or trial.state is not TrialState.PENDING:
        raise Bug(f"Trial {event.trial_id} was leased but is {trial.state if trial else 'not known'}.")
    if device is None or not device.free or device.identity is None or device.execution is None:
        raise Bug(
            f"Phone {event.device_id} was leased but is {device.state if device else 'not known'} or busy."
        )
    if event.attempt_id in state.attempts:
        raise Bug(f"Attempt {event.attempt_id} was granted twice.")
    if event.fencing_token < state.next_fencing_token:
        raise Bug(f"Fencing token {event.fencing_token} of attempt {event.attempt_id} was used before.")
    attempt = Attempt(
        event.attempt_id,
        event.trial_id,
        trial.job_id,
        event.device_id,
        event.fencing_token,
        device.identity,
        device.execution,
        device.measurement_epoch,
        granted_at=event.at,
        counted_from=event.at,
    )
    state.attempts[event.attempt_id] = state.leases[event.attempt_id] = attempt
    state.next_fencing_token = event.fencing_token + 1
    device.attempt_id, device.changed_at = event.attempt_id, event.at
    device.leases_granted += 1
    settle(state, device)
    trial.attempt_ids.append(event.attempt_id)
    move_trial(state, trial, TrialState.LEASED, event.at)
    begin_lease(state, attempt, trial)
    if device.stage is not DeviceState.READY or device.reason:  # a gate that held it back has opened
        set_stage(state, device, DeviceState.READY, event.at)
    state.changes.attempts.add(event.attempt_id)
    state.changes.devices.add(event.device_id)
    return (_dispatch(attempt),)


def _dispatch(attempt: Attempt) -> Dispatch:
    return Dispatch(attempt.device_id, attempt.attempt_id, attempt.trial_id, attempt.fencing_token)


def _attempt_started(state: FarmState, event: AttemptStarted) -> Commands:
    lease = state.leases.get(event.attempt_id)
    if lease is not None and lease.state is AttemptState.LEASED:
        lease.state, lease.started_at = AttemptState.RUNNING, event.at
        state.changes.attempts.add(lease.attempt_id)
    return ()


def _live_lease(state: FarmState, event: AttemptFinished | AttemptFailed) -> Attempt | None:
    """The lease that this news is about; None where it has ended or was never this phone's (the fence)."""
    lease = state.leases.get(event.attempt_id)
    if lease is None or lease.fencing_token != event.fencing_token or lease.device_id != event.device_id:
        return None
    return lease


def _attempt_finished(state: FarmState, event: AttemptFinished) -> Commands:
    lease = _live_lease(state, event)
    _check_base(state, event)
    if lease is None:
        _note_stopped(state, event)
    else:
        outcome = AttemptState.FAILED if event.failed else AttemptState.DONE
        device = state.devices[lease.device_id]
        device.consecutive_failures = 0
        if device.quarantine is None:
            device.strikes = 0
        end_lease(state, lease, outcome, event.at)
    return (Acknowledge(event.device_id, event.attempt_id),)


def _attempt_failed(state: FarmState, event: AttemptFailed) -> Commands:
    lease = _live_lease(state, event)
    _check_base(state, event)
    if lease is None:
        _note_stopped(state, event)
        return ()
    device = state.devices[lease.device_id]
    end_lease(state, lease, AttemptState.BROKEN, event.at, event.reason)
    note_failure(state, device, event.reason, event.at)
    return _discard(device, event.attempt_id) if device.connected else ()


def _check_base(state: FarmState, event: AttemptFinished | AttemptFailed) -> None:
    """A phone whose model is not what it was gets no more work, whatever became of the lease."""
    device = state.devices.get(event.device_id)
    if not event.base_proven and device is not None and device.quarantine is None:
        quarantine(state, device, *UNPROVEN_BASE, event.at)


def _note_stopped(state: FarmState, event: AttemptFinished | AttemptFailed) -> None:
    device = state.devices.get(event.device_id)
    if device is not None and device.stopping_attempt_id == event.attempt_id:
        device.stopping_attempt_id = None
        state.changes.devices.add(device.device_id)


def _discard(device: Device, attempt_id: str) -> Commands:
    return (CancelAttempt(device.device_id, attempt_id), Acknowledge(device.device_id, attempt_id))


def _lease_expired(state: FarmState, event: LeaseExpired) -> Commands:
    if event.attempt_id not in state.attempts:
        raise Bug(f"The lease of attempt {event.attempt_id} expired but was never granted.")
    lease = state.leases.get(event.attempt_id)
    if lease is None:
        return ()
    device = state.devices[lease.device_id]
    end_lease(state, lease, AttemptState.EXPIRED, event.at, event.reason)
    if (
        device.connected
    ):  # the phone is there and did not deliver; a phone that is away may be the cable's fault
        note_failure(state, device, event.reason, event.at)
    return _stop(state, lease)


# The controller and the phones


def _controller_started(state: FarmState, event: ControllerStarted) -> Commands:
    if event.epoch <= state.epoch:
        raise Bug(f"The controller started with epoch {event.epoch} after epoch {state.epoch}.")
    state.epoch, state.policy = event.epoch, event.policy
    hosts.expect_all(state, event.at)
    for device in state.devices.values():
        if device.stage is not DeviceState.RETIRED:
            set_stage(state, device, DeviceState.LOST, event.at, "the controller was restarted")
    for lease in state.leases.values():
        lease.lost_at = lease.counted_from = event.at
        state.changes.attempts.add(lease.attempt_id)
    return ()


def _device_added(state: FarmState, event: DeviceAdded) -> Commands:
    if event.host and event.host not in state.hosts:
        raise Bug(f"Phone {event.device_id} was added to the host {event.host}, which has never joined.")
    device = state.devices.get(event.device_id)
    if device is None or device.stage is DeviceState.RETIRED:
        if device is not None:
            meet(state, device, "")
        state.devices[event.device_id] = Device(
            event.device_id,
            event.address,
            event.source,
            DeviceState.DISCOVERED,
            changed_at=event.at,
            host=event.host,
            joined_host=event.host,
            # A forgotten place may get another phone: its measurements must not join those of the one before.
            measurement_epoch=0 if device is None else device.measurement_epoch,
        )
        state.changes.devices.add(event.device_id)
    elif device.stage is DeviceState.LOST:
        device.address, device.source = event.address, event.source
        set_stage(state, device, DeviceState.DISCOVERED, event.at)
    return ()


DeviceNews = (
    DeviceForgotten
    | DeviceStateChanged
    | DeviceReady
    | DeviceLost
    | DeviceTagged
    | DeviceConditions
    | CareNews
)


def _device_news(state: FarmState, event: DeviceNews) -> Commands:
    device = state.devices.get(event.device_id)
    if device is None:
        raise Bug(f"There is news of phone {event.device_id}, which was never added.")
    if device.stage is DeviceState.RETIRED:
        return ()
    if _is_from_its_link(event) and not hosts.is_there(state, device):
        return ()  # it was on its way when the host was given up; the phone reports anew when that is back
    match event:
        case DeviceReady():
            return _device_ready(state, device, event)
        case DeviceStateChanged():
            return _device_state_changed(state, device, event)
        case DeviceForgotten():
            return _device_forgotten(state, device, event)
        case DeviceLost():
            set_stage(state, device, DeviceState.LOST, event.at, event.reason)
            return ()
        case DeviceTagged():
            device.tags = event.tags
            describe(state, device)
            return ()
        case DeviceConditions():
            note_conditions(device, event.conditions, event.at)
            return ()
        case _:
            return care(state, device, event)


def _is_from_its_link(event: DeviceNews) -> bool:
    if isinstance(event, DeviceStateChanged):
        return event.state is not DeviceState.QUARANTINED
    return isinstance(event, DeviceReady)


def _device_state_changed(state: FarmState, device: Device, event: DeviceStateChanged) -> Commands:
    match event.state:
        case DeviceState.LEASED | DeviceState.DRAINED | DeviceState.LOST | DeviceState.RETIRED:
            raise Bug(f"Phone {device.device_id} cannot become {event.state} by a mere change of state.")
        case DeviceState.READY | DeviceState.COOLING | DeviceState.CHARGING if not device.connected:
            raise Bug(
                f"Phone {device.device_id} became {event.state} while {device.stage}, without a session."
            )
        case DeviceState.QUARANTINED:
            device.quarantine, device.changed_at = Quarantine(event.reason, event.action), event.at
            state.changes.devices.add(device.device_id)
        case _:
            set_stage(state, device, event.state, event.at, event.reason, event.action)
    return ()


def _device_forgotten(state: FarmState, device: Device, event: DeviceForgotten) -> Commands:
    commands: Commands = ()
    lease = lease_of(state, device)
    if lease is not None:
        end_lease(state, lease, AttemptState.EXPIRED, event.at, "the phone was taken out of the farm")
        if device.connected:
            commands = _discard(device, lease.attempt_id)
    set_stage(state, device, DeviceState.RETIRED, event.at, "it was taken out of the farm")
    return commands


def _device_ready(state: FarmState, device: Device, event: DeviceReady) -> Commands:
    lease = lease_of(state, device)
    if lease is not None and event.identity != lease.identity:
        end_lease(
            state, lease, AttemptState.EXPIRED, event.at, "another phone, or another system, answers there"
        )
        lease = None
    if lease is not None and event.fencing_token > lease.fencing_token:
        end_lease(state, lease, AttemptState.EXPIRED, event.at, "another farm has used the phone since")
        lease = None
    if event.identity != device.identity:
        device.measurement_epoch += 1
        if device.identity is not None and event.identity.serial != device.identity.serial:
            device.tags, device.thermal = (), Thermal()
        if device.identity is not None:  # else it is the phone that was quarantined before it was ever ready
            device.quarantine, device.consecutive_failures, device.strikes = None, 0, 0
    device.identity, device.host, device.properties = event.identity, event.host, event.properties
    device.execution, device.agent_version = event.execution, event.agent_version
    device.methods = event.methods
    if event.ready_after_s is not None:
        device.ready_after_s = event.ready_after_s
    device.memory_total_bytes, device.cpu_count = event.memory_total_bytes, event.cpu_count
    device.conditions, device.conditions_at = UNKNOWN, event.at
    describe(state, device)
    device.stopping_attempt_id, device.health_check = None, None
    if event.fencing_token - state.next_fencing_token < FENCING_TOKEN_STEP_LIMIT:
        state.next_fencing_token = max(state.next_fencing_token, event.fencing_token + 1)
    else:
        device.quarantine = Quarantine(
            "its agent reports an impossible fencing token",
            "Remove the agent's journal from the phone, then release it.",
        )
    set_stage(state, device, DeviceState.READY, event.at)
    meet(state, device, event.agent_session)

    commands: list[Command] = []
    leased = leases_of_phone(state, device)
    for held in event.held_attempts:
        if held.attempt_id in leased:
            continue
        if held.state == "running":
            commands.append(CancelAttempt(device.device_id, held.attempt_id))
        commands.append(Acknowledge(device.device_id, held.attempt_id))
    if lease is not None:
        lease.lost_at = None
        state.changes.attempts.add(lease.attempt_id)
        commands.append(_dispatch(lease))
    return tuple(commands)
