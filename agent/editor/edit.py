"""Edits from request to outcome: score, search, write back, score again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from mobifarm.agent.editor.evaluation import Scorer, probe_scores, questions, tokenize_questions
from mobifarm.agent.editor.forward import Step
from mobifarm.agent.editor.methods import FoundEdit, Method, method_with
from mobifarm.agent.editor.stack import EditStack, HeldEdit
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
from mobifarm.agent.errors import Cancelled, InputError

if TYPE_CHECKING:
    from mobifarm.agent.editor.bundle import Bundle, EditPair


class EditOrder(Enum):
    """How several edits come about."""

    TOGETHER = "together"
    IN_SEQUENCE = "in_sequence"


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
    _, [outcome] = edit_several(
        bundle,
        [record],
        order=EditOrder.TOGETHER,
        method=method,
        settings=settings,
        seed=seed,
        report=report,
        cancelled=cancelled,
        clock=clock,
    )
    return outcome


def edit_several(
    bundle: Bundle,
    records: Sequence[EditRecord],
    *,
    order: EditOrder,
    method: str,
    settings: Mapping[str, object],
    seed: int,
    report: Report,
    cancelled: Callable[[], bool],
    clock: Clock,
    held: EditStack | None = None,
) -> tuple[EditStack, list[EditOutcome]]:
    """Search an edit for each record and hold all of them; the scores are those after the last one.

    Args:
        bundle: the model, unedited.
        records: what to edit; their ids name the edits in the stack.
        order: each edit is searched on the unedited model, or on the model with those before it.
        method: see :func:`edit`; so are the others.
        held: edits that come before those of the records; None for none.

    Returns:
        The edits, those held before first, and for each record the outcome with everything applied.

    Raises:
        InputError: see :func:`check_edit`; or two edits have one id, or ``held`` is for another bundle.
        Cancelled: ``cancelled`` returned True.
    """
    chosen = method_with(method, settings)
    twice = [name for name, count in Counter(record.record_id for record in records).items() if count > 1]
    if twice:
        raise InputError(f"the record {twice[0]!r} stands twice among the edits: give every edit its own id")
    stack = EditStack.empty(bundle.bundle_hash) if held is None else held
    if stack.bundle_hash != bundle.bundle_hash:
        raise InputError(f"the held edits are for bundle {stack.bundle_hash[:12]}…: open that bundle")
    for record in records:
        stack.check_new(record.record_id)
    asked = [questions(record) for record in records]
    scorers = []
    for record, questions_asked in zip(records, asked, strict=True):
        chosen.check(bundle, record)
        scorers.append(Scorer(bundle, tokenize_questions(bundle, questions_asked)))
    costs = [EditCost() for _ in records]
    signs = [_Signs(r, chosen, c, report, cancelled) for r, c in zip(records, costs, strict=True)]
    before, all_found, outcomes = [], [], []
    for record, scorer, cost, sign in zip(records, scorers, costs, signs, strict=True):
        started = clock()
        before.append(scorer.score(None, sign.phase(EditPhase.EVALUATING_BEFORE)))
        evaluated = clock()
        sign.phase(EditPhase.CACHING)()
        found = chosen.find(
            bundle,
            record,
            held=stack.side_input() if order is EditOrder.IN_SEQUENCE else None,
            generator=np.random.default_rng(seed),
            cost=cost,
            on_step=sign.on_step,
        )
        stack = stack.with_edit(held_edit(record, method, found))
        all_found.append(found)
        cost.edit_s, cost.evaluation_s = clock() - evaluated, evaluated - started
    for index, scorer in enumerate(scorers):
        started = clock()
        after = scorer.score(stack.side_input(), signs[index].phase(EditPhase.EVALUATING_AFTER))
        costs[index].evaluation_s += clock() - started
        scores = probe_scores(asked[index], before[index], after)
        ended = all_found[index]
        outcomes.append(EditOutcome(_status(ended), costs[index], scores, ended.perturbation))
    return stack, outcomes


def held_edit(record: EditRecord, method: str, found: FoundEdit) -> HeldEdit:
    """A found edit as a stack holds it."""
    key, value = found.edit_key.astype(np.float32), found.edit_value.astype(np.float32)
    return HeldEdit(record.record_id, record.subject, record.prompt, record.target_new, method, key, value)


@dataclass(frozen=True, slots=True)
class _Signs:
    """Signs of life of one edit, and the question whether it is still wanted."""

    record: EditRecord
    method: Method
    cost: EditCost
    report: Report
    cancelled: Callable[[], bool]

    def phase(self, name: EditPhase) -> Callable[[], None]:
        return lambda: self._give(
            EditProgress(
                name, self.cost.steps, self.method.step_limit, loss_evaluations=self.cost.loss_evaluations
            )
        )

    def on_step(self, step: Step) -> None:
        self._give(
            EditProgress(
                EditPhase.OPTIMISING,
                step.number,
                self.method.step_limit,
                step.loss,
                step.target_probability,
                self.cost.loss_evaluations,
            )
        )

    def _give(self, progress: EditProgress) -> None:
        if self.cancelled():
            raise Cancelled(f"the edit {self.record.record_id} was cancelled")
        self.report(progress)


def _status(found: FoundEdit) -> EditStatus:
    return EditStatus.CONVERGED if found.converged else EditStatus.STEP_LIMIT


def side_input(found: FoundEdit) -> EditPair:
    """One edit as the bundle takes it: R = 1, f32."""
    from mobifarm.agent.editor.bundle import EditPair

    return EditPair(found.edit_key[None].astype(np.float32), found.edit_value[None].astype(np.float32))
