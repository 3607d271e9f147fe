"""One moment of the farm for Prometheus: taken on the event loop, read in a thread. Pure.

What it holds never changes: the readings of phones are replaced, not altered, so taking them is cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.core.state import Device, FarmState, HostState, Job, TrialState
from mobifarm.controller.farm.hosts import HostView
from mobifarm.controller.farm.live import LiveDevice, LiveView
from mobifarm.controller.farm.vitals import Vitals
from mobifarm.controller.host.reports import AttemptProgress
from mobifarm.workloads.passport import provenance_of

REMEMBERED_S: Final = 900.0  # how long a phone that went away is told as down
FRESH_S: Final = 30.0  # an older reading says nothing about now


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """A phone; of one that is not ``connected`` only the first four mean anything.

    ``away``: it was connected before. ``vitals`` and ``values`` are None without a fresh reading,
    ``npu_fallback`` without a result.
    """

    device_id: str
    state: DeviceState
    connected: bool
    away: bool
    leased: bool = False
    leases: int = 0
    ready_after_s: float | None = None
    memory_total_bytes: int = 0
    info: Mapping[str, str] | None = None
    vitals: Vitals | None = None
    values: Mapping[str, float] | None = None
    progress: AttemptProgress | None = None
    npu_fallback: bool | None = None


@dataclass(frozen=True, slots=True)
class FarmSnapshot:
    """Everything that :func:`.exposition.render` tells."""

    devices: tuple[DeviceSnapshot, ...]
    hosts: Mapping[str, bool]
    jobs: Mapping[str, int]
    trials: Mapping[TrialState, int]
    queue_oldest_s: float
    standstill_s: float
    noise_floors: Mapping[str, float]
    loop_lag_s: float


def take_snapshot(
    state: FarmState,
    live: LiveView,
    hosts: Sequence[HostView],
    *,
    now: float,
    accelerators: Mapping[str, str],
    away_since: Mapping[str, float],
    moved_at: Mapping[str, float],
    started_at: float,
    noise_floors: Mapping[str, float],
    loop_lag_s: float,
) -> FarmSnapshot:
    """The farm at ``now`` (unix seconds).

    Args:
        accelerators: by device, of its newest result since it connected.
        away_since: by device that was connected and is not.
        moved_at: by job, when something of it last began or ended.
        started_at: when the controller started, which stands in where one of these times is not known.
    """
    open_jobs = [job for job in state.jobs.values() if job.open]
    trials = dict.fromkeys(TrialState, 0)
    for job in state.jobs.values():
        for trial_state, number in job.counts.items():
            trials[trial_state] += number
    waiting = [job.submitted_at for job in open_jobs if job.counts[TrialState.PENDING]]
    running = sum(job.counts[TrialState.PENDING] < len(job.trial_ids) for job in open_jobs)
    return FarmSnapshot(
        devices=tuple(
            _device(device, live.devices().get(device.device_id), now, accelerators.get(device.device_id))
            for device in state.devices.values()
            if device.stage is not DeviceState.RETIRED
            and not (_is_away(device) and now - away_since.get(device.device_id, started_at) >= REMEMBERED_S)
        ),
        hosts={host.host: host.state == HostState.JOINED for host in hosts},
        jobs={"queued": len(open_jobs) - running, "running": running},
        trials=trials,
        queue_oldest_s=max(0.0, now - min(waiting, default=now)),
        standstill_s=_standstill_s(state, live, open_jobs, now, moved_at, started_at),
        noise_floors=dict(noise_floors),
        loop_lag_s=loop_lag_s,
    )


def _is_away(device: Device) -> bool:
    """Whether it has been ready once and is not connected; its state may be lost, or any on its way back."""
    return device.identity is not None and not device.connected


def _device(
    device: Device, current: LiveDevice | None, now: float, accelerator: str | None
) -> DeviceSnapshot:
    if not device.connected:
        return DeviceSnapshot(device.device_id, device.state, False, _is_away(device))
    execution = device.execution or ""
    reading = current.reading if current and current.reading and now - current.reading.at < FRESH_S else None
    has_npu = execution == "phone" and "npu.arch" in device.attributes
    return DeviceSnapshot(
        device_id=device.device_id,
        state=device.state,
        connected=True,
        away=False,
        leased=device.attempt_id is not None,
        leases=device.leases_granted,
        ready_after_s=device.ready_after_s,
        memory_total_bytes=device.memory_total_bytes,
        info={
            "host": device.host,
            "model": device.properties.get("ro.product.model", ""),
            "soc": device.properties.get("ro.soc.model", ""),
            "android": device.properties.get("ro.build.version.release", ""),
            "execution": execution,
            "provenance": provenance_of(execution),
            "agent_version": device.agent_version,
        },
        vitals=current.vitals if current and reading else None,
        values=reading.values if reading else None,
        progress=current.progress if current else None,
        npu_fallback=None if accelerator is None else has_npu and accelerator == "cpu",
    )


def _standstill_s(
    state: FarmState,
    live: LiveView,
    open_jobs: Sequence[Job],
    now: float,
    moved_at: Mapping[str, float],
    started_at: float,
) -> float:
    moved = {
        job.job_id: max(job.submitted_at, started_at, moved_at.get(job.job_id, 0.0)) for job in open_jobs
    }
    for lease in state.leases.values():
        current = live.devices().get(lease.device_id)
        progress = current.progress if current else None
        if progress is not None and progress.attempt_id == lease.attempt_id:
            moved[lease.job_id] = max(moved.get(lease.job_id, 0.0), progress.at)
    return max(0.0, now - min(moved.values(), default=now))
