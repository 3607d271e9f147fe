"""MobiEdit on a small bundle with random weights: all of its caches, and what they cost."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from mobifarm.agent.editor import EditCost, EditOutcome, EditRecord, edit
from mobifarm.agent.editor.bundle import Bundle
from mobifarm.agent.editor.contexts import tokenize_contexts
from mobifarm.agent.editor.sequence_loss import MOBIEDIT_PREFIXES, SequenceLoss
from mobifarm.agent.editor.settings import MobiEditSettings

RECORD = EditRecord("r1", "Ada", "The dog of Ada is", "Rex", "Bo")
HELD = 20


@pytest.fixture(scope="session")
def bundle(tiny_bundle_path: Path) -> Bundle:
    return Bundle.open(tiny_bundle_path, threads=1, verify=False)


def loss_with(bundle: Bundle, cache: str, cost: EditCost) -> SequenceLoss:
    contexts = tokenize_contexts(bundle, RECORD, 6, MOBIEDIT_PREFIXES)
    essence = (bundle.tokenize("Ada is a"), bundle.subject_last_index("Ada is a", "Ada"))
    settings = MobiEditSettings(cache=cache, kl_weight=2.0, held_positions=HELD)  # type: ignore[arg-type]
    return SequenceLoss(bundle, contexts, essence, settings, cost)


def deltas_for(bundle: Bundle, loss: SequenceLoss, count: int = 3) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((count, bundle.architecture.hidden))
    return np.asarray(rows * loss.value_norm / np.linalg.norm(rows, axis=1, keepdims=True))


def lengths_and_lasts(bundle: Bundle) -> tuple[list[int], list[int], list[int]]:
    """Of the six rewriting prompts and "Ada is a": tokens, the subject's last, the first that is read."""
    contexts = tokenize_contexts(bundle, RECORD, 6, MOBIEDIT_PREFIXES)
    essence = bundle.tokenize("Ada is a")
    return (
        [*(len(c.input_ids) for c in contexts), len(essence)],
        [*(c.subject_last for c in contexts), bundle.subject_last_index("Ada is a", "Ada")],
        [*(len(c.prompt_ids) - 1 for c in contexts), len(essence) - 1],
    )


def run(bundle: Bundle, **settings: object) -> EditOutcome:
    return edit(
        bundle,
        RECORD,
        method="mobiedit",
        settings=settings,
        seed=0,
        report=lambda progress: None,
        cancelled=lambda: False,
        clock=time.monotonic,
    )


def test_without_a_cache_every_evaluation_is_the_whole_model_on_whole_sequences(bundle: Bundle) -> None:
    cost = EditCost()
    loss = loss_with(bundle, "none", cost)
    spent = cost.token_layers
    loss.evaluate(deltas_for(bundle, loss), fresh=False)
    lengths, _, _ = lengths_and_lasts(bundle)
    assert cost.token_layers - spent == 3 * sum(lengths) * bundle.architecture.layers
    assert cost.loss_evaluations == 3


def test_the_exact_cache_gives_the_same_losses_for_the_suffixes_alone(bundle: Bundle) -> None:
    cost = EditCost()
    whole, cached = loss_with(bundle, "none", EditCost()), loss_with(bundle, "exact", cost)
    spent = cost.token_layers
    deltas = deltas_for(bundle, whole)
    expected, found = whole.evaluate(deltas, fresh=True), cached.evaluate(deltas, fresh=True)
    np.testing.assert_allclose(found.target, expected.target, atol=1e-4)
    np.testing.assert_allclose(found.total, expected.total, atol=1e-4)
    assert (expected.total > expected.target + 1e-4).all()
    lengths, lasts, _ = lengths_and_lasts(bundle)
    suffixes = sum(length - last for length, last in zip(lengths, lasts, strict=True))
    assert cost.token_layers - spent == 3 * suffixes * bundle.upper_layers
    np.testing.assert_array_equal(cached.edit_key, whole.edit_key)


def test_the_stale_cache_keeps_the_first_positions_as_they_were(bundle: Bundle) -> None:
    cost = EditCost()
    whole, stale = loss_with(bundle, "none", EditCost()), loss_with(bundle, "stale", cost)
    deltas = 20 * deltas_for(bundle, whole)
    lengths, lasts, reads = lengths_and_lasts(bundle)
    held = [min(HELD, read) for read in reads]
    # Both kinds of prompts occur: the subject inside the held positions and behind them.
    assert {last < hold for last, hold in zip(lasts, held, strict=True)} == {True, False}

    fresh = stale.evaluate(deltas, fresh=True)
    np.testing.assert_allclose(fresh.total, whole.evaluate(deltas, fresh=True).total, atol=1e-4)
    spent = cost.token_layers
    stale.refresh(deltas[0])
    assert cost.token_layers - spent == sum(held) * bundle.upper_layers
    spent = cost.token_layers
    found = stale.evaluate(deltas, fresh=False)
    computed = sum(length - hold for length, hold in zip(lengths, held, strict=True))
    assert cost.token_layers - spent == 3 * computed * bundle.upper_layers
    # For the δ that it was filled with the cache is right, for others it is not.
    assert found.total[0] == pytest.approx(fresh.total[0], abs=1e-4)
    assert (np.abs(found.total[1:] - fresh.total[1:]) > 1e-3).all()


@pytest.mark.parametrize("cache", ["none", "exact"])
def test_the_drift_of_the_subject_is_zero_without_an_edit(bundle: Bundle, cache: str) -> None:
    loss = loss_with(bundle, cache, EditCost())
    losses = loss.evaluate(np.zeros((1, bundle.architecture.hidden)), fresh=True)
    assert losses.total[0] == pytest.approx(losses.target[0], abs=1e-5)


@pytest.mark.parametrize("cache", ["none", "stale", "exact"])
def test_an_edit_takes_two_evaluations_per_direction_and_one_per_look(bundle: Bundle, cache: str) -> None:
    base = bundle.base_hash()
    outcome = run(bundle, cache=cache, step_limit=7, stop_every=3, perturbation=0.1)
    assert outcome.cost.steps == 7
    # 7 steps of 2·5, and looks after steps 3, 6 and 7.
    assert outcome.cost.loss_evaluations == 70 + 3
    assert outcome.scores[0].wanted_after != outcome.scores[0].wanted_before
    assert bundle.base_hash() == base


def test_token_layers_of_an_edit_as_published(bundle: Bundle) -> None:
    outcome = run(bundle, step_limit=2, stop_every=2)
    lengths, _, _ = lengths_and_lasts(bundle)
    layers = bundle.architecture.layers
    # The keys and v0, the unedited distribution, two steps and a look.
    expected = len(lengths) * max(lengths) * (bundle.edit_layer + 1)
    expected += lengths[-1] * layers + (2 * 10 + 1) * sum(lengths) * layers
    assert outcome.cost.token_layers == expected


def test_the_exact_cache_takes_the_same_way(bundle: Bundle) -> None:
    settings = {"step_limit": 10, "perturbation": 0.5}
    whole, cached = run(bundle, **settings), run(bundle, cache="exact", **settings)
    wanted = [outcome.scores[0].wanted_after.log_probability for outcome in (whole, cached)]
    assert wanted[0] == pytest.approx(wanted[1], abs=0.01)
    assert cached.cost.token_layers < whole.cost.token_layers / 3
