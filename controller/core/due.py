"""The farm's timer, pure: what is due by now, and when to look again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mobifarm.controller.core.care import due_checks, next_check
from mobifarm.controller.core.events import HealthChecked, HealthCheckStarted, LeaseExpired
from mobifarm.controller.core.hosts import host_of
from mobifarm.controller.core.state import Attempt, FarmState, HostState


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """How long leases last.

    ``lost_grace_s``: how long a lease waits for a phone that went away. ``attempt_limit_s``: how long an
    attempt may take, from its lease on; waiting in the queue does not count, being unplugged does.
    ``host_grace_s``: how long the leases of a lost host wait for it, in place of the cable's grace; counted
    from when its silence was noticed. ``rejoin_grace_s``: how long they wait after the controller's restart.
    """

    lost_grace_s: float = 120.0
    attempt_limit_s: float = 3600.0
    host_grace_s: float = 5.0
    rejoin_grace_s: float = 60.0


def due(
    state: FarmState, now: float, settings: LeaseSettings
) -> tuple[LeaseExpired | HealthCheckStarted | HealthChecked, ...]:
    """Leases that end now, in the order in which they were granted; then health checks, see :mod:`.care`."""
    expired = (
        LeaseExpired(now, lease.attempt_id, _reason(lease, state, now, settings))
        for lease in state.leases.values()
        if _ends_at(lease, state, settings) <= now
    )
    return (*expired, *due_checks(state, now))


def next_due(state: FarmState, now: float, settings: LeaseSettings) -> float | None:
    """Unix time at which a lease, a trial's back-off or a quarantine ends, so that :func:`due` or the policy
    has news.

    None where nothing is waited for. Back-offs that are over by ``now`` wait for a phone, not for time.
    """
    times = [_ends_at(lease, state, settings) for lease in state.leases.values()]
    times += [not_before for not_before in state.backing_off.values() if not_before > now]
    times += next_check(state)
    return min(times, default=None)


def _ends_at(lease: Attempt, state: FarmState, settings: LeaseSettings) -> float:
    limit = lease.counted_from + settings.attempt_limit_s
    return limit if lease.lost_at is None else min(limit, _lost_until(lease, state, settings))


def _lost_until(lease: Attempt, state: FarmState, settings: LeaseSettings) -> float:
    """When the wait for the phone is over; never for one that is there."""
    if lease.lost_at is None:
        return math.inf
    cable = lease.lost_at + settings.lost_grace_s
    host = host_of(state, state.devices[lease.device_id])
    if host is None or host.state is HostState.JOINED:
        return cable
    if host.state is HostState.EXPECTED:
        return max(cable, lease.lost_at + settings.rejoin_grace_s)
    return min(cable, max(lease.lost_at, host.changed_at) + settings.host_grace_s)


def _reason(lease: Attempt, state: FarmState, now: float, settings: LeaseSettings) -> str:
    if lease.lost_at is not None and _lost_until(lease, state, settings) <= now:
        why = state.devices[lease.device_id].reason
        waited_s = round(_lost_until(lease, state, settings) - lease.lost_at, 1)
        return f"the phone was away for {waited_s:g} s" + (f" ({why})" if why else "")
    return f"the attempt took longer than {settings.attempt_limit_s:g} s"
