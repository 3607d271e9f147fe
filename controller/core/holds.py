"""Which idle phones are shown as held back by a gate, and why. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mobifarm.controller.core.events import DeviceState, DeviceStateChanged
from mobifarm.controller.core.gates import closed_gates
from mobifarm.controller.core.policies.round import Matches, by_priority
from mobifarm.controller.core.state import Device, FarmState, Job

PREFIX: Final = "held back: "
PAUSES: Final = frozenset({DeviceState.COOLING, DeviceState.CHARGING})


def holds(state: FarmState, now: float, matches: Matches) -> list[DeviceStateChanged]:
    """Changes that make idle phones show whether a gate keeps waiting work from them.

    To be asked after the policy: what is idle then has been left idle. A phone that is held back for one job
    is free for others all the same.
    """
    idle = [device for device in state.devices.values() if device.free]
    if not idle:
        return []
    matches.begin_round()
    wanted: dict[str, tuple[DeviceState, str]] = {}
    for job in _gated_jobs(state):
        for device in matches.among(job.selector, idle):
            if device.device_id not in wanted and _could_do(job, device):
                closed = closed_gates(job.gates, device, now)
                if closed:
                    reason = f"{PREFIX}{closed[0].rule} (job {job.job_id})"
                    wanted[device.device_id] = closed[0].state, reason
    return list(_changes(idle, wanted, now))


def _gated_jobs(state: FarmState) -> Iterator[Job]:
    """The first waiting job of each kind: others of its kind are held back by the same gates."""
    seen: set[tuple[int, tuple[str, ...]]] = set()
    for job in by_priority(list(state.waiting.values())):
        if not job.gates.open:
            kind = job.lane, tuple(sorted(method for method, positions in job.pending.items() if positions))
            if kind not in seen:
                seen.add(kind)
                yield job


def _could_do(job: Job, device: Device) -> bool:
    return any(positions and device.supports(method) for method, positions in job.pending.items())


def _changes(
    idle: list[Device], wanted: dict[str, tuple[DeviceState, str]], now: float
) -> Iterator[DeviceStateChanged]:
    for device in idle:
        shown = device.stage in PAUSES or device.reason.startswith(PREFIX)
        stage, reason = wanted.get(device.device_id, (DeviceState.READY, ""))
        if (shown or reason) and (device.stage, device.reason) != (stage, reason):
            yield DeviceStateChanged(now, device.device_id, stage, reason)
