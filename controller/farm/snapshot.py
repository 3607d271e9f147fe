"""The farm at one moment as people watch it: columns, so that a thousand phones stay small. Pure.

Each table is a mapping of column names to lists of one length. None is unknown, never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any, Final

from mobifarm.controller.core.events import DeviceState
from mobifarm.controller.core.remaining import remaining
from mobifarm.controller.core.state import FarmState
from mobifarm.controller.core.views import device_view, job_view
from mobifarm.controller.farm.hosts import HostView
from mobifarm.controller.farm.live import LiveDevice, LiveView, Moment
from mobifarm.workloads.passport import MODELLED, provenance_of

RECENT_MOMENTS: Final = 60
PHONES_WITH_PAST: Final = 100  # of more phones a whole past would be megabytes: it grows as one watches
ENDED_JOBS: Final = 20
OPEN_JOBS: Final = 200

Columns = dict[str, list[Any]]


def snapshot(
    state: FarmState, live: LiveView, hosts: Sequence[HostView], now: float, *, with_past: bool
) -> dict[str, Any]:
    """Phones, jobs, hosts and notices at ``now`` (unix seconds).

    ``with_past`` adds the last minute of each phone's power and temperature, for whoever begins to look at a
    farm of up to a hundred phones.
    """
    devices = [device for device in state.devices.values() if device.stage is not DeviceState.RETIRED]
    rows = [_device_row(state, device.device_id, live.devices().get(device.device_id)) for device in devices]
    found: dict[str, Any] = {
        "at": now,
        "policy": state.policy,
        "devices": _columns(rows, DEVICE_COLUMNS),
        "jobs": _columns([_job_row(state, job_id, now) for job_id in _jobs(state)], JOB_COLUMNS),
        "jobs_total": len(state.jobs),
        "hosts": [asdict(host) for host in hosts],
        "notices": [asdict(notice) for notice in live.notices()],
    }
    if with_past:
        found["past"] = {
            device.device_id: _recent(heard)
            for device in (devices if len(devices) <= PHONES_WITH_PAST else ())
            if (heard := live.devices().get(device.device_id)) and heard.history
        }
    return found


def history(moments: Iterable[Moment], after: float = 0.0) -> dict[str, Any]:
    """A phone's recent past after a unix time: columns, ``rail_watts`` a column for each rail."""
    chosen = [moment for moment in moments if moment.vitals.at > after]
    rails = sorted({rail for moment in chosen for rail in moment.vitals.rail_watts})
    columns: dict[str, Any] = {
        name: [getattr(moment.vitals, name) for moment in chosen]
        for name in (
            "at",
            "power_watts",
            "battery_watts",
            "battery",
            "temperature_celsius",
            "hottest_celsius",
            "clock_hertz",
            "agent_rss_bytes",
        )
    }
    columns |= {
        name: [getattr(moment, name) for moment in chosen]
        for name in ("attempt_id", "phase", "target_probability")
    }
    columns["rail_watts"] = {
        rail: [moment.vitals.rail_watts.get(rail) for moment in chosen] for rail in rails
    }
    return columns


DEVICE_COLUMNS: Final = (
    "device_id",
    "model",
    "serial",
    "host",
    "execution",
    "modelled",
    "state",
    "reason",
    "action",
    "changed_at",
    "drained",
    "job_id",
    "attempt_id",
    "label",
    "phase",
    "step",
    "step_limit",
    "target_probability",
    "transfer",
    "transfer_share",
    "settling_until",
    "heard_at",
    "temperature_celsius",
    "thermal_status",
    "power_watts",
    "power_source",
    "charging",
    "battery",
    "clock_hertz",
)

JOB_COLUMNS: Final = (
    "job_id",
    "name",
    "user",
    "state",
    "submitted_at",
    "finished_at",
    "trials",
    "pending",
    "leased",
    "done",
    "failed",
    "abandoned",
    "cancelled",
    "remaining_s",
    "remaining_words",
)


def _device_row(state: FarmState, device_id: str, heard: LiveDevice | None) -> dict[str, Any]:
    view = device_view(state, device_id)
    lease = state.leases.get(view.attempt_id or "")
    row: dict[str, Any] = {
        "device_id": device_id,
        "model": view.model,
        "serial": view.serial,
        "host": view.host,
        "execution": view.execution,
        "modelled": provenance_of(view.execution) == MODELLED,
        "state": view.state,
        "reason": view.reason,
        "action": view.action,
        "changed_at": view.changed_at,
        "drained": state.devices[device_id].drained is not None,
        "job_id": lease.job_id if lease else None,
        "attempt_id": view.attempt_id,
        "label": state.trials[lease.trial_id].label if lease else None,
    }
    if heard is None:
        return row
    if edit := heard.progress:
        row |= {
            "phase": edit.phase,
            "step": edit.step,
            "step_limit": edit.step_limit,
            "target_probability": _short(edit.target_probability),
        }
    if transfer := heard.transfer:
        row |= {
            "transfer": transfer.what,
            "transfer_share": _short(transfer.bytes_done / max(1, transfer.bytes_total)),
        }
    if heard.settling:
        row["settling_until"] = heard.settling.until
    if seen := heard.vitals:
        row |= {
            "heard_at": seen.at,
            "temperature_celsius": _short(seen.temperature_celsius),
            "thermal_status": seen.thermal_status,
            "power_watts": _short(seen.power_watts),
            "power_source": seen.power_source,
            "charging": seen.charging,
            "battery": seen.battery,
            "clock_hertz": seen.clock_hertz,
        }
    return row


def _job_row(state: FarmState, job_id: str, now: float) -> dict[str, Any]:
    left = remaining(state, job_id, now)
    return {**asdict(job_view(state, job_id)), "remaining_s": left.seconds, "remaining_words": left.words}


def _jobs(state: FarmState) -> list[str]:
    """Jobs that go on and those that ended last, the newest first."""
    newest_first = list(reversed(state.jobs.values()))
    going = islice((job.job_id for job in newest_first if job.open), OPEN_JOBS)
    ended = islice((job.job_id for job in newest_first if not job.open), ENDED_JOBS)
    chosen = {*going, *ended}
    return [job.job_id for job in newest_first if job.job_id in chosen]


def _recent(heard: LiveDevice) -> Columns:
    moments = list(heard.history)[-RECENT_MOMENTS:]
    return {
        "at": [moment.vitals.at for moment in moments],
        "power_watts": [_short(moment.vitals.power_watts) for moment in moments],
        "temperature_celsius": [_short(moment.vitals.temperature_celsius) for moment in moments],
    }


def _columns(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Columns:
    return {name: [row.get(name) for row in rows] for name in names}


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
