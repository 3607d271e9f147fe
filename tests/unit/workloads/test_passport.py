"""The passport: every field is there, and what was not measured says why."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from mobifarm.agent.editor.settings import settings_hash
from mobifarm.workloads.energy import none
from mobifarm.workloads.passport import passport


@dataclass(frozen=True)
class Phone:
    address: str = "usb:1-2.3"
    serial: str = "SER1"
    fingerprint: str = "google/husky/husky:14"


def sensor(name: str, unit: str, *, readable: bool = True, reason: str = "") -> dict[str, Any]:
    source = f"/sys/{name}"
    return {"name": name, "source": source, "readable": readable, "unit": unit, "sign": "", "reason": reason}


SENSORS = [
    sensor("battery/temperature", "degC"),
    sensor("battery/charging", "1"),
    sensor("battery/voltage", "V"),
    sensor("usb/online", "1"),
    sensor("thermal/skin", "degC", readable=False, reason="permission denied"),
    sensor("cpu/0/frequency", "Hz", readable=False, reason="no such file"),
]
RESULT: dict[str, Any] = {
    "status": "converged",
    "cost": {"peak_rss_bytes": 1000, "peak_rss_reset": True},
    "execution": {
        "bundle_hash": "b",
        "method": "forward",
        "settings_hash": "s",
        "settings_json": '{"step_limit":60}',
        "accelerator": "cpu",
        "accelerator_json": '{"reason": "none"}',
        "nodes_by_provider": {"CPUExecutionProvider": 12},
        "base_hash": "h",
        "returned_to_base": True,
        "edits_applied": 3,
        "kept": True,
        "agent_version": "1.2",
    },
    "telemetry": {
        "samples": 4,
        "idle_samples": 2,
        "period_s": 1.0,
        "gaps": 0,
        "dropped": 0,
        "sampling_cpu_s": 0.01,
        "first": {"values": {"battery/temperature": 30.0, "battery/charging": 0.0, "battery/voltage": 4.1}},
        "last": {"values": {"battery/temperature": 31.5, "battery/charging": 0.0, "usb/online": 1.0}},
    },
}


RECORDED: dict[str, Any] = {
    "file": {"path": "telemetry/j/a.parquet", "sha256": "ab", "samples": 6},
    "reason": None,
    "energy": {**none(""), "joules": 3.5, "provenance": "measured"},
}
PAYLOAD: dict[str, Any] = {"bundle_hash": "b", "method": "forward", "settings": {"step_limit": 60, "mu": 4.0}}


def made(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "identity": Phone(),
        "epoch": 2,
        "execution": "phone",
        "host": "hub1",
        "properties": {"ro.product.model": "Pixel 8", "ro.soc.model": "Tensor G3"},
        "agent_version": "1.1",
        "sensors": SENSORS,
        "payload": PAYLOAD,
        "result": RESULT,
        "clock": {"offset_s": 1e9, "bound_s": 0.001, "measured_at": 2e9, "round_trips": 8},
        "cpu_governors": {"0": "schedutil"},
        "recorded": RECORDED,
    }
    return passport(**{**given, **changes})


def test_a_measured_result_has_every_field() -> None:
    document = made()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (document["edits_applied"], document["kept"]) == (3, True)
    assert document["phone"] == {
        "usb_path": "usb:1-2.3",
        "serial": "SER1",
        "build_fingerprint": "google/husky/husky:14",
        "model": "Pixel 8",
        "manufacturer": None,
        "soc": "Tensor G3",
        "android_release": None,
        "reason": None,
    }
    assert (document["measurement_epoch"], document["host"], document["execution"]) == (2, "hub1", "phone")
    assert (document["bundle_hash"], document["method"], document["settings_hash"]) == ("b", "forward", "s")
    assert document["settings"] == {"step_limit": 60}
    assert document["agent_version"] == "1.2"
    assert document["accelerator"]["nodes_by_provider"] == {"CPUExecutionProvider": 12}
    assert document["accelerator"]["details"] == {"reason": "none"}
    assert document["memory"] == {"peak_rss_bytes": 1000, "since_start_of_attempt": True, "reason": None}
    assert document["temperatures"] == {
        "first": {"battery/temperature": {"value": 30.0, "unit": "degC"}},
        "last": {"battery/temperature": {"value": 31.5, "unit": "degC"}},
        "provenance": "measured",
        "reason": None,
    }
    assert document["charge_state"]["first"] == {
        "battery/charging": {"value": 0.0, "unit": "1"},
        "battery/voltage": {"value": 4.1, "unit": "V"},
    }
    assert document["charge_state"]["last"]["usb/online"] == {"value": 1.0, "unit": "1"}
    assert document["telemetry"] == {
        "samples": 4,
        "idle_samples": 2,
        "period_s": 1.0,
        "gaps": 0,
        "dropped": 0,
        "sampling_cpu_s": 0.01,
        "file": {"path": "telemetry/j/a.parquet", "sha256": "ab", "samples": 6},
        "file_reason": None,
        "reason": None,
    }
    assert document["phone_clock"] == {
        "offset_s": 1e9,
        "bound_s": 0.001,
        "measured_at": 2e9,
        "round_trips": 8,
        "reason": None,
    }
    assert document["clocks"]["governors"] == {"0": "schedutil"}
    assert document["energy"]["joules"] == 3.5
    assert [entry["provenance"] for entry in document["sensors"]] == ["measured"] * len(SENSORS)


@pytest.mark.parametrize("execution", ["virtual", "qemu_arm64"])
def test_sensors_without_a_phone_are_modelled(execution: str) -> None:
    document = made(execution=execution)
    assert document["temperatures"]["provenance"] == "modelled"
    assert {entry["provenance"] for entry in document["sensors"]} == {"modelled"}


def test_a_baseline_says_that_it_ran_in_torch_on_the_computer() -> None:
    execution = {**RESULT["execution"], "nodes_by_provider": {}}
    document = made(execution="computer", result={**RESULT, "execution": execution})
    assert "torch in fp32" in document["accelerator"]["reason"]
    assert document["energy"]["reason"] == "not a phone: there is no energy to measure"


def test_unread_conditions_say_why() -> None:
    document = made()
    assert document["clocks"]["first"] is None
    assert document["clocks"]["reason"] == "no clock sensor is readable (cpu/0/frequency: no such file)"
    assert made(sensors=[])["clocks"]["reason"] == "the phone has no clock sensor that the agent knows"
    silent = made(result={**RESULT, "telemetry": {"samples": 1, "first": None, "last": None}})
    assert silent["temperatures"]["reason"] == "every temperature sensor was silent during the attempt"


def test_energy_that_is_not_there_says_why() -> None:
    assert made(recorded=None)["energy"]["reason"] == "the attempt ended before the first sample"
    off = made(payload={**PAYLOAD, "telemetry": False}, result={**RESULT, "telemetry": None})
    assert off["energy"]["joules"] is None
    assert off["energy"]["reason"] == off["telemetry"]["reason"] == "the spec switched telemetry off"


def test_a_refused_edit_on_an_unknown_phone_has_every_field_too() -> None:
    refused = made(
        identity=None,
        result={"status": "refused", "message": "the subject is empty"},
        clock=None,
        recorded=None,
    )
    assert refused.keys() == made().keys()
    assert json.loads(json.dumps(refused, allow_nan=False)) == refused
    assert refused["agent_version"] == "1.1"
    for name in (
        "phone",
        "accelerator",
        "memory",
        "temperatures",
        "clocks",
        "charge_state",
        "telemetry",
        "phone_clock",
        "energy",
    ):
        assert refused[name]["reason"], name
    assert (refused["bundle_hash"], refused["method"]) == ("b", "forward")
    assert refused["settings"] == PAYLOAD["settings"]
    assert refused["settings_hash"] == settings_hash(PAYLOAD["settings"])
    assert refused["memory"]["peak_rss_bytes"] is None
    assert refused["telemetry"]["samples"] is None


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[1]", '{"a": NaN}', "[" * 20_000, "x" * 70_000, ""),
        # Read by Python, and then refused by the store.
        *('{"a": 1e999}', '{"a": [-1e999]}', '{"a": "\\ud800"}', '{"\\udfff": 1}'),
        '{"a": ' + "[" * 900 + "]" * 900 + "}",
    ],
)
def test_settings_that_a_phone_garbles_are_left_out(text: str) -> None:
    execution = {**RESULT["execution"], "settings_json": text, "accelerator_json": text}
    found = made(result={**RESULT, "execution": execution})
    assert found["settings"] is found["accelerator"]["details"] is None


def test_memory_since_the_start_of_the_agent_is_told_apart() -> None:
    result = {**RESULT, "cost": {"peak_rss_bytes": 5, "peak_rss_reset": False}}
    memory = made(result=result)["memory"]
    assert memory["peak_rss_bytes"] == 5
    assert "since the agent's start" in memory["reason"]
