"""When a job may be done, from how long its own trials took so far. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from mobifarm.controller.core.selector import COMPUTER
from mobifarm.controller.core.state import FarmState, TrialState


@dataclass(frozen=True, slots=True)
class Remaining:
    """``seconds`` until the job ends, None where nobody can tell; ``words`` say from what, or why not."""

    seconds: float | None
    words: str


def remaining(state: FarmState, job_id: str, now: float) -> Remaining:
    """Reckon at ``now`` (unix seconds) with the phones that work on the job; KeyError: no such job.

    Phones and the computer take different times, so that a job with baselines on the computer has no estimate
    while trials of both kinds wait.
    """
    job = state.jobs[job_id]
    if not job.open:
        return Remaining(None, f"the job has ended ({job.state})")
    leases = [lease for lease in state.leases.values() if lease.job_id == job_id]
    mean_s = job.work.mean_s
    if mean_s is None:
        return Remaining(None, "unknown: no edit of it has ended yet")
    if not leases:
        return Remaining(None, "unknown: no phone works on it now")
    if len({lease.execution == COMPUTER for lease in leases}) > 1:
        return Remaining(None, "unknown: phones and the computer work on it, which take different times")
    begun_s = sum(max(0.0, mean_s - (now - lease.granted_at)) for lease in leases)
    left_s = (job.counts[TrialState.PENDING] * mean_s + begun_s) / len(leases)
    phones = "1 phone that works" if len(leases) == 1 else f"{len(leases)} phones that work"
    return Remaining(left_s, f"with {phones} on it, at {mean_s:.1f} s an edit so far")
