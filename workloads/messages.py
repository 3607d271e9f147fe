"""Between the plain JSON of jobs and results and the messages that phones speak."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mobifarm.v1 import agent_pb2 as pb
from mobifarm.workloads.samples import phase_name

_LARGEST: Final = 1e15  # in any unit: sums and products of a phone's numbers stay finite


def payload_to_run_request(payload: Mapping[str, Any], attempt_id: str, fencing_token: int) -> pb.RunRequest:
    """The request for one attempt at a trial of :func:`mobifarm.workloads.planner.plan`."""
    record = payload["record"]
    request = pb.RunRequest(
        attempt_id=attempt_id,
        fencing_token=fencing_token,
        bundle_hash=payload["bundle_hash"],
        method=payload["method"],
        seed=payload["seed"],
        # Jobs that were submitted before there was a choice have none.
        keep=pb.Keep.Value(f"KEEP_{payload.get('keep', 'no').upper()}"),
        telemetry_off=not payload.get("telemetry", True),
        idle_window_s=payload.get("idle_window_s", 0.0),
        record=pb.EditRecord(
            record_id=record["record_id"],
            subject=record["subject"],
            prompt=record["prompt"],
            target_new=record["target_new"],
            target_true=record["target_true"],
            paraphrases=record["paraphrases"],
            neighbours=[_probe(probe) for probe in record["neighbours"]],
            portability=[_probe(probe) for probe in record["portability"]],
        ),
    )
    request.settings.update(payload["settings"])
    return request


def result_to_mapping(result: pb.EditResult) -> dict[str, Any]:
    """An edit's result as JSON; what was not measured, or is no number that a phone can have, is None.

    Enumerations become their short names in lower case (``converged``, ``efficacy``); durations are seconds,
    log-probabilities nats.
    """
    return {
        "attempt_id": result.attempt_id,
        "status": pb.EditStatus.Name(result.status).removeprefix("EDIT_STATUS_").lower(),
        "message": result.message,
        "scores": [_score(score) for score in result.scores],
        "cost": _cost(result.cost) if result.HasField("cost") else None,
        "execution": _execution(result.execution) if result.HasField("execution") else None,
        "telemetry": _telemetry(result.telemetry) if result.HasField("telemetry") else None,
    }


def _probe(probe: Mapping[str, str]) -> pb.Probe:
    return pb.Probe(prompt=probe["prompt"], answer=probe["answer"])


def _score(score: pb.ProbeScore) -> dict[str, Any]:
    def answer(name: str) -> dict[str, Any] | None:
        if not score.HasField(name):  # type: ignore[arg-type]
            return None
        value: pb.AnswerScore = getattr(score, name)
        return {
            # Of a probability above one nothing is known; rounding may leave a hair.
            "log_probability": _finite(value.log_probability) if value.log_probability < 1e-3 else None,
            "tokens": value.tokens,
            "tokens_argmax": value.tokens_argmax,
        }

    return {
        "kind": pb.ProbeKind.Name(score.kind).removeprefix("PROBE_KIND_").lower(),
        "prompt": score.prompt,
        "wanted": score.wanted,
        "other": score.other,
        "wanted_before": answer("wanted_before"),
        "wanted_after": answer("wanted_after"),
        "other_before": answer("other_before"),
        "other_after": answer("other_after"),
    }


def _cost(cost: pb.EditCost) -> dict[str, Any]:
    return {
        "steps": cost.steps,
        "loss_evaluations": cost.loss_evaluations,
        "token_layers": cost.token_layers,
        "load_s": _finite(cost.load_s),
        "edit_s": _finite(cost.edit_s),
        "evaluation_s": _finite(cost.evaluation_s),
        # No process has a peak of 0 bytes: this is how the message says that it was not read.
        "peak_rss_bytes": cost.peak_rss_bytes or None,
        "peak_rss_reset": cost.peak_rss_reset,
    }


def _execution(execution: pb.Execution) -> dict[str, Any]:
    return {
        "bundle_hash": execution.bundle_hash,
        "method": execution.method,
        "settings_hash": execution.settings_hash or None,
        "settings_json": execution.settings_json or None,
        "accelerator": execution.accelerator or None,
        "accelerator_json": execution.accelerator_json or None,
        "nodes_by_provider": dict(sorted(execution.nodes_by_provider.items())),
        "base_hash": execution.base_hash or None,
        "returned_to_base": execution.returned_to_base if execution.base_hash else None,
        "edits_applied": execution.edits_applied if execution.base_hash else None,
        "kept": execution.kept,
        "agent_version": execution.agent_version or None,
    }


def _telemetry(telemetry: pb.TelemetrySummary) -> dict[str, Any]:
    def sample(name: str) -> dict[str, Any] | None:
        if not telemetry.HasField(name):  # type: ignore[arg-type]
            return None
        value: pb.TelemetrySample = getattr(telemetry, name)
        readings = {sensor: _finite(number) for sensor, number in sorted(value.values.items())}
        return {"monotonic_ns": value.monotonic_ns, "values": readings}

    return {
        "samples": telemetry.samples,
        "period_s": _finite(telemetry.period_s) or None,
        "gaps": telemetry.gaps,
        "first": sample("first"),
        "last": sample("last"),
        "idle_samples": telemetry.idle_samples,
        "dropped": telemetry.dropped,
        "phases": [
            {"phase": phase_name(start.phase), "monotonic_ns": start.monotonic_ns}
            for start in telemetry.phases
        ],
        # No phone has run for 0 ns: this is how the message says that it was not told.
        "ended_ns": telemetry.ended_ns or None,
        "sampling_cpu_s": _finite(telemetry.sampling_cpu_s),
        "process_cpu_s": _finite(telemetry.process_cpu_s),
    }


def _finite(value: float) -> float | None:
    return value if abs(value) <= _LARGEST else None
