"""The report's section about the phones: their passports and the condition that they were in. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from mobifarm.workloads.accelerators import operators, why_not
from mobifarm.workloads.report.cells import NONE, Cell, Column, table
from mobifarm.workloads.report.contents import JobRecord, passport
from mobifarm.workloads.report.markup import element


def phones(record: JobRecord) -> list[Element]:
    """The passports, a row per device and epoch; readings are those of its first and last edit."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for stored in _in_time(record):
        held = passport(stored)
        serial = (held.get("phone") or {}).get("serial") or ""
        key = (str(stored.get("device_id") or ""), serial, held.get("measurement_epoch"))
        groups.setdefault(key, []).append(held)
    if not groups:
        return []
    rows: list[list[Cell]] = []
    conditions: list[list[Cell]] = []
    for (device, serial, epoch), passports in sorted(groups.items(), key=lambda item: str(item[0])):
        phone = passports[0].get("phone") or {}
        name = " ".join(part for part in (phone.get("manufacturer"), phone.get("model")) if part)
        rows.append(
            [
                serial or device,
                name or NONE,
                phone.get("soc") or NONE,
                phone.get("android_release") or NONE,
                phone.get("build_fingerprint") or NONE,
                NONE if epoch is None else str(epoch),
                str(passports[0].get("execution") or NONE),
                _accelerator(passports),
                ", ".join(_distinct(each.get("agent_version") for each in passports)) or NONE,
            ]
        )
        conditions.append(
            [
                serial or device,
                *_temperature(passports),
                _charging(passports),
                _level(passports, 0, "first"),
                _level(passports, -1, "last"),
                _origin(passports),
            ]
        )
    return [
        element("h2", "Phones"),
        table(
            [
                Column("Serial number"),
                Column("Model"),
                Column("SoC"),
                Column("Android"),
                Column("Build", "long"),
                Column("Epoch", "number"),
                Column("Execution"),
                Column("Accelerator, with proof", "long"),
                Column("Agent"),
            ],
            rows,
            "Passports. A new build of a phone begins a new measurement epoch.",
        ),
        table(
            [
                Column("Serial number"),
                Column("Sensor"),
                Column("before", "number", "Temperature, °C"),
                Column("after", "number", "Temperature, °C"),
                Column("highest", "number", "Temperature, °C"),
                Column("Charging"),
                Column("before", "number", "Battery, %"),
                Column("after", "number", "Battery, %"),
                Column("Origin"),
            ],
            conditions,
            "Conditions: before the first edit and after the last one of the job.",
        ),
    ]


def _in_time(record: JobRecord) -> list[Mapping[str, Any]]:
    begun = {attempt.attempt_id: attempt.granted_at for attempt in record.attempts}
    return sorted(record.stored, key=lambda stored: begun.get(str(stored.get("attempt_id")), 0.0))


def _distinct(values: Iterable[Any]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value is not None))


def _accelerator(held: Sequence[Mapping[str, Any]]) -> str:
    """Every accelerator that its edits name, with the nodes of the profiling trace or why there is none."""
    said: dict[str, None] = {}
    for each in held:
        found = each.get("accelerator") or {}
        nodes = found.get("nodes_by_provider")
        where = ", ".join(f"{number} nodes on {name}" for name, number in sorted((nodes or {}).items()))
        name = found.get("name") or "not named"
        proof = "trace: " + where if where else "no proof: " + str(found.get("reason") or NONE)
        parts = [operators(found), why_not(found), proof]
        said[f"{name} ({'; '.join(part for part in parts if part)})"] = None
    more = f"; and {len(said) - 2} more" if len(said) > 2 else ""
    return "; ".join(list(said)[:2]) + more


def _temperature(held: Sequence[Mapping[str, Any]]) -> list[Cell]:
    readings = [
        ((each.get("temperatures") or {}).get(when) or {}) for each in held for when in ("first", "last")
    ]
    names = sorted(
        {name for reading in readings for name in reading},
        key=lambda name: (name != "battery/temperature", "skin" not in name, name),
    )
    if not names:
        reason = next(iter(_distinct((each.get("temperatures") or {}).get("reason") for each in held)), "")
        return [f"not measured: {reason or 'no reason given'}", None, None, None]
    values = [float(reading[names[0]]["value"]) for reading in readings if names[0] in reading]
    return [names[0], *(f"{value:.1f}" for value in (values[0], values[-1], max(values)))]


def _charging(held: Sequence[Mapping[str, Any]]) -> str:
    states, reasons = [], []
    for each in held:
        found = each.get("charge_state") or {}
        value = ((found.get("first") or {}).get("battery/charging") or {}).get("value")
        states.append(None if value is None else "yes" if value == 1.0 else "no")
        reasons.append(found.get("reason"))
    said = _distinct(states)
    if not said:
        return f"not measured: {next(iter(_distinct(reasons)), 'no such sensor')}"
    return said[0] if len(said) == 1 else "changing"


def _level(held: Sequence[Mapping[str, Any]], place: int, when: str) -> str | None:
    readings = ((held[place].get("charge_state") or {}).get(when) or {}).get("battery/capacity") or {}
    value = readings.get("value")
    return None if value is None else f"{100 * float(value):.0f}"


def _origin(held: Sequence[Mapping[str, Any]]) -> str:
    parts = [
        (each.get(part) or {}).get("provenance") for each in held for part in ("temperatures", "charge_state")
    ]
    return ", ".join(_distinct(parts)) or NONE
