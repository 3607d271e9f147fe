"""Payloads become requests, results become JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent.editor.types import EditRecord, Probe
from mobifarm.v1 import agent_pb2 as pb
from mobifarm.workloads.messages import payload_to_run_request, result_to_mapping
from mobifarm.workloads.planner import plan
from mobifarm.workloads.spec import parse_spec


def test_a_planned_trial_becomes_a_request() -> None:
    record = EditRecord(
        "ann",
        "Ann",
        "Ann likes",
        "tea",
        "coffee",
        ("Ann drinks",),
        (Probe("Bob likes", "milk"),),
        (Probe("Ann's cup holds", "tea"),),
    )
    spec = parse_spec(
        {
            "name": "n",
            "model": "m",
            "dataset": {"builtin": "personal-facts"},
            "methods": [{"name": "forward", "settings": {"step_limit": 9}}],
        }
    )
    (trial,) = plan(spec, [record], bundle_hash="b" * 64)
    request = payload_to_run_request(trial.payload, "attempt-1", 12)
    assert request.attempt_id == "attempt-1"
    assert request.fencing_token == 12
    assert request.bundle_hash == "b" * 64
    assert request.method == "forward"
    assert request.seed == trial.payload["seed"]
    assert request.settings["step_limit"] == 9
    assert dict(request.settings.items()) == trial.payload["settings"]
    assert request.keep == pb.KEEP_NO
    assert request.record == pb.EditRecord(
        record_id="ann",
        subject="Ann",
        prompt="Ann likes",
        target_new="tea",
        target_true="coffee",
        paraphrases=["Ann drinks"],
        neighbours=[pb.Probe(prompt="Bob likes", answer="milk")],
        portability=[pb.Probe(prompt="Ann's cup holds", answer="tea")],
    )


PAYLOAD: dict[str, Any] = {
    "bundle_hash": "b",
    "method": "forward",
    "settings": {},
    "seed": 1,
    "record": {
        "record_id": "r",
        "subject": "s",
        "prompt": "s",
        "target_new": "n",
        "target_true": "t",
        "paraphrases": [],
        "neighbours": [],
        "portability": [],
    },
}


@pytest.mark.parametrize(
    ("keep", "wanted"),
    [(None, pb.KEEP_NO), ("together", pb.KEEP_TOGETHER), ("in_sequence", pb.KEEP_IN_SEQUENCE)],
)
def test_what_becomes_of_the_edit_is_asked_for(keep: str | None, wanted: int) -> None:
    payload = {**PAYLOAD, **({"keep": keep} if keep else {})}
    assert payload_to_run_request(payload, "a", 1).keep == wanted


def test_a_full_result_keeps_every_figure() -> None:
    answer = pb.AnswerScore(log_probability=-1.5, tokens=2, tokens_argmax=1)
    result = pb.EditResult(
        attempt_id="a",
        status=pb.EDIT_STATUS_CONVERGED,
        scores=[
            pb.ProbeScore(
                kind=pb.PROBE_KIND_PORTABILITY,
                prompt="p",
                wanted="w",
                wanted_before=answer,
                wanted_after=answer,
            )
        ],
        cost=pb.EditCost(steps=3, loss_evaluations=99, token_layers=1000, edit_s=2.5, peak_rss_bytes=7),
        execution=pb.Execution(
            bundle_hash="b",
            method="forward",
            settings_hash="s",
            settings_json="{}",
            accelerator="cpu",
            accelerator_json='{"reason": "none"}',
            nodes_by_provider={"CPUExecutionProvider": 3},
            base_hash="h",
            returned_to_base=True,
            edits_applied=4,
            kept=True,
            agent_version="1",
        ),
        telemetry=pb.TelemetrySummary(
            samples=2,
            period_s=1.0,
            gaps=1,
            first=pb.TelemetrySample(monotonic_ns=5, values={"battery/voltage": 4.0}),
            idle_samples=7,
            dropped=1,
            phases=[pb.PhaseStart(phase=pb.EDIT_PHASE_CACHING, monotonic_ns=6)],
            ended_ns=9,
            sampling_cpu_s=0.5,
            process_cpu_s=2.0,
        ),
    )
    scored = {"log_probability": -1.5, "tokens": 2, "tokens_argmax": 1}
    assert result_to_mapping(result) == {
        "attempt_id": "a",
        "status": "converged",
        "message": "",
        "scores": [
            {
                "kind": "portability",
                "prompt": "p",
                "wanted": "w",
                "other": "",
                "wanted_before": scored,
                "wanted_after": scored,
                "other_before": None,
                "other_after": None,
            }
        ],
        "cost": {
            "steps": 3,
            "loss_evaluations": 99,
            "token_layers": 1000,
            "load_s": 0.0,
            "edit_s": 2.5,
            "evaluation_s": 0.0,
            "peak_rss_bytes": 7,
            "peak_rss_reset": False,
        },
        "execution": {
            "bundle_hash": "b",
            "method": "forward",
            "settings_hash": "s",
            "settings_json": "{}",
            "accelerator": "cpu",
            "accelerator_json": '{"reason": "none"}',
            "nodes_by_provider": {"CPUExecutionProvider": 3},
            "base_hash": "h",
            "returned_to_base": True,
            "edits_applied": 4,
            "kept": True,
            "agent_version": "1",
        },
        "telemetry": {
            "samples": 2,
            "period_s": 1.0,
            "gaps": 1,
            "first": {"monotonic_ns": 5, "values": {"battery/voltage": 4.0}},
            "last": None,
            "idle_samples": 7,
            "dropped": 1,
            "phases": [{"phase": "caching", "monotonic_ns": 6}],
            "ended_ns": 9,
            "sampling_cpu_s": 0.5,
            "process_cpu_s": 2.0,
        },
    }


def test_what_was_not_measured_is_none_and_never_zero() -> None:
    bare = result_to_mapping(pb.EditResult(attempt_id="a", status=pb.EDIT_STATUS_FAILED, message="why"))
    assert (bare["status"], bare["message"]) == ("failed", "why")
    assert (bare["cost"], bare["execution"], bare["telemetry"]) == (None, None, None)
    empty = result_to_mapping(pb.EditResult(cost=pb.EditCost(), execution=pb.Execution(bundle_hash="b")))
    assert empty["cost"]["peak_rss_bytes"] is None
    assert empty["execution"]["settings_hash"] is None
    assert empty["execution"]["returned_to_base"] is None
    assert (empty["execution"]["edits_applied"], empty["execution"]["kept"]) == (None, False)


@given(st.floats(), st.floats())
def test_every_result_is_strict_json(log_probability: float, reading: float) -> None:
    result = pb.EditResult(
        scores=[pb.ProbeScore(wanted_after=pb.AnswerScore(log_probability=log_probability, tokens=1))],
        telemetry=pb.TelemetrySummary(first=pb.TelemetrySample(values={"s": reading})),
    )
    mapping = json.loads(json.dumps(result_to_mapping(result), allow_nan=False))
    stored = mapping["scores"][0]["wanted_after"]["log_probability"]
    assert stored == (log_probability if -1e15 <= log_probability < 1e-3 else None)
    assert mapping["telemetry"]["first"]["values"]["s"] == (reading if abs(reading) <= 1e15 else None)


def test_telemetry_is_on_unless_the_job_says_otherwise() -> None:
    off = payload_to_run_request({**PAYLOAD, "telemetry": False, "idle_window_s": 3.0}, "a", 1)
    assert (off.telemetry_off, off.idle_window_s) == (True, 3.0)
    old = payload_to_run_request(PAYLOAD, "a", 1)  # of a job from before there was a choice
    assert (old.telemetry_off, old.idle_window_s) == (False, 0.0)
