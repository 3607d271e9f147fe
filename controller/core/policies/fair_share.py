"""Equal shares of the farm between its users."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from mobifarm.controller.core.policies.base import Assignment
from mobifarm.controller.core.policies.fifo import least_used
from mobifarm.controller.core.policies.round import Matches, Round, by_priority
from mobifarm.controller.core.state import FarmState, Job
from mobifarm.controller.core.transitions import usage_at

UNKNOWN_DURATION_S: Final = 60.0  # of a trial on a farm that has not finished one yet


class FairSharePolicy:
    """The user who used the least device-seconds of late goes first, trial by trial.

    What was used counts half as much after a day. A trial that is placed is charged at once with the mean
    duration of its job's trials, so that one round is shared, too. Priorities order the jobs of one user;
    they give nobody a larger share.
    """

    name = "fair-share"
    work_conserving = True

    def __init__(self) -> None:
        self._matches = Matches()

    def assign(self, state: FarmState, now: float) -> Sequence[Assignment]:
        current = Round(state, now, least_used, self._matches)
        jobs: defaultdict[str, list[Job]] = defaultdict(list)
        for job in by_priority(current.waiting):
            jobs[job.user].append(job)
        used = shares(state, now)
        # The order of a user's oldest job breaks ties, so that equal users take turns in a settled order.
        turns = [(used.get(user, 0.0), own[0].sequence, user) for user, own in jobs.items()]
        heapq.heapify(turns)
        queues = {user: self._queue(state, current, own) for user, own in jobs.items()}
        assignments: list[Assignment] = []
        while turns and current.free:
            seconds, sequence, user = heapq.heappop(turns)
            found = next(queues[user], None)
            if found is not None:
                assignment, cost_s = found
                assignments.append(assignment)
                heapq.heappush(turns, (seconds + cost_s, sequence, user))
        return assignments

    def _queue(self, state: FarmState, current: Round, jobs: list[Job]) -> Iterator[tuple[Assignment, float]]:
        for job in jobs:
            cost_s = expected_s(state, job)
            for assignment in current.pairs(job):
                yield assignment, cost_s


def shares(state: FarmState, now: float) -> dict[str, float]:
    """Device-seconds by user: faded ones of ended leases, and those of the running leases so far."""
    used = {user: usage_at(state, user, now) for user in state.usage}
    for lease in state.leases.values():
        user = state.jobs[lease.job_id].user
        used[user] = used.get(user, 0.0) + max(0.0, now - lease.granted_at)
    return used


def expected_s(state: FarmState, job: Job) -> float:
    """What a trial of the job is expected to take: its own mean, else the farm's, else a minute."""
    return job.work.mean_s or state.work.mean_s or UNKNOWN_DURATION_S
