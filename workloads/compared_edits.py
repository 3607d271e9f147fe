"""What a result stands on, for a comparison with another job's: read from trials and passports. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobifarm.workloads.scores import Quality
from mobifarm.workloads.summary import EditRow, TrialRecord


@dataclass(frozen=True, slots=True)
class Edit:
    """What a result stands on. None: not known. Temperatures in degrees Celsius, ``charge`` from 0 to 1.

    ``sensor`` is where the temperature at the start was read; ``phone`` is serial number, build and epoch.
    """

    label: str
    record_id: str
    repeat: int
    record_hash: str
    seed: int | None
    bundle_hash: str | None
    method: str
    settings_hash: str | None
    agent_version: str | None
    execution: str | None
    host: str | None
    accelerator: str | None
    processor: str | None
    phone: tuple[str, str, int | None]
    edits_applied: int | None
    design: str | None
    sensor: str | None
    temperature: float | None
    charging: bool | None
    charge: float | None
    status: str
    quality: Quality | None
    edit_s: float | None
    loss_evaluations: int | None
    token_layers: int | None
    peak_rss_bytes: int | None

    @property
    def key(self) -> tuple[str, str, int, str | None]:
        return (self.label, self.record_id, self.repeat, self.design)


def edits_of(trials: Sequence[TrialRecord], rows: Sequence[EditRow]) -> list[Edit]:
    """The edits of a job that have a result, from its trials and the rows of its summary (in one order)."""
    return [
        _edit(trial, trial.stored, row)
        for trial, row in zip(trials, rows, strict=True)
        if trial.stored is not None and row.status is not None
    ]


def _edit(trial: TrialRecord, stored: Mapping[str, Any], row: EditRow) -> Edit:
    passport, payload = stored.get("passport") or {}, trial.payload
    phone = passport.get("phone") or {}
    charge = (passport.get("charge_state") or {}).get("first") or {}
    sensor, temperature = _temperature(passport)
    charging = _value(charge, "battery/charging")
    place = f"block {row.block}, place {row.place}" if row.block is not None else None
    return Edit(
        label=row.method,
        record_id=row.record_id,
        repeat=row.repeat,
        record_hash=hashlib.sha256(json.dumps(payload["record"], sort_keys=True).encode()).hexdigest(),
        seed=payload.get("seed"),
        bundle_hash=passport.get("bundle_hash") or payload.get("bundle_hash"),
        method=str(payload.get("method") or passport.get("method") or row.method),
        settings_hash=passport.get("settings_hash"),
        agent_version=passport.get("agent_version"),
        execution=passport.get("execution"),
        host=passport.get("host"),
        accelerator=(passport.get("accelerator") or {}).get("name"),
        processor=phone.get("soc"),
        phone=(
            str(phone.get("serial") or ""),
            str(phone.get("build_fingerprint") or ""),
            passport.get("measurement_epoch"),
        ),
        edits_applied=passport.get("edits_applied"),
        design=place,
        sensor=sensor,
        temperature=temperature,
        charging=None if charging is None else charging == 1.0,
        charge=_value(charge, "battery/capacity"),
        status=str(row.status),
        quality=row.quality,
        edit_s=row.edit_s,
        loss_evaluations=row.loss_evaluations,
        token_layers=row.token_layers,
        peak_rss_bytes=row.peak_rss_bytes,
    )


def _value(readings: Mapping[str, Any], name: str) -> float | None:
    value = (readings.get(name) or {}).get("value")
    return float(value) if isinstance(value, int | float) else None


def _temperature(passport: Mapping[str, Any]) -> tuple[str | None, float | None]:
    """At the start: of the battery, else of the skin, else of the first sensor that there is."""
    readings = (passport.get("temperatures") or {}).get("first") or {}
    order = sorted(readings, key=lambda name: (name != "battery/temperature", "skin" not in name, name))
    return (order[0], _value(readings, order[0])) if order else (None, None)
