"""How well a farm did over a recorded or simulated day: waiting, shares, use of the phones. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mobifarm.controller.core.state import FarmState, TrialState


@dataclass(frozen=True, slots=True)
class UserDay:
    """``share``: of all device-seconds, 0 to 1. ``mean_waiting_s`` is None where no trial was leased."""

    user: str
    trials: int
    device_s: float
    share: float
    mean_waiting_s: float | None


@dataclass(frozen=True, slots=True)
class DeviceDay:
    """``use``: busy part of the makespan, 0 to 1."""

    device_id: str
    leases: int
    busy_s: float
    use: float


@dataclass(frozen=True, slots=True)
class Day:
    """Figures of a day; None where there is nothing to take them from.

    ``makespan_s``: from the first submission to the end of the last lease. Waiting: from a trial's submission
    to its first lease, over the trials that got one. ``unfinished``: trials that wait or run at the end.
    """

    policy: str
    jobs: int
    trials: int
    with_result: int
    abandoned: int
    cancelled: int
    unfinished: int
    leases: int
    makespan_s: float | None
    mean_waiting_s: float | None
    p95_waiting_s: float | None
    users: tuple[UserDay, ...]
    devices: tuple[DeviceDay, ...]


def sum_up(state: FarmState, policy: str) -> Day:
    """The figures of everything that happened in this state; leases that run still are left out of times."""
    ended = [attempt for attempt in state.attempts.values() if attempt.ended_at is not None]
    began = min((job.submitted_at for job in state.jobs.values()), default=None)
    last = max((attempt.ended_at or 0.0 for attempt in ended), default=None)
    makespan_s = None if began is None or last is None else last - began
    waits: defaultdict[str, list[float]] = defaultdict(list)
    for trial in state.trials.values():
        if trial.attempt_ids:
            job = state.jobs[trial.job_id]
            waits[job.user].append(state.attempts[trial.attempt_ids[0]].granted_at - job.submitted_at)
    used: defaultdict[str, float] = defaultdict(float)
    busy: defaultdict[str, float] = defaultdict(float)
    for attempt in ended:
        seconds = (attempt.ended_at or 0.0) - attempt.granted_at
        used[state.jobs[attempt.job_id].user] += seconds
        busy[attempt.device_id] += seconds
    total = sum(used.values())
    trials = Counter[str]()
    for job in state.jobs.values():
        trials[job.user] += len(job.trial_ids)
    leases = Counter(attempt.device_id for attempt in state.attempts.values())
    states = Counter(trial.state for trial in state.trials.values())
    every = [wait for of_user in waits.values() for wait in of_user]
    return Day(
        policy=policy,
        jobs=len(state.jobs),
        trials=len(state.trials),
        with_result=states[TrialState.DONE] + states[TrialState.FAILED],
        abandoned=states[TrialState.ABANDONED],
        cancelled=states[TrialState.CANCELLED],
        unfinished=states[TrialState.PENDING] + states[TrialState.LEASED],
        leases=len(state.attempts),
        makespan_s=makespan_s,
        mean_waiting_s=_mean(every),
        p95_waiting_s=percentile(every, 0.95),
        users=tuple(
            UserDay(user, trials[user], used[user], used[user] / total if total else 0.0, _mean(waits[user]))
            for user in sorted(trials)
        ),
        devices=tuple(
            DeviceDay(name, leases[name], busy[name], busy[name] / makespan_s if makespan_s else 0.0)
            for name in sorted(state.devices)
        ),
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed (nearest rank)."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
