"""One edit from request to outcome: score, search, write back, score again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from mobifarm.agent.editor.evaluation import Scorer, probe_scores, questions, tokenize_questions
from mobifarm.agent.editor.forward import Step
from mobifarm.agent.editor.methods import FoundEdit, method_with
from mobifarm.agent.editor.tokens import Texts
from mobifarm.agent.editor.types import (
    Clock,
    EditCost,
    EditOutcome,
    EditPhase,
    EditProgress,
    EditRecord,
    EditStatus,
    Report,
)
from mobifarm.agent.errors import Cancelled

if TYPE_CHECKING:
    from mobifarm.agent.editor.bundle import Bundle, EditPair


def check_edit(texts: Texts, record: EditRecord, *, method: str, settings: Mapping[str, object]) -> None:
    """Find out whether :func:`edit` would accept this, without running the model.

    Args:
        texts: a bundle, or its tokenizer and architecture alone.
        record: what to edit and what to ask.
        method: name of a method.
        settings: settings that differ from the method's defaults.

    Raises:
        InputError: unknown method, settings that do not fit, subject not in the prompt, a target or answer
            without tokens, or a prompt too long for the bundle.
    """
    method_with(method, settings).check(texts, record)
    tokenize_questions(texts, questions(record))


def edit(
    bundle: Bundle,
    record: EditRecord,
    *,
    method: str,
    settings: Mapping[str, object],
    seed: int,
    report: Report,
    cancelled: Callable[[], bool],
    clock: Clock,
) -> EditOutcome:
    """Search an edit for ``record``, apply it as a side input, and score the model before and after.

    The bundle stays unedited. The same bundle, seed and number of threads give the same outcome, times aside.

    Args:
        bundle: the model.
        record: what to edit and what to ask.
        method: name of a method, see methods.METHOD_NAMES.
        settings: settings that differ from the method's defaults.
        seed: drives all randomness, ≥ 0.
        report: receives a sign of life before every batched call of the model.
        cancelled: asked before every batched call of the model.
        clock: monotonic seconds.

    Raises:
        InputError: see :func:`check_edit`.
        Cancelled: ``cancelled`` returned True.
    """
    chosen = method_with(method, settings)
    chosen.check(bundle, record)
    asked = questions(record)
    scorer = Scorer(bundle, tokenize_questions(bundle, asked))
    cost = EditCost()

    def sign_of_life(progress: EditProgress) -> None:
        if cancelled():
            raise Cancelled(f"the edit {record.record_id} was cancelled")
        report(progress)

    def phase(name: EditPhase) -> Callable[[], None]:
        return lambda: sign_of_life(
            EditProgress(name, cost.steps, chosen.step_limit, loss_evaluations=cost.loss_evaluations)
        )

    def on_step(step: Step) -> None:
        sign_of_life(
            EditProgress(
                EditPhase.OPTIMISING,
                step.number,
                chosen.step_limit,
                step.loss,
                step.target_probability,
                cost.loss_evaluations,
            )
        )

    started = clock()
    before = scorer.score(None, phase(EditPhase.EVALUATING_BEFORE))
    evaluated = clock()
    phase(EditPhase.CACHING)()
    found = chosen.find(bundle, record, generator=np.random.default_rng(seed), cost=cost, on_step=on_step)
    edits = side_input(found)
    written = clock()
    after = scorer.score(edits, phase(EditPhase.EVALUATING_AFTER))
    cost.edit_s = written - evaluated
    cost.evaluation_s = (evaluated - started) + (clock() - written)
    status = EditStatus.CONVERGED if found.converged else EditStatus.STEP_LIMIT
    return EditOutcome(status, cost, probe_scores(asked, before, after))


def side_input(found: FoundEdit) -> EditPair:
    """The edit as the bundle takes it: R = 1, f32."""
    from mobifarm.agent.editor.bundle import EditPair

    return EditPair(found.edit_key[None].astype(np.float32), found.edit_value[None].astype(np.float32))
