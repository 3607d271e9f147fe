"""Several edits of a small bundle with random weights: found, held, undone, scored together."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mobifarm.agent.editor import (
    EditOrder,
    EditOutcome,
    EditRecord,
    EditStack,
    edit,
    edit_several,
    import_edits,
)
from mobifarm.agent.editor.bundle import Bundle
from mobifarm.agent.editor.edit import held_edit
from mobifarm.agent.editor.evaluation import Scorer, questions, tokenize_questions
from mobifarm.agent.editor.methods import method_with
from mobifarm.agent.editor.types import EditCost
from mobifarm.agent.errors import InputError

RECORDS = [
    EditRecord("r1", "Ada", "The dog of Ada is", "Rex", "Bo"),
    EditRecord("r2", "Tim", "The cat of Tim is", "Tom", "Max"),
    EditRecord("r3", "Eve", "The cow of Eve is", "Sam", "Zoe"),
]
QUICK = {"contexts": 2, "directions": 6, "step_limit": 3}


@pytest.fixture(scope="session")
def bundle(tiny_bundle_path: Path) -> Bundle:
    return Bundle.open(tiny_bundle_path, threads=1, verify=False)


def run(
    bundle: Bundle,
    order: EditOrder,
    records: Sequence[EditRecord] = RECORDS,
    held: EditStack | None = None,
) -> tuple[EditStack, list[EditOutcome]]:
    ticks = itertools.count()
    return edit_several(
        bundle,
        records,
        order=order,
        method="forward",
        settings=QUICK,
        seed=0,
        report=lambda progress: None,
        cancelled=lambda: False,
        clock=lambda: float(next(ticks)),
        held=held,
    )


def wanted_after(bundle: Bundle, record: EditRecord, stack: EditStack) -> float:
    answers = tokenize_questions(bundle, questions(record))
    [(wanted, _)] = Scorer(bundle, answers).score(stack.side_input(), lambda: None)
    return wanted.log_probability


@pytest.mark.parametrize("order", list(EditOrder))
def test_all_edits_are_held_and_scored_together(bundle: Bundle, order: EditOrder) -> None:
    base = bundle.base_hash()
    stack, outcomes = run(bundle, order)
    assert [held.edit_id for held in stack] == ["r1", "r2", "r3"]
    assert [held.target_new for held in stack] == ["Rex", "Tom", "Sam"]
    for record, outcome in zip(RECORDS, outcomes, strict=True):
        found = outcome.scores[0].wanted_after.log_probability
        assert found == pytest.approx(wanted_after(bundle, record, stack), abs=1e-6)
        assert outcome.cost.loss_evaluations > 0
        assert outcome.cost.edit_s == 1
        assert outcome.cost.evaluation_s == 2
    assert bundle.base_hash() == base


def test_edits_found_together_are_those_found_alone(bundle: Bundle) -> None:
    together, _ = run(bundle, EditOrder.TOGETHER)
    for record, held in zip(RECORDS, together, strict=True):
        [alone], _ = run(bundle, EditOrder.TOGETHER, [record])
        np.testing.assert_array_equal(alone.key, held.key)
        np.testing.assert_array_equal(alone.value, held.value)


def test_in_sequence_each_edit_is_searched_on_the_model_with_those_before_it(bundle: Bundle) -> None:
    stack, _ = run(bundle, EditOrder.IN_SEQUENCE)
    first = stack.without_edit("r3").without_edit("r2")
    found = method_with("forward", QUICK).find(
        bundle,
        RECORDS[1],
        held=first.side_input(),
        generator=np.random.default_rng(0),
        cost=EditCost(),
        on_step=lambda step: None,
    )
    again = held_edit(RECORDS[1], "forward", found)
    second = next(held for held in stack if held.edit_id == "r2")
    np.testing.assert_array_equal(again.key, second.key)
    np.testing.assert_array_equal(again.value, second.value)
    together, _ = run(bundle, EditOrder.TOGETHER)
    assert not np.array_equal(together.edits[1].value, second.value)


def test_undoing_all_gives_the_unedited_model(bundle: Bundle) -> None:
    stack, outcomes = run(bundle, EditOrder.TOGETHER)
    for held in stack:
        stack = stack.without_edit(held.edit_id)
    for record, outcome in zip(RECORDS, outcomes, strict=True):
        before = outcome.scores[0].wanted_before.log_probability
        assert wanted_after(bundle, record, stack) == pytest.approx(before, abs=1e-6)


def test_an_export_does_the_same_after_import(bundle: Bundle) -> None:
    stack, outcomes = run(bundle, EditOrder.TOGETHER)
    a = bundle.architecture
    again = import_edits(stack.export(), bundle.bundle_hash, intermediate=a.intermediate, hidden=a.hidden)
    found = [wanted_after(bundle, record, again) for record in RECORDS]
    assert found == [outcome.scores[0].wanted_after.log_probability for outcome in outcomes]


def test_two_records_of_one_name_are_refused_before_the_model_runs(bundle: Bundle) -> None:
    twice = [RECORDS[0], dataclasses.replace(RECORDS[1], record_id="r1")]
    with pytest.raises(InputError, match="'r1' stands twice"):
        run(bundle, EditOrder.TOGETHER, twice)


@pytest.mark.parametrize("order", list(EditOrder))
def test_edits_that_are_held_already_come_before(bundle: Bundle, order: EditOrder) -> None:
    at_once, outcomes = run(bundle, order, RECORDS[:2])
    first, _ = run(bundle, order, RECORDS[:1])
    again, [outcome] = run(bundle, order, RECORDS[1:2], held=first)
    for found, expected in zip(again, at_once, strict=True):
        np.testing.assert_array_equal(found.key, expected.key)
        np.testing.assert_array_equal(found.value, expected.value)
    assert outcome.scores == outcomes[1].scores
    with pytest.raises(InputError, match="'r1' is already held"):
        run(bundle, order, RECORDS[:1], held=first)
    with pytest.raises(InputError, match="held edits are for bundle cccc"):
        run(bundle, order, RECORDS[1:2], held=EditStack.empty("c" * 64))


def test_one_of_several_is_what_edit_does(bundle: Bundle) -> None:
    ticks = itertools.count()
    alone = edit(
        bundle,
        RECORDS[0],
        method="forward",
        settings=QUICK,
        seed=0,
        report=lambda progress: None,
        cancelled=lambda: False,
        clock=lambda: float(next(ticks)),
    )
    assert run(bundle, EditOrder.IN_SEQUENCE, RECORDS[:1])[1] == [alone]
