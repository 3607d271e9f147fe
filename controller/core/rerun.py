"""A recorded day once more, under another policy, without phones. Pure: the clock is the log's.

What people and cables did is taken from the log: submissions, cancellations, phones that come and go, tags,
sensors, quarantines. What the farm did follows anew: leases, results after the durations that the log tells
or suggests, expiries, and which phones are shown as held back. Two things do not depend on the policy:
readings of sensors are as recorded, and no attempt breaks by the farm's fault.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from mobifarm.controller.core.commands import Acknowledge, CancelAttempt, CheckHealth, Command, Dispatch
from mobifarm.controller.core.conditions import STALE_AFTER_S
from mobifarm.controller.core.due import LeaseSettings, due, next_due
from mobifarm.controller.core.durations import Durations
from mobifarm.controller.core.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    ControllerStarted,
    DeviceReady,
    DeviceState,
    DeviceStateChanged,
    Event,
    HealthChecked,
    HealthCheckStarted,
    LeaseExpired,
    LeaseGranted,
)
from mobifarm.controller.core.holds import holds
from mobifarm.controller.core.policies.base import Policy
from mobifarm.controller.core.policies.round import Matches
from mobifarm.controller.core.state import FarmState, TrialState, take_changes
from mobifarm.controller.core.step import replay, step

_FOLLOWS: Final = (
    LeaseGranted,
    AttemptStarted,
    AttemptFinished,
    AttemptFailed,
    LeaseExpired,
    HealthCheckStarted,
    HealthChecked,
)
_SHOWN: Final = (DeviceState.READY, DeviceState.COOLING, DeviceState.CHARGING)


@dataclass(frozen=True, slots=True)
class Rerun:
    """The farm at the end, and how many leases took their duration from which source (see Durations)."""

    state: FarmState
    durations: dict[str, int]


def rerun(events: Sequence[Event], policy: Policy, settings: LeaseSettings) -> Rerun:
    """Simulate the farm of a log under a policy until nothing more can happen.

    Args:
        events: the whole log, in order.
        settings: the leases'; the log does not tell those that it was recorded with.
    """
    return _Simulation(events, policy, settings).run()


def from_outside(event: Event) -> bool:
    """Whether the event is not the farm's own doing."""
    if isinstance(event, DeviceStateChanged):
        return event.state not in _SHOWN
    return not isinstance(event, _FOLLOWS)


class _Simulation:
    def __init__(self, events: Sequence[Event], policy: Policy, settings: LeaseSettings) -> None:
        recorded = replay(events)
        self._durations = Durations(recorded)
        self._failed = {
            trial.trial_id for trial in recorded.trials.values() if trial.state is TrialState.FAILED
        }
        self._outside = deque(event for event in events if from_outside(event))
        self._policy = policy
        self._settings = settings
        self._matches = Matches()
        self._state = FarmState()
        self._now = -math.inf
        self._ends: list[tuple[float, str]] = []  # when phones are done with attempts
        self._dispatched: set[str] = set()
        self._undelivered: set[str] = set()  # results on phones that were away when they were done
        self._leases = 0

    def run(self) -> Rerun:
        last_look = False
        while True:
            at = self._next()
            if at is None:
                # When the log's last readings are stale, gates may open that they closed.
                if last_look or not self._state.waiting:
                    break
                last_look, at = True, self._now + STALE_AFTER_S + 1
            self._now = max(self._now, at)
            self._happen()
            self._decide()
        take_changes(self._state)
        return Rerun(self._state, dict(self._durations.used))

    def _next(self) -> float | None:
        """When something happens next; never before now."""
        times = [self._outside[0].at] if self._outside else []
        times += [self._ends[0][0]] if self._ends else []
        if math.isfinite(self._now):
            later = next_due(self._state, self._now, self._settings)
            times += [] if later is None else [later]
        return min(times, default=None)

    def _happen(self) -> None:
        while self._outside and self._outside[0].at <= self._now:
            self._apply(self._as_here(self._outside.popleft()))
        while self._ends and self._ends[0][0] <= self._now:
            self._end(heapq.heappop(self._ends)[1])
        for expired in due(self._state, self._now, self._settings):
            self._apply(expired)

    def _as_here(self, event: Event) -> Event:
        """What the log says of its own leases means nothing here."""
        if isinstance(event, DeviceReady):
            return replace(event, held_attempts=(), fencing_token=0)
        if isinstance(event, ControllerStarted):
            return replace(event, policy=self._policy.name)
        return event

    def _decide(self) -> None:
        for assignment in self._policy.assign(self._state, self._now):
            self._leases += 1
            self._apply(
                LeaseGranted(
                    self._now,
                    f"simulated-{self._leases}",
                    assignment.trial_id,
                    assignment.device_id,
                    self._state.next_fencing_token,
                )
            )
        for change in holds(self._state, self._now, self._matches):
            self._apply(change)

    def _apply(self, event: Event) -> None:
        self._state, commands = step(self._state, event)
        for command in commands:
            self._carry_out(command)

    def _carry_out(self, command: Command) -> None:
        match command:
            case Dispatch():
                self._dispatch(command)
            case CancelAttempt():
                attempt = self._state.attempts.get(command.attempt_id)
                if attempt is not None:  # the phone stops at once
                    self._apply(
                        AttemptFailed(
                            self._now,
                            attempt.attempt_id,
                            attempt.fencing_token,
                            attempt.device_id,
                            "it was stopped",
                        )
                    )
            case Acknowledge():
                pass
            case CheckHealth():  # a simulated phone passes at once
                self._apply(HealthChecked(self._now, command.device_id, command.check_id, True, "simulated"))

    def _dispatch(self, command: Dispatch) -> None:
        if command.attempt_id in self._undelivered:
            self._undelivered.remove(command.attempt_id)
            self._end(command.attempt_id)
        elif command.attempt_id not in self._dispatched:
            self._dispatched.add(command.attempt_id)
            seconds = self._durations.of(self._state.trials[command.trial_id], command.device_id)
            heapq.heappush(self._ends, (self._now + seconds, command.attempt_id))

    def _end(self, attempt_id: str) -> None:
        lease = self._state.leases.get(attempt_id)
        if lease is None:
            return
        if not self._state.devices[lease.device_id].connected:
            self._undelivered.add(attempt_id)
            return
        failed = lease.trial_id in self._failed
        self._apply(
            AttemptFinished(self._now, attempt_id, lease.fencing_token, lease.device_id, failed, None)
        )


def decisions(events: Sequence[Event], policy: Policy) -> tuple[int, int]:
    """How many of the log's rounds of leases the policy would decide the same way, and how many there are.

    Each is decided in the state that the log had reached, at the time that it tells.
    """
    state = FarmState()
    same = rounds = 0
    waiting = deque(events)
    while waiting:
        event = waiting.popleft()
        if not isinstance(event, LeaseGranted):
            step(state, event)
            continue
        granted = [event]
        while waiting and isinstance(waiting[0], LeaseGranted) and waiting[0].at == event.at:
            granted.append(waiting.popleft())  # type: ignore[arg-type]
        proposed = [(pair.trial_id, pair.device_id) for pair in policy.assign(state, event.at)]
        rounds += 1
        same += proposed == [(each.trial_id, each.device_id) for each in granted]
        for each in granted:
            step(state, each)
    return same, rounds
