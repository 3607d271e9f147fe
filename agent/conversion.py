"""Between the wire and the editor's plain data."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

import mobifarm
from mobifarm.agent.editor import types
from mobifarm.agent.editor.edit import EditOrder
from mobifarm.agent.editor.stack import LONGEST_ID
from mobifarm.agent.errors import InputError
from mobifarm.agent.kept import KeptBundle
from mobifarm.agent.runner import EditJob, FinishedEdit
from mobifarm.v1 import agent_pb2 as pb

LONGEST_IDLE_WINDOW_S = 600.0
_PHASES = {
    types.EditPhase.LOADING: pb.EDIT_PHASE_LOADING,
    types.EditPhase.EVALUATING_BEFORE: pb.EDIT_PHASE_EVALUATING_BEFORE,
    types.EditPhase.CACHING: pb.EDIT_PHASE_CACHING,
    types.EditPhase.OPTIMISING: pb.EDIT_PHASE_OPTIMISING,
    types.EditPhase.EVALUATING_AFTER: pb.EDIT_PHASE_EVALUATING_AFTER,
}
_STATUSES = {
    types.EditStatus.CONVERGED: pb.EDIT_STATUS_CONVERGED,
    types.EditStatus.STEP_LIMIT: pb.EDIT_STATUS_STEP_LIMIT,
}
_KEEP = {
    pb.KEEP_NO: None,
    pb.KEEP_TOGETHER: EditOrder.TOGETHER,
    pb.KEEP_IN_SEQUENCE: EditOrder.IN_SEQUENCE,
}
_KINDS = {
    types.ProbeKind.EFFICACY: pb.PROBE_KIND_EFFICACY,
    types.ProbeKind.PARAPHRASE: pb.PROBE_KIND_PARAPHRASE,
    types.ProbeKind.NEIGHBOURHOOD: pb.PROBE_KIND_NEIGHBOURHOOD,
    types.ProbeKind.PORTABILITY: pb.PROBE_KIND_PORTABILITY,
}


def job_from_request(request: pb.RunRequest) -> EditJob:
    """Read a request; raises InputError naming the field that is wrong."""
    record = request.record
    if request.keep not in _KEEP:
        raise InputError(f"keep is {request.keep}, which this agent does not know: choose a value of Keep")
    if not 0 <= request.idle_window_s <= LONGEST_IDLE_WINDOW_S:
        raise InputError(f"idle_window_s is {request.idle_window_s}: give 0 to {LONGEST_IDLE_WINDOW_S:.0f}")
    if request.keep != pb.KEEP_NO and len(record.record_id) > LONGEST_ID:
        raise InputError(f"record_id names a kept edit: give it at most {LONGEST_ID} characters")
    return EditJob(
        bundle_hash=request.bundle_hash,
        record=types.EditRecord(
            record_id=record.record_id,
            subject=record.subject,
            prompt=record.prompt,
            target_new=record.target_new,
            target_true=record.target_true,
            paraphrases=tuple(record.paraphrases),
            neighbours=tuple(types.Probe(probe.prompt, probe.answer) for probe in record.neighbours),
            portability=tuple(types.Probe(probe.prompt, probe.answer) for probe in record.portability),
        ),
        method=request.method,
        settings=settings_from_struct(request.settings),
        seed=request.seed,
        keep=_KEEP[request.keep],
    )


def request_hash(job: EditJob) -> str:
    """sha256 of what is asked for, by whichever attempt."""
    asked = {
        "bundle_hash": job.bundle_hash,
        "record": dataclasses.asdict(job.record),
        "method": job.method,
        "settings": job.settings,
        "seed": job.seed,
        "keep": job.keep.value if job.keep else None,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def settings_from_struct(settings: Struct) -> dict[str, Any]:
    """Plain settings; JSON has one kind of number, so whole ones become int.

    Raises:
        InputError: a number is not finite.
    """
    return {name: _plain(value, name) for name, value in settings.fields.items()}


def _plain(value: Value, name: str) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                raise InputError(f"settings.{name} is {number}: give a finite number")
            return int(number) if number.is_integer() else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "list_value":
            return [_plain(item, f"{name}[{i}]") for i, item in enumerate(value.list_value.values)]
        case "struct_value":
            return {k: _plain(item, f"{name}.{k}") for k, item in value.struct_value.fields.items()}
        case _:
            return None


def progress_message(progress: types.EditProgress) -> pb.EditProgress:
    """One sign of life."""
    return pb.EditProgress(
        phase=_PHASES[progress.phase],
        step=progress.step,
        step_limit=progress.step_limit,
        loss=progress.loss,
        target_probability=progress.target_probability,
        loss_evaluations=progress.loss_evaluations,
    )


def finished_result(attempt_id: str, job: EditJob, finished: FinishedEdit, *, kept: bool) -> pb.EditResult:
    """The result of an edit that ran to its end; memory and telemetry are added by the caller."""
    outcome, cost = finished.outcome, finished.outcome.cost
    result = empty_result(attempt_id, job, _STATUSES[outcome.status])
    result.scores.extend(_score(score) for score in outcome.scores)
    result.cost.steps = cost.steps
    result.cost.loss_evaluations = cost.loss_evaluations
    result.cost.token_layers = cost.token_layers
    result.cost.load_s = finished.load_s
    result.cost.edit_s = cost.edit_s
    result.cost.evaluation_s = cost.evaluation_s
    result.execution.settings_json = finished.settings_json
    result.execution.settings_hash = hashlib.sha256(finished.settings_json.encode()).hexdigest()
    result.execution.accelerator = finished.accelerator
    result.execution.accelerator_json = finished.accelerator_json
    result.execution.nodes_by_provider.update(finished.nodes_by_provider)
    result.execution.base_hash = finished.base_hash
    result.execution.returned_to_base = finished.returned_to_base
    result.execution.edits_applied = len(job.held or ())
    result.execution.kept = kept
    return result


def empty_result(
    attempt_id: str,
    job: EditJob,
    status: pb.EditStatus.ValueType,
    message: str = "",
    base_proof: tuple[str, bool] | None = None,
) -> pb.EditResult:
    """The result of an edit that did not run to its end: what was asked for and how it ended.

    ``base_proof``: base_hash and returned_to_base; None where no model was touched.
    """
    base_hash, returned_to_base = base_proof or ("", False)
    return pb.EditResult(
        attempt_id=attempt_id,
        status=status,
        message=message,
        execution=pb.Execution(
            bundle_hash=job.bundle_hash,
            method=job.method,
            agent_version=mobifarm.__version__,
            base_hash=base_hash,
            returned_to_base=returned_to_base,
        ),
    )


def kept_bundle(bundle: KeptBundle) -> pb.KeptBundle:
    """What is kept of one bundle."""
    return pb.KeptBundle(
        bundle_hash=bundle.bundle_hash,
        bundle_name=bundle.name,
        edits=[
            pb.KeptEdit(
                edit_id=held.edit_id,
                subject=held.subject,
                prompt=held.prompt,
                target_new=held.target_new,
                method=held.method,
            )
            for held in bundle.edits
        ],
        problem=bundle.problem,
    )


def _score(score: types.ProbeScore) -> pb.ProbeScore:
    return pb.ProbeScore(
        kind=_KINDS[score.kind],
        prompt=score.prompt,
        wanted=score.wanted,
        other=score.other,
        wanted_before=_answer(score.wanted_before),
        wanted_after=_answer(score.wanted_after),
        other_before=_answer(score.other_before),
        other_after=_answer(score.other_after),
    )


def _answer(score: types.AnswerScore | None) -> pb.AnswerScore | None:
    if score is None:
        return None
    return pb.AnswerScore(
        log_probability=score.log_probability, tokens=score.tokens, tokens_argmax=score.tokens_argmax
    )
