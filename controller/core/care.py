"""Rules for phones that get no work: quarantines, the health checks that end them, draining, recovery.

A quarantine of the farm's ends with a health check: after a back-off the phone does a small known edit. One
that it fails makes the next back-off longer. A quarantine by a person ends only by a person.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, assert_never

from mobifarm.controller.core.commands import CheckHealth, Command
from mobifarm.controller.core.events import (
    DeviceDrained,
    DeviceQuarantined,
    DeviceReleased,
    DeviceState,
    DeviceUndrained,
    HealthChecked,
    HealthCheckStarted,
    RecoveryStep,
)
from mobifarm.controller.core.state import Device, FarmState, HealthCheck, Quarantine
from mobifarm.controller.core.transitions import check_back_off_s, quarantine, set_stage
from mobifarm.controller.errors import Bug

CHECK_LIMIT_S: Final = 900.0  # longer than the host gives an edit: its own words are better than silence

UNPROVEN_BASE: Final = (
    "it cannot prove that its model is back at its base after an edit",
    "It loads the model anew and is released when it passes a health check.",
)
_WORDS: Final = {
    "reconnect": "connecting again",
    "restart_agent": "restarting its agent",
    "reset_usb": "resetting its USB port",
    "reboot": "rebooting it",
}

CareNews = (
    DeviceReleased
    | DeviceQuarantined
    | DeviceDrained
    | DeviceUndrained
    | RecoveryStep
    | HealthCheckStarted
    | HealthChecked
)


def care(state: FarmState, device: Device, event: CareNews) -> tuple[Command, ...]:
    """Apply an event about a phone that is known and not retired.

    Raises:
        Bug: a health check does not fit the phone's state.
    """
    state_before = device.state
    commands = _apply(state, device, event)
    if device.state is not state_before:
        device.changed_at = event.at
    state.changes.devices.add(device.device_id)
    return commands


def _apply(state: FarmState, device: Device, event: CareNews) -> tuple[Command, ...]:
    match event:
        case DeviceReleased():
            device.quarantine, device.consecutive_failures, device.strikes = None, 0, 0
        case DeviceQuarantined() if event.by_person:
            device.quarantine = Quarantine(event.reason, event.action)
        case DeviceQuarantined():
            # A phone stays in the quarantine that it is in, above all in one by a person.
            if device.quarantine is None:
                quarantine(state, device, event.reason, event.action, event.at)
        case DeviceDrained():
            device.drained = "; ".join(filter(None, ("an operator drains it", event.reason)))
        case DeviceUndrained():
            device.drained = None
        case RecoveryStep():
            _recovery_step(state, device, event)
        case HealthCheckStarted():
            if not _may_be_checked(device):
                raise Bug(f"A health check of {device.device_id} began, which is {device.state}.")
            device.health_check = HealthCheck(event.check_id, event.at)
            return (CheckHealth(device.device_id, event.check_id, state.next_fencing_token - 1),)
        case HealthChecked():
            _health_checked(state, device, event)
        case _:
            assert_never(event)
    return ()


def _recovery_step(state: FarmState, device: Device, event: RecoveryStep) -> None:
    words = _WORDS.get(event.rung, event.rung)
    again = f" (try {event.number})" if event.number > 1 else ""
    set_stage(state, device, DeviceState.CONNECTING, event.at, f"{words}{again}: {event.reason}")


def _health_checked(state: FarmState, device: Device, event: HealthChecked) -> None:
    check = device.health_check
    if check is None or check.check_id != event.check_id:
        return  # of an earlier session, or given up
    device.health_check = None
    held = device.quarantine
    if held is None or held.next_check_at is None:
        return  # a person released or quarantined it meanwhile
    if event.passed:
        device.quarantine, device.consecutive_failures = None, 0
        return
    device.strikes += 1
    first = held.reason.partition("; its health check failed: ")[0]
    device.quarantine = replace(
        held,
        reason=f"{first}; its health check failed: {event.reason}",
        next_check_at=event.at + check_back_off_s(device.strikes),
    )


def _next_check_at(device: Device) -> float:
    """Infinity where no check ends its quarantine."""
    held = device.quarantine
    return math.inf if held is None or held.next_check_at is None else held.next_check_at


def _may_be_checked(device: Device) -> bool:
    return (
        device.quarantine is not None  # first: nearly no phone is in quarantine, and all are asked each time
        and device.connected
        and device.same_as is None
        and _next_check_at(device) < math.inf
        and device.health_check is None
        and device.attempt_id is None
        and device.stopping_attempt_id is None
    )


def due_checks(state: FarmState, now: float) -> Iterator[HealthCheckStarted | HealthChecked]:
    """Checks that begin now, and those that were heard of no more."""
    for device in state.devices.values():
        running = device.health_check
        if running is not None:
            if running.started_at + CHECK_LIMIT_S <= now:
                yield HealthChecked(now, device.device_id, running.check_id, False, "it did not end in time")
        elif _may_be_checked(device) and _next_check_at(device) <= now:
            yield HealthCheckStarted(now, device.device_id, f"health-check-{round(now * 1000)}")


def next_check(state: FarmState) -> Iterator[float]:
    """Unix times at which :func:`due_checks` has news, as far as time alone decides."""
    for device in state.devices.values():
        if device.health_check is not None:
            yield device.health_check.started_at + CHECK_LIMIT_S
        elif _may_be_checked(device):
            yield _next_check_at(device)
