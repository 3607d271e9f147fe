"""The passport of a result: what it was measured with and under which conditions. Pure.

Every field is always there. What was not measured is None beside a ``reason`` in words, never zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from mobifarm.agent.editor.settings import settings_hash
from mobifarm.workloads.energy import none

MODELLED: Final = "modelled"
MEASURED: Final = "measured"
_EMULATED: Final = ("virtual", "qemu_arm64")
_COMPUTER: Final = "computer"
_SETTINGS_LIMIT: Final = 65536
_SETTINGS_DEPTH: Final = 32


class Identity(Protocol):
    """Which phone it was: the place where it is plugged in, its serial number, its build."""

    @property
    def address(self) -> str: ...

    @property
    def serial(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...


def passport(
    *,
    identity: Identity | None,
    epoch: int,
    execution: str,
    host: str,
    properties: Mapping[str, str],
    agent_version: str,
    sensors: Sequence[Mapping[str, Any]],
    payload: Mapping[str, Any],
    result: Mapping[str, Any],
    clock: Mapping[str, Any] | None = None,
    cpu_governors: Mapping[str, str] | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything a reader needs to judge a result, as plain JSON.

    Args:
        identity: the phone, None where it was never known.
        epoch: its measurement epoch; results of different epochs are not comparable.
        execution: ``phone``, ``qemu_arm64``, ``virtual``, or ``computer`` for a baseline.
        host: name of the machine that owns the phone.
        properties: the phone's Android properties.
        agent_version: of the agent that answered.
        sensors: as described by the agent: name, source, readable, unit, sign, reason.
        payload: what was asked for, from :func:`mobifarm.workloads.planner.plan`; it stands where an edit
            that did not run to its end does not say what it was.
        result: from :func:`mobifarm.workloads.messages.result_to_mapping`; a refused edit has little of it.
        clock: of the host against the phone's: ``offset_s``, ``bound_s``, ``measured_at``, ``round_trips``.
        cpu_governors: by number of the processor.
        recorded: what the raw samples tell: ``file``, ``reason`` and ``energy``.
    """
    run = result.get("execution") or {}
    telemetry = result.get("telemetry") or {}
    provenance = provenance_of(execution)
    ran, asked = run.get("settings_json"), payload.get("settings")
    units = {str(sensor["name"]): str(sensor["unit"]) for sensor in sensors}

    def conditions(what: str, matches: Callable[[str], bool]) -> dict[str, Any]:
        return _conditions(what, [s for s in sensors if matches(str(s["name"]))], telemetry, provenance)

    return {
        "phone": _phone(identity, properties),
        "measurement_epoch": epoch,
        "host": host,
        "execution": execution,
        "agent_version": run.get("agent_version") or agent_version,
        "bundle_hash": run.get("bundle_hash") or payload.get("bundle_hash"),
        "method": run.get("method") or payload.get("method"),
        "settings": asked if ran is None else _settings(ran),
        "settings_hash": run.get("settings_hash") or (None if asked is None else settings_hash(asked)),
        "accelerator": _accelerator(run, execution),
        "returned_to_base": run.get("returned_to_base"),
        "edits_applied": run.get("edits_applied"),
        "kept": run.get("kept"),
        "memory": _memory(result.get("cost") or {}),
        "temperatures": conditions("temperature", lambda name: units[name] == "degC"),
        "clocks": {
            **conditions("clock", lambda name: units[name] == "Hz"),
            "governors": dict(cpu_governors or {}) or None,
        },
        "charge_state": conditions(
            "charge state",
            lambda name: (name.startswith("battery/") and units[name] != "degC") or name.endswith("/online"),
        ),
        "sensors": [{**sensor, "provenance": provenance} for sensor in sensors],
        "telemetry": {
            "samples": telemetry.get("samples"),
            "idle_samples": telemetry.get("idle_samples"),
            "period_s": telemetry.get("period_s"),
            "gaps": telemetry.get("gaps"),
            "dropped": telemetry.get("dropped"),
            "sampling_cpu_s": telemetry.get("sampling_cpu_s"),
            "file": recorded["file"] if recorded else None,
            "file_reason": recorded["reason"] if recorded else _no_telemetry(payload),
            "reason": None if telemetry else _no_telemetry(payload),
        },
        "phone_clock": {
            **dict.fromkeys(("offset_s", "bound_s", "measured_at", "round_trips")),
            **(clock or {}),
            "reason": None if clock else "the offset to the phone's clock was not measured",
        },
        "energy": _energy(execution, payload, recorded),
    }


def provenance_of(execution: str) -> str:
    """Whether sensors of this kind of device are measured or modelled."""
    return MODELLED if execution in _EMULATED else MEASURED


def _phone(identity: Identity | None, properties: Mapping[str, str]) -> dict[str, Any]:
    return {
        "usb_path": identity.address if identity else None,
        "serial": identity.serial if identity else None,
        "build_fingerprint": identity.fingerprint if identity else None,
        "model": properties.get("ro.product.model"),
        "manufacturer": properties.get("ro.product.manufacturer"),
        "soc": properties.get("ro.soc.model"),
        "android_release": properties.get("ro.build.version.release"),
        "reason": None if identity else "the phone was never identified",
    }


def _settings(text: str | None) -> dict[str, Any] | None:
    """The complete settings as the phone tells them; None where its text is no plain JSON object."""
    if not text or len(text) > _SETTINGS_LIMIT:
        return None
    try:
        settings = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return settings if isinstance(settings, dict) and _storable(settings, _SETTINGS_DEPTH) else None


def _storable(value: object, depth: int) -> bool:
    """Whether JSON that was read can be written again: 1e999 and half a surrogate pair cannot."""
    match value:
        case str():
            return not any("\ud800" <= character <= "\udfff" for character in value)
        case float():
            return math.isfinite(value)
        case list():
            return depth > 0 and all(_storable(part, depth - 1) for part in value)
        case dict():
            return depth > 0 and all(
                _storable(name, depth) and _storable(part, depth - 1) for name, part in value.items()
            )
        case _:
            return True


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _accelerator(run: Mapping[str, Any], execution: str) -> dict[str, Any]:
    nodes = run.get("nodes_by_provider") or None
    reason = "no profiling trace came with this result"
    if execution == _COMPUTER:
        reason = "torch in fp32 on the weights that the bundle was built from: it runs no graph of the bundle"
    return {
        "name": run.get("accelerator"),
        "nodes_by_provider": nodes,
        "proof": "profiling trace of a real call on the phone" if nodes else None,
        "reason": None if nodes else reason,
        # Why no neural processor was used, or how it was found to compute what the processor does.
        "details": _settings(run.get("accelerator_json")),
    }


def _memory(cost: Mapping[str, Any]) -> dict[str, Any]:
    peak = cost.get("peak_rss_bytes")
    if peak is None:
        reason = "the agent could not read its peak memory"
    elif cost.get("peak_rss_reset"):
        reason = None
    else:
        reason = "the kernel does not let the agent reset its peak: it is that since the agent's start"
    return {"peak_rss_bytes": peak, "since_start_of_attempt": cost.get("peak_rss_reset"), "reason": reason}


def _conditions(
    what: str, sensors: Sequence[Mapping[str, Any]], telemetry: Mapping[str, Any], provenance: str
) -> dict[str, Any]:
    """Readings at the first and the last sample of an attempt, with unit and origin of each."""

    def readings(moment: str) -> dict[str, Any] | None:
        values = (telemetry.get(moment) or {}).get("values") or {}
        found = {
            str(sensor["name"]): {"value": values[sensor["name"]], "unit": sensor["unit"]}
            for sensor in sensors
            if values.get(sensor["name"]) is not None
        }
        return found or None

    first, last = readings("first"), readings("last")
    return {
        "first": first,
        "last": last,
        "provenance": provenance if first or last else None,
        "reason": None if first or last else _why_not(what, sensors, telemetry),
    }


def _why_not(what: str, sensors: Sequence[Mapping[str, Any]], telemetry: Mapping[str, Any]) -> str:
    if not sensors:
        return f"the phone has no {what} sensor that the agent knows"
    unreadable = [f"{sensor['name']}: {sensor['reason']}" for sensor in sensors if not sensor["readable"]]
    if len(unreadable) == len(sensors):
        shown = "; ".join(unreadable[:3]) + ("; …" if len(unreadable) > 3 else "")
        return f"no {what} sensor is readable ({shown})"
    if not telemetry:
        return "the attempt ended before the first sample"
    return f"every {what} sensor was silent during the attempt"


def _energy(execution: str, payload: Mapping[str, Any], recorded: Mapping[str, Any] | None) -> dict[str, Any]:
    """See :func:`mobifarm.workloads.energy.edit_energy`; modelled joules say so in ``provenance``."""
    if execution == _COMPUTER:
        return none("not a phone: there is no energy to measure")
    if recorded is None or not payload.get("telemetry", True):
        return none(_no_telemetry(payload))
    return dict(recorded["energy"])


def _no_telemetry(payload: Mapping[str, Any]) -> str:
    if not payload.get("telemetry", True):
        return "the spec switched telemetry off"
    return "the attempt ended before the first sample"
