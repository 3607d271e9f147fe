"""Why a job waits: what its trials wait for, which phones would do, and when one may be free. Pure.

Whatever is reckoned and not known is marked as an estimate; what cannot be reckoned says so and has no time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.core.gates import Held, closed_gates
from mobifarm.controller.core.policies.base import Policy
from mobifarm.controller.core.selector import COMPUTER
from mobifarm.controller.core.state import Device, FarmState, Job, Trial, TrialState

NEAREST_LIMIT: Final = 10
NAME_LIMIT: Final = 40  # characters of a model or a serial number: both are a phone's word


@dataclass(frozen=True, slots=True)
class Cause:
    """What holds so many of the job's waiting trials back."""

    trials: int
    words: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """A phone that fulfils what the job asks for, and when it may start a trial.

    ``name`` is for people. ``at`` is unix time; None where nobody can tell. ``estimate``: the time is
    reckoned, not known.
    """

    device_id: str
    name: str
    state: str
    words: str
    at: float | None
    estimate: bool


@dataclass(frozen=True, slots=True)
class Miss:
    """A phone that does not fulfil what the job asks for, with every unmet condition."""

    device_id: str
    name: str
    unmet: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Why:
    """The whole answer; ``phones`` are ordered by when they may start, ``nearest`` by what they lack."""

    job_id: str
    state: str
    policy: str
    at: float
    waiting: int
    running: int
    summary: str
    causes: tuple[Cause, ...]
    phones: tuple[Outlook, ...]
    nearest: tuple[Miss, ...]


def why(state: FarmState, policy: Policy, job_id: str, now: float) -> Why:
    """Explain what the job's pending trials wait for at ``now`` (unix seconds); KeyError: no such job."""
    job = state.jobs[job_id]
    pending = [
        state.trials[job.trial_ids[position]]
        for position in sorted(position for positions in job.pending.values() for position in positions)
    ]
    outlooks: list[Outlook] = []
    misses: list[Miss] = []
    if pending:
        taken = {assignment.device_id: assignment.trial_id for assignment in policy.assign(state, now)}
        for device in state.devices.values():
            if device.stage is not DeviceState.RETIRED:
                unmet = _unmet(job, device)
                if unmet and device.execution == COMPUTER:
                    continue  # it is no phone, and lacks nothing that a person could mend
                if unmet:
                    misses.append(Miss(device.device_id, _name(device), tuple(unmet)))
                else:
                    outlooks.append(_outlook(state, job, device, taken.get(device.device_id), now))
    outlooks.sort(key=lambda each: (math.inf if each.at is None else each.at, each.device_id))
    misses.sort(key=lambda miss: (len(miss.unmet), miss.device_id))
    causes = tuple(_causes(state, job, pending, now))
    return Why(
        job_id,
        str(job.state),
        policy.name,
        now,
        len(pending),
        job.counts[TrialState.LEASED],
        _summary(job, pending, outlooks, misses, causes),
        causes,
        tuple(outlooks),
        tuple(misses[:NEAREST_LIMIT]),
    )


def _summary(
    job: Job, pending: list[Trial], outlooks: list[Outlook], misses: list[Miss], causes: tuple[Cause, ...]
) -> str:
    if not pending:
        return f"no trial of it waits: it is {job.state}"
    if not outlooks:
        if not misses:
            return "there is no phone: plug one in or add one with `mobifarm devices add`"
        best = len(misses[0].unmet)
        conditions = "1 condition" if best == 1 else f"{best} conditions"
        return f"no phone fulfils what it asks for; the nearest, {misses[0].name}, misses {conditions}"
    first = outlooks[0]
    blocked = causes[0].words if sum(cause.trials for cause in causes) >= len(pending) and causes else ""
    if blocked:
        return blocked
    if first.at is None:
        return f"a phone that would do is there, but nobody can tell when it is free: {first.words}"
    label = " (an estimate)" if first.estimate else ""
    return f"next is {first.name}: {first.words}{label}"


def _name(device: Device) -> str:
    """Model and serial number, and in brackets the place, which commands take; that alone at first."""
    if device.identity is None or device.execution == COMPUTER:
        return device.device_id
    model = device.properties.get("ro.product.model", "")[:NAME_LIMIT]
    return f"{model} {device.identity.serial[:NAME_LIMIT]} ({device.device_id})".strip()


def _unmet(job: Job, device: Device) -> list[str]:
    """What the phone lacks for good, so that waiting does not help."""
    wanted = [method for method, positions in job.pending.items() if positions]
    if device.execution == COMPUTER:
        return [] if any(device.supports(method) for method in wanted) else [_no_method(wanted)]
    unmet = job.selector.mismatches(device)
    if device.identity is not None and not any(device.supports(method) for method in wanted):
        unmet.append(_no_method(wanted))
    return unmet


def _no_method(wanted: list[str]) -> str:
    return f"it does no edits with {' or '.join(wanted)}"


def _outlook(state: FarmState, job: Job, device: Device, taken_by: str | None, now: float) -> Outlook:
    def tell(words: str, at: float | None = None, estimate: bool = False) -> Outlook:
        return Outlook(device.device_id, _name(device), str(device.state), words, at, estimate)

    if not device.connected:
        why_not = f" ({device.reason})" if device.reason else ""
        return tell(f"it is {device.state}{why_not}; nobody can tell when it is back")
    if device.quarantine is not None:
        return tell(f"it is in quarantine: {device.quarantine.reason}. {device.quarantine.action}".strip())
    if device.same_as is not None:
        return tell(f"it is the same phone as {device.same_as}, which gets its work")
    if device.drained is not None:
        return tell(f"{device.drained}: it gets nothing new until `mobifarm devices undrain`")
    if device.attempt_id is not None:
        return _busy(state, job, device, now)
    if device.health_check is not None:
        return tell("a health check runs on it; nobody can tell how long that takes")
    if device.stopping_attempt_id is not None:
        return tell("it stops an edit whose lease has ended; nobody can tell how long that takes")
    closed = closed_gates(job.gates, device, now)
    if closed:
        at, words = _gates_open_at(device, closed, now)
        return tell(words, at, estimate=True)
    if taken_by is None:
        return tell(_idle_words(job, device), None)
    other = state.trials[taken_by].job_id
    if other == job.job_id:
        return tell("it starts a trial of this job now", now)
    return tell(f"it is free, and the policy gives it to {other} first", None)


def _busy(state: FarmState, job: Job, device: Device, now: float) -> Outlook:
    lease = state.leases[device.attempt_id or ""]
    doing = "a trial of this job" if lease.job_id == job.job_id else f"a trial of {lease.job_id}"
    mean_s = state.jobs[lease.job_id].work.mean_s or state.work.mean_s
    if mean_s is None:
        words = f"it does {doing}; no edit has ended yet from which its end could be estimated"
        return Outlook(device.device_id, _name(device), str(device.state), words, None, False)
    at = max(now, lease.granted_at + mean_s)
    late = ", longer than usual already" if lease.granted_at + mean_s < now else ""
    words = f"it does {doing}{late}; the mean duration is {mean_s:.0f} s"
    return Outlook(device.device_id, _name(device), str(device.state), words, at, True)


def _gates_open_at(device: Device, closed: list[Held], now: float) -> tuple[float | None, str]:
    words = "; ".join(held.reason for held in closed)
    if len(closed) > 1 or closed[0].limit_celsius is None:
        return None, f"{words}; nobody can tell when that changes"
    cooling, celsius = device.thermal.idle.curve(), device.conditions.temperature_celsius
    if cooling is None or celsius is None:
        return None, f"{words}; its cooling curve is not known yet"
    rest_s = cooling.time_to(celsius, closed[0].limit_celsius)
    if math.isinf(rest_s):
        return None, f"{words}; by its cooling curve it settles at {cooling.settles_at_celsius:.1f} °C"
    minutes = f"half of the way every {math.log(2) / cooling.rate_per_s / 60:.1f} min"
    return max(now, device.conditions_at + rest_s), f"{words}; by its fitted curve it cools {minutes}"


def _idle_words(job: Job, device: Device) -> str:
    if job.homes:
        return "it is free, but trials that wait belong on the phones that did others of their group"
    if job.selector.placement == "spread":
        return "it is free, but has had its share: the job is spread, others come first"
    return "it is free; the trials that wait are kept from it by the causes above"


def _causes(state: FarmState, job: Job, pending: list[Trial], now: float) -> Iterator[Cause]:
    later = [trial.not_before for trial in pending if trial.not_before > now]
    if later:
        rest_s = min(later) - now
        yield Cause(
            len(later), f"the farm failed them before; the first is tried again in {rest_s:.0f} s (back-off)"
        )
    ready = [trial for trial in pending if trial.not_before <= now]
    if not ready:
        return
    count = job.selector.count
    if count is not None:
        working = sum(
            lease.job_id == job.job_id and lease.execution != COMPUTER for lease in state.leases.values()
        )
        if working >= count:
            yield Cause(len(ready), f"{working} phones work on the job, and it allows {count} at a time")
            return
    methods = Counter(trial.method for trial in ready)
    usable = [device for device in state.devices.values() if device.usable]
    for method, number in methods.items():
        if not any(device.supports(method) for device in usable):
            yield Cause(number, f"no device that is there does edits with {method or 'their method'}")
    yield from _home_causes(state, job, ready)
    failed = [trial for trial in ready if trial.attempt_ids and trial.group not in job.homes]
    if failed and job.selector.placement == "any":
        yield Cause(len(failed), "they broke on a phone before; they wait for another one that can do them")


def _home_causes(state: FarmState, job: Job, ready: list[Trial]) -> Iterator[Cause]:
    at_home = Counter(trial.group for trial in ready if trial.group in job.homes)
    for group, number in at_home.items():
        home = job.homes[group]
        device = state.devices[home.device_id]
        if device.measurement_epoch != home.measurement_epoch:
            words = (
                f"they belong on the phone that was at {home.device_id}, where another phone or system is "
                "now: cancel the job and submit the rest anew"
            )
        elif not device.usable:
            words = f"they belong on {_name(device)}, which is {device.state}"
        else:
            words = f"they belong on {_name(device)}, which does one after the other"
        yield Cause(number, words)
