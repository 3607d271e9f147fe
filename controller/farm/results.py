"""A result on its way into the log: what its raw samples tell, its passport, or why it cannot be kept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mobifarm.controller.core.events import AttemptFailed, AttemptFinished, Event
from mobifarm.controller.core.state import Device, FarmState
from mobifarm.controller.errors import Bug
from mobifarm.controller.farm.telemetry_files import Measured, TelemetryFiles
from mobifarm.workloads.passport import passport, provenance_of


async def with_samples(
    events: list[Event], pieces: Mapping[str, Sequence[bytes]], state: FarmState, files: TelemetryFiles
) -> list[Event]:
    """The events, results with what their raw samples tell, which are on disk before they are.

    Args:
        pieces: of the samples, by the attempts that end in these events.
    """
    measured = {at: found for at, event in enumerate(events) if (found := _measured(event, state))}
    sampled = {at: one for at, one in measured.items() if pieces[one.attempt_id]}
    written = await asyncio.gather(
        *(asyncio.to_thread(files.record, pieces[one.attempt_id], one) for one in sampled.values())
    )
    told = {at: files.record((), one) for at, one in measured.items() if at not in sampled}
    told |= dict(zip(sampled, written, strict=True))
    return [
        replace(event, result={**event.result, "recorded": told[at]})
        if at in told and isinstance(event, AttemptFinished) and event.result is not None
        else event
        for at, event in enumerate(events)
    ]


def _measured(event: Event, state: FarmState) -> Measured | None:
    """How the figures of a result came about; None of other events, and of results that are stored."""
    if not isinstance(event, AttemptFinished) or event.result is None:
        return None
    attempt = state.attempts.get(event.attempt_id)
    if attempt is None or not attempt.live:
        return None
    return Measured(
        attempt_id=event.attempt_id,
        job_id=attempt.job_id,
        device_id=event.device_id,
        execution=attempt.execution,
        provenance=provenance_of(attempt.execution),
        clock=event.result.get("clock"),
        telemetry=event.result["result"].get("telemetry") or {},
        sensors=event.result["sensors"],
    )


def with_passport(event: AttemptFinished, device: Device, payload: Mapping[str, Any]) -> AttemptFinished:
    """The result with which phone it was, in which measurement epoch and under which conditions.

    Args:
        payload: what the trial asked for; empty where the attempt is not known.

    Raises:
        Bug: no passport can be made of what the phone says.
    """
    delivered = event.result or {}
    try:
        described = passport(
            identity=device.identity,
            epoch=device.measurement_epoch,
            execution=device.execution or "unknown",
            host=device.host,
            properties=device.properties,
            agent_version=delivered["agent_version"],
            sensors=delivered["sensors"],
            payload=payload,
            result=delivered["result"],
            clock=delivered.get("clock"),
            cpu_governors=delivered.get("cpu_governors"),
            recorded=delivered.get("recorded"),
        )
    except Exception as error:  # it is a phone's word, which must not stop the farm
        raise Bug(f"no passport can be made of it ({type(error).__name__}: {error})") from error
    result = {
        "attempt_id": event.attempt_id,
        "device_id": event.device_id,
        "result": delivered["result"],
        "passport": described,
    }
    return replace(event, result=result)


def unusable(finished: AttemptFinished, misfit: Bug) -> AttemptFailed:
    """What stands for a result that cannot be kept: the attempt broke, and the trial is tried again."""
    return AttemptFailed(
        finished.at,
        finished.attempt_id,
        finished.fencing_token,
        finished.device_id,
        f"the farm cannot keep the phone's result: {misfit}",
        base_proven=finished.base_proven,
    )
