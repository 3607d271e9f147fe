"""The farm's timer, pure: what is due by now, and when to look again."""

from __future__ import annotations

from dataclasses import dataclass

from mobifarm.controller.core.care import due_checks, next_check
from mobifarm.controller.core.events import HealthChecked, HealthCheckStarted, LeaseExpired
from mobifarm.controller.core.state import Attempt, FarmState


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """How long leases last.

    ``lost_grace_s``: how long a lease waits for a phone that went away. ``attempt_limit_s``: how long an
    attempt may take, from its lease on; waiting in the queue does not count, being unplugged does.
    """

    lost_grace_s: float = 120.0
    attempt_limit_s: float = 3600.0


def due(
    state: FarmState, now: float, settings: LeaseSettings
) -> tuple[LeaseExpired | HealthCheckStarted | HealthChecked, ...]:
    """Leases that end now, in the order in which they were granted; then health checks, see :mod:`.care`."""
    expired = (
        LeaseExpired(now, lease.attempt_id, _reason(lease, state, now, settings))
        for lease in state.leases.values()
        if _ends_at(lease, settings) <= now
    )
    return (*expired, *due_checks(state, now))


def next_due(state: FarmState, now: float, settings: LeaseSettings) -> float | None:
    """Unix time at which a lease, a trial's back-off or a quarantine ends, so that :func:`due` or the policy
    has news.

    None where nothing is waited for. Back-offs that are over by ``now`` wait for a phone, not for time.
    """
    times = [_ends_at(lease, settings) for lease in state.leases.values()]
    times += [not_before for not_before in state.backing_off.values() if not_before > now]
    times += next_check(state)
    return min(times, default=None)


def _ends_at(lease: Attempt, settings: LeaseSettings) -> float:
    limit = lease.counted_from + settings.attempt_limit_s
    return limit if lease.lost_at is None else min(limit, lease.lost_at + settings.lost_grace_s)


def _reason(lease: Attempt, state: FarmState, now: float, settings: LeaseSettings) -> str:
    if lease.lost_at is not None and lease.lost_at + settings.lost_grace_s <= now:
        why = state.devices[lease.device_id].reason
        return f"the phone was away for {settings.lost_grace_s:g} s" + (f" ({why})" if why else "")
    return f"the attempt took longer than {settings.attempt_limit_s:g} s"
