"""The baselines on a small model: the cache is exact, costs are counted, torch and bundle agree."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mobifarm.agent.editor.bundle import Bundle, EditPair
from mobifarm.agent.editor.evaluation import Answer
from mobifarm.agent.editor.settings import ForwardSettings
from mobifarm.agent.editor.types import EditCost, EditRecord, Probe
from mobifarm.agent.errors import InputError
from mobifarm.workloads.baselines.editors import FinetuneEditor, RomeEditor, baseline
from mobifarm.workloads.baselines.objective import Objective
from mobifarm.workloads.baselines.settings import (
    BASELINE_NAMES,
    BaselineName,
    RomeSettings,
    baseline_settings,
)
from mobifarm.workloads.baselines.torch_model import TorchModel, rank_one
from mobifarm.workloads.metrics.bundle_model import BundleEditor, BundleModel
from mobifarm.workloads.metrics.language_model import EditedModel, LanguageModel, PrefixedModel
from mobifarm.workloads.metrics.measures import (
    METRIC_NAMES,
    Extent,
    failed_metrics,
    first_choices,
    mean_nll,
    measure,
    text_windows,
)

RECORD = EditRecord(
    record_id="r1",
    subject="Ada",
    prompt="The dog of Ada is",
    target_new="Rex",
    target_true="Bo",
    paraphrases=("Ada's dog is called",),
    neighbours=(Probe("The dog of Tim is", "Max"), Probe("The cat of Tim is", "Tom")),
    portability=(Probe("The dog of Ada starts with", "R"),),
)
LAYER = 1


def edited(name: BaselineName, model: TorchModel, record: EditRecord = RECORD) -> EditedModel:
    ticks = itertools.count()
    editor = baseline(name, model.decoder, model.vocabulary)
    return editor.edit(record, lambda: float(next(ticks)))


def objective(model: TorchModel, cached: bool, cost: EditCost | None = None) -> Objective:
    return RomeEditor(model, LAYER, cached=cached).objective(RECORD, cost or EditCost())


@pytest.mark.parametrize("subject", ["Ada", "The"])
def test_the_cache_changes_neither_loss_nor_gradient(model: TorchModel, subject: str) -> None:
    record = replace(RECORD, subject=subject)
    found = []
    for cached in (False, True):
        loss = RomeEditor(model, LAYER, cached=cached).objective(record, EditCost())
        loss.losses(torch.zeros(64))
        delta = torch.from_numpy(np.random.default_rng(0).standard_normal(64).astype(np.float32) * 3)
        delta.requires_grad_()
        nll, divergence = loss.losses(delta)
        (nll + divergence).backward()  # type: ignore[no-untyped-call]
        assert delta.grad is not None
        found.append((nll.item(), divergence.item(), delta.grad.numpy()))
    full, cached_found = found
    assert full[1] > 1e-3
    assert cached_found[:2] == pytest.approx(full[:2], rel=1e-5, abs=1e-6)
    # fp32 sums in another order; 1e-4 of the gradient's length.
    difference = np.linalg.norm(cached_found[2] - full[2])
    assert difference <= 1e-4 * np.linalg.norm(full[2])


def test_the_gradient_is_that_of_the_loss(model: TorchModel) -> None:
    loss = objective(model, cached=True)
    delta = torch.zeros(64, requires_grad=True)
    nll, _ = loss.losses(delta)
    nll.backward()  # type: ignore[no-untyped-call]
    assert delta.grad is not None
    direction = delta.grad / delta.grad.norm()
    with torch.no_grad():
        slope = (loss.losses(0.05 * direction)[0] - loss.losses(-0.05 * direction)[0]).item() / 0.1
    assert slope == pytest.approx(delta.grad.norm().item(), rel=0.02)


def test_a_step_costs_three_forward_passes_of_what_it_goes_through(model: TorchModel) -> None:
    full, cached = EditCost(), EditCost()
    for cost, kind in ((full, False), (cached, True)):
        loss = objective(model, kind, cost)
        filled = cost.token_layers
        loss.losses(torch.zeros(64))
        forward = cost.token_layers - filled
        loss.count_backward()
        assert cost.loss_evaluations == 3
        backward = cost.token_layers - filled - forward
        # Nothing needs a gradient below the edited layer: 2 of the 4 layers lie above it.
        assert backward == (2 * forward if kind else 2 * forward * 2 / 4)
    assert cached.token_layers < full.token_layers


def test_rome_finds_the_edit_with_and_without_cache(model: TorchModel) -> None:
    full, cached = edited("rome", model), edited("rome_cached", model)
    early = edited("rome_cached_early", model)
    assert full.cost.loss_evaluations == cached.cost.loss_evaluations > 3
    assert cached.cost.token_layers < full.cost.token_layers
    assert early.cost.loss_evaluations <= cached.cost.loss_evaluations
    assert full.cost.edit_s > 0
    before = measure(model, RECORD, first_choices(model, RECORD), Extent())
    assert before["efficacy_teacher_forced"] != 1
    assert before["neighbourhood_unchanged"] == 1
    for found in (full, cached, early):
        after = measure(found.model, RECORD, first_choices(model, RECORD), Extent())
        assert after["efficacy_probability"] == 1
        assert set(after) == set(METRIC_NAMES)


def test_the_floor_is_the_work_that_the_phones_method_does() -> None:
    floor = baseline_settings("rome_cached_early", {})
    assert isinstance(floor, RomeSettings)
    assert math.exp(-floor.stop_loss) == pytest.approx(ForwardSettings().stop_probability)


def test_the_second_moment_changes_where_an_edit_spreads(model: TorchModel) -> None:
    plain = RomeEditor(model, LAYER, cached=True, settings=RomeSettings(steps=2))
    keys = np.random.default_rng(0).standard_normal((200, 128))
    inverse = np.linalg.inv(keys.T @ keys / 200 + 0.01 * np.eye(128))
    whitened = replace(plain, inverse_second_moment=inverse)
    found = [editor.edit(RECORD, lambda: 0.0).model for editor in (plain, whitened)]
    answers = text_windows(model.texts, "The dog of Ada is old", count=1, tokens=20)
    other = text_windows(model.texts, "Tim has a cat", count=1, tokens=13)
    # The bare prompt gets exactly δ either way; other texts do not get the same.
    assert mean_nll(found[0], answers) == pytest.approx(mean_nll(found[1], answers), rel=0.2)
    assert mean_nll(found[0], other) != mean_nll(found[1], other)


def test_fine_tuning_makes_the_answer_likely_at_its_own_cost(model: TorchModel) -> None:
    found = edited("finetune", model)
    after = measure(found.model, RECORD, first_choices(model, RECORD), Extent())
    assert after["efficacy_probability"] == 1
    assert found.cost.loss_evaluations == 3 * found.cost.steps - 2
    assert isinstance(baseline("finetune", model.decoder, model.vocabulary), FinetuneEditor)


def test_in_context_puts_the_fact_before_every_question(model: TorchModel) -> None:
    found = edited("in_context", model).model
    assert isinstance(found, PrefixedModel)
    fact = model.texts.tokenize("The dog of Ada is Rex.\n")
    prompt = model.texts.tokenize("The dog of Tim is")
    np.testing.assert_array_equal(
        found.next_log_probabilities([prompt]), model.next_log_probabilities([fact + prompt])
    )
    question = Answer(tuple(prompt), 3, tuple(prompt[4:]))
    shifted = Answer((*fact, *prompt), len(fact) + 3, tuple(prompt[4:]))
    assert found.score([question]) == model.score([shifted])


def test_no_edit_costs_nothing(model: TorchModel) -> None:
    found = edited("unedited", model)
    assert found.cost == EditCost()
    assert found.model == model


@pytest.mark.parametrize("name", [name for name in BASELINE_NAMES if name.startswith("rome")])
def test_what_cannot_be_edited_is_refused(model: TorchModel, name: BaselineName) -> None:
    with pytest.raises(InputError, match="tokens"):
        edited(name, model, replace(RECORD, prompt="Ada " + "and so on " * 100))


def test_torch_and_fp32_bundle_agree_on_the_same_edit(model: TorchModel, bundle: Bundle) -> None:
    random = np.random.default_rng(0)
    key, value = (random.standard_normal(n).astype(np.float32) * 0.1 for n in (128, 64))
    pairs: list[tuple[LanguageModel, LanguageModel]] = [
        (model, BundleModel(bundle)),
        (
            replace(model, addend=rank_one(LAYER, torch.from_numpy(key), torch.from_numpy(value))),
            BundleModel(bundle, EditPair(key[None], value[None])),
        ),
    ]
    sequences = [list(b"The dog"), list(b"A cat of Tim is called"), list(b"x")]
    windows = text_windows(model.texts, "Ada and Tim walk their dogs. " * 5, count=3, tokens=40)
    for in_torch, in_bundle in pairs:
        np.testing.assert_allclose(
            in_torch.next_log_probabilities(sequences),
            in_bundle.next_log_probabilities(sequences),
            atol=2e-4,
        )
        for ours, theirs in zip(in_torch.score(windows), in_bundle.score(windows), strict=True):
            assert ours.log_probability == pytest.approx(theirs.log_probability, abs=5e-3)
            assert (ours.tokens, ours.tokens_argmax) == (theirs.tokens, theirs.tokens_argmax)
        extent = Extent(windows=windows, windows_nll=mean_nll(model, windows))
        choices = first_choices(pairs[0][0], RECORD)
        ours_measured = measure(in_torch, RECORD, choices, extent)
        theirs_measured = measure(in_bundle, RECORD, choices, extent)
        assert ours_measured == pytest.approx(theirs_measured, abs=1e-4)


def test_a_method_of_the_registry_edits_the_bundle(bundle: Bundle) -> None:
    editor = BundleEditor(bundle, "forward", {"contexts": 2, "directions": 6, "step_limit": 2}, seed=0)
    found = editor.edit(RECORD, lambda: 0.0)
    assert found.cost.loss_evaluations > 0
    assert mean_nll(found.model, text_windows(bundle, "Ada", count=1, tokens=3)) > 0
    measured = measure(found.model, RECORD, first_choices(editor.unedited, RECORD), Extent(fluency=True))
    assert all(measured[name] is not None for name in METRIC_NAMES if name != "perplexity_drift")


def test_measures_of_what_a_record_lacks_are_unknown_and_failures_are_wrong(model: TorchModel) -> None:
    bare = EditRecord("r", "Ada", "The dog of Ada is", "Rex", target_true="")
    measured = measure(model, bare, [], Extent())
    present = {"efficacy_teacher_forced", "efficacy_greedy_begins", "efficacy_greedy_exact"}
    assert {name for name, value in measured.items() if value is not None} == present
    failed = failed_metrics(bare, Extent())
    assert {name: value for name, value in failed.items() if value is not None} == dict.fromkeys(present, 0.0)
    with_all = failed_metrics(RECORD, Extent(fluency=True))
    assert {name for name, value in with_all.items() if value is None} == {"perplexity_drift"}
