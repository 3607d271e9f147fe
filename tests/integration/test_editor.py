"""The editor on a small bundle with random weights: all of its paths, in seconds."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from mobifarm.agent.editor import (
    AnswerScore,
    EditCost,
    EditOutcome,
    EditPhase,
    EditProgress,
    EditRecord,
    EditStatus,
    Probe,
    ProbeKind,
    check_edit,
    edit,
)
from mobifarm.agent.editor.bundle import Bundle, EditPair, UpperOutput
from mobifarm.agent.editor.contexts import (
    ContextLoss,
    TokenizedContext,
    tokenize_contexts,
    tokenize_key_contexts,
)
from mobifarm.agent.editor.edit import side_input
from mobifarm.agent.editor.evaluation import Question, Scorer, tokenize_questions
from mobifarm.agent.editor.forward import SETTLED_SLACK
from mobifarm.agent.editor.methods import FoundEdit
from mobifarm.agent.editor.prepared import (
    UNPREPARED,
    Prepared,
    Subspace,
    Surrogate,
    output_gradients,
)
from mobifarm.agent.errors import Cancelled, InputError
from mobifarm.workloads.preparation.fit import with_core

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
QUICK: Mapping[str, object] = {"contexts": 2, "directions": 6, "step_limit": 3}


@pytest.fixture(scope="session")
def bundle(tiny_bundle_path: Path) -> Bundle:
    return Bundle.open(tiny_bundle_path, threads=1, verify=False)


def run(
    bundle: Bundle,
    record: EditRecord = RECORD,
    settings: Mapping[str, object] = QUICK,
    seed: int = 0,
    report: Callable[[EditProgress], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> EditOutcome:
    ticks = itertools.count()
    return edit(
        bundle,
        record,
        method="forward",
        settings=settings,
        seed=seed,
        report=report,
        cancelled=cancelled,
        clock=lambda: float(next(ticks)),
    )


def scored(bundle: Bundle, asked: list[Question]) -> list[tuple[AnswerScore, AnswerScore | None]]:
    return Scorer(bundle, tokenize_questions(bundle, asked)).score(None, lambda: None)


def test_an_edit_runs_from_scores_to_scores(bundle: Bundle) -> None:
    progress: list[EditProgress] = []
    base = bundle.base_hash()
    outcome = run(bundle, report=progress.append)
    assert [(score.kind, score.wanted, score.other) for score in outcome.scores] == [
        (ProbeKind.EFFICACY, "Rex", "Bo"),
        (ProbeKind.PARAPHRASE, "Rex", "Bo"),
        (ProbeKind.NEIGHBOURHOOD, "Max", "Rex"),
        (ProbeKind.NEIGHBOURHOOD, "Tom", "Rex"),
        (ProbeKind.PORTABILITY, "R", ""),
    ]
    assert outcome.scores[-1].other_before is None
    assert all(score.wanted_after != score.wanted_before for score in outcome.scores[:2])
    losses = [p.loss for p in progress if p.phase is EditPhase.OPTIMISING and p.loss_evaluations]
    assert losses[-1] < losses[0]
    assert losses == sorted(losses, reverse=True)
    phases = [phase for phase, _ in itertools.groupby(p.phase for p in progress)]
    assert phases == [
        EditPhase.EVALUATING_BEFORE,
        EditPhase.CACHING,
        EditPhase.OPTIMISING,
        EditPhase.EVALUATING_AFTER,
    ]
    assert all(p.step_limit == 3 for p in progress)
    assert outcome.cost.steps == 3
    assert outcome.cost.edit_s == 1
    assert outcome.cost.evaluation_s == 2
    assert bundle.base_hash() == base


def test_a_goal_within_reach_is_reached(bundle: Bundle) -> None:
    # In a model of random weights only the last token steers the next one: δ has to bring the answer's space,
    # after which the "u" comes by itself.
    record = dataclasses.replace(
        RECORD, subject="Eve", prompt="This dog belongs to Eve", target_new="u", portability=()
    )
    progress: list[EditProgress] = []
    settings = {
        "contexts": 1,
        "stop_probability": 0.02,
        "directions": 32,
        "norm_limit": 50,
        "step_limit": 100,
    }
    outcome = run(bundle, record, settings, report=progress.append)
    assert outcome.status is EditStatus.CONVERGED
    assert outcome.cost.steps < 100
    reached = [p.target_probability for p in progress if p.phase is EditPhase.OPTIMISING][-1]
    assert reached >= 0.02 * np.exp(-SETTLED_SLACK)


def test_the_seed_decides_everything(bundle: Bundle) -> None:
    first, same, other = (run(bundle, seed=seed) for seed in (1, 1, 2))
    assert first == same
    assert first.scores != other.scores


def test_cancelling_stops_before_the_next_call(bundle: Bundle) -> None:
    whole: list[EditProgress] = []
    run(bundle, report=whole.append)
    for calls in range(len(whole)):
        answers = itertools.chain(itertools.repeat(False, calls), itertools.repeat(True))
        seen: list[EditProgress] = []
        with pytest.raises(Cancelled, match="r1"):
            run(bundle, report=seen.append, cancelled=lambda answers=answers: next(answers))
        assert len(seen) == calls


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_new": "\u200b"}, None),
        ({"prompt": "The dog of Ada is " + "very " * 2000}, "the model bundle takes at most"),
        ({"paraphrases": ("word " * 2000,)}, "the model bundle takes at most"),
        (
            {"portability": (Probe("The dog of Ada is", " "),)},
            "the answer '' gives no token: give it some text",
        ),
        ({"neighbours": (Probe("", "Rex"),)}, "the prompt gives no token: give it some text"),
    ],
)
def test_bad_records_are_refused_before_the_model_runs(
    bundle: Bundle, changes: dict[str, object], message: str | None
) -> None:
    record = dataclasses.replace(RECORD, **changes)  # type: ignore[arg-type]
    if message is None:
        check_edit(bundle, record, method="forward", settings=QUICK)
        return
    progress: list[EditProgress] = []
    with pytest.raises(InputError, match=message):
        check_edit(bundle, record, method="forward", settings=QUICK)
    with pytest.raises(InputError, match=message):
        run(bundle, record, report=progress.append)
    assert progress == []


def test_bad_settings_are_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="'speed' is no setting"):
        run(bundle, settings={"speed": 9})


def test_token_layers_are_what_was_computed(bundle: Bundle) -> None:
    cost = EditCost()
    contexts = tokenize_contexts(bundle, RECORD, 2)
    loss = ContextLoss(bundle, contexts, essence=None, kl_weight=0.0, probe_contexts=1, cost=cost)
    lengths = [len(context.input_ids) for context in contexts]
    before = [context.subject_last for context in contexts]
    above = bundle.upper_layers
    assert cost.token_layers == 2 * max(lengths) * (bundle.edit_layer + 1) + sum(before) * above
    filled = cost.token_layers
    loss.evaluate(np.zeros((5, bundle.architecture.hidden)))
    suffixes = sum(length - start for length, start in zip(lengths, before, strict=True))
    assert cost.token_layers - filled == 5 * suffixes * above


def test_the_loss_is_that_of_the_written_back_edit(bundle: Bundle) -> None:
    """The cache is exact and every context gets its share: the search sees what the write-back will do."""
    record = dataclasses.replace(RECORD, paraphrases=(), neighbours=(), portability=())
    contexts = tokenize_contexts(bundle, record, 3)
    loss = ContextLoss(bundle, contexts, essence=None, kl_weight=0.0, probe_contexts=1, cost=EditCost())
    generator = np.random.default_rng(0)
    delta = generator.standard_normal(bundle.architecture.hidden)
    delta *= loss.value_norm / np.linalg.norm(delta)
    total = 0.0
    for context in contexts:
        tokens = np.array([context.input_ids])
        # Later tokens must not see the edit through their own keys, as the search assumes.
        low = bundle.lower(tokens)
        share = float(low.key[0, context.subject_last].astype(np.float64) @ loss.edit_key)
        residual = low.residual.copy()
        residual[0, context.subject_last] += (share * delta).astype(np.float32)
        rows = range(len(context.prompt_ids) - 1, len(context.input_ids))
        nothing = np.zeros((1, bundle.architecture.hidden), np.float32)
        out = bundle.upper(residual, None, nothing, rows, context.answer_ids)
        total -= float(out.log_probabilities.mean()) / len(contexts)
    assert loss.evaluate(delta[None]).target[0] == pytest.approx(total, abs=1e-4)


def test_a_key_context_gets_its_share_and_costs_its_key_alone(bundle: Bundle) -> None:
    contexts, [behind_a_sentence] = (
        tokenize_contexts(bundle, RECORD, 3),
        tokenize_key_contexts(bundle, RECORD),
    )

    def loss_with(key_contexts: Sequence[TokenizedContext]) -> tuple[ContextLoss, int]:
        cost = EditCost()
        loss = ContextLoss(
            bundle,
            contexts,
            key_contexts=key_contexts,
            essence=None,
            kl_weight=0.0,
            probe_contexts=1,
            cost=cost,
        )
        return loss, cost.token_layers

    (without, less), (with_it, more) = loss_with([]), loss_with([behind_a_sentence])
    last = behind_a_sentence.subject_last
    key = bundle.lower(np.array([behind_a_sentence.prompt_ids])).key[0, last].astype(np.float64)
    assert abs(key @ with_it.edit_key - 1) < abs(key @ without.edit_key - 1)
    assert more - less == (last + 1) * (bundle.edit_layer + 1)


ESSENCE = "Ada is a"


def with_edits(
    bundle: Bundle, ids: Sequence[int], edits: EditPair | None, rows: Sequence[int]
) -> UpperOutput:
    """The whole model on one sequence, with edits as its side input."""
    nothing = np.zeros((1, bundle.architecture.hidden), np.float32)
    low = bundle.lower(np.array([ids]), edits)
    return bundle.upper(low.residual, None, nothing, rows, [0] * len(rows), with_log_softmax=True)


@pytest.mark.parametrize("several", [False, True], ids=["alone", "beside held edits"])
@pytest.mark.parametrize("prepared", [False, True], ids=["C = I", "prepared"])
def test_once_settled_the_loss_is_that_of_the_whole_edited_model(
    bundle: Bundle, prepared: bool, several: bool
) -> None:
    a, generator, cost = bundle.architecture, np.random.default_rng(3), EditCost()
    contexts, held = tokenize_contexts(bundle, RECORD, 3), None
    essence = (bundle.tokenize(ESSENCE), bundle.subject_last_index(ESSENCE, "Ada"))
    if several:
        keys = generator.standard_normal((2, a.intermediate)) / a.intermediate
        held = EditPair(keys.astype(np.float32), generator.standard_normal((2, a.hidden)).astype(np.float32))
    loss = ContextLoss(
        bundle,
        contexts,
        essence=essence,
        kl_weight=2.0,
        probe_contexts=1,
        cost=cost,
        prepared=random_preparation(bundle) if prepared else UNPREPARED,
        held=held,
    )
    deltas = generator.standard_normal((2, a.hidden))
    deltas *= 4 * loss.value_norm / np.linalg.norm(deltas, axis=1, keepdims=True)
    unsettled, spent = loss.evaluate(deltas), cost.token_layers
    loss.settle(deltas[1])
    prompts = [*((context.input_ids, context.subject_last) for context in contexts), essence]
    whole = len(prompts) * max(len(ids) for ids, _ in prompts) * (bundle.edit_layer + 1)
    assert cost.token_layers - spent == whole + sum(last for _, last in prompts) * bundle.upper_layers
    settled = loss.evaluate(deltas)

    edits = side_input(FoundEdit(loss.edit_key, deltas[1], True))
    if held is not None:
        edits = EditPair(np.concatenate([held.keys, edits.keys]), np.concatenate([held.values, edits.values]))
    nll, written = [], []
    for context in contexts:
        rows = range(len(context.prompt_ids) - 1, len(context.input_ids))
        out = with_edits(bundle, context.input_ids, edits, rows)
        assert out.log_softmax is not None
        nll.append(-out.log_softmax[0, np.arange(len(rows)), context.answer_ids].mean())
        written.append(out.argmax[0].tolist() == list(context.answer_ids))
    last = [len(essence[0]) - 1]
    before, after = (with_edits(bundle, essence[0], pair, last).log_softmax for pair in (held, edits))
    assert before is not None
    assert after is not None
    drift = 2.0 * float((np.exp(before) * (before - after)).sum())
    # Activations of 8 bits may round otherwise where sums come in another order.
    assert settled.target[1] == pytest.approx(np.mean(nll), abs=1e-4)
    assert settled.total[1] == pytest.approx(np.mean(nll) + drift, abs=1e-4)
    assert settled.written is not None
    assert settled.written[1] == written[0]
    assert abs(unsettled.target[1] - settled.target[1]) > 1e-3


def test_the_side_input_gives_the_key_its_new_value(bundle: Bundle) -> None:
    contexts = tokenize_contexts(bundle, RECORD, 1)
    loss = ContextLoss(bundle, contexts, essence=None, kl_weight=0.0, probe_contexts=1, cost=EditCost())
    delta = np.random.default_rng(0).standard_normal(bundle.architecture.hidden)
    edits = side_input(FoundEdit(loss.edit_key, delta, True))
    tokens, last = np.array([contexts[0].input_ids]), contexts[0].subject_last
    before, after = bundle.lower(tokens).value, bundle.lower(tokens, edits).value
    np.testing.assert_allclose(after[0, last] - before[0, last], delta, atol=1e-4)


def test_the_drift_of_the_subject_is_zero_without_an_edit(bundle: Bundle) -> None:
    essence = (bundle.tokenize("Ada is a"), bundle.subject_last_index("Ada is a", "Ada"))
    contexts = tokenize_contexts(bundle, RECORD, 1)
    loss = ContextLoss(bundle, contexts, essence=essence, kl_weight=2.0, probe_contexts=1, cost=EditCost())
    deltas = np.zeros((2, bundle.architecture.hidden))
    deltas[1] = 100 * np.random.default_rng(0).standard_normal(bundle.architecture.hidden)
    losses = loss.evaluate(deltas)
    assert losses.total[0] == pytest.approx(losses.target[0], abs=1e-5)
    assert losses.total[1] > losses.target[1] + 1e-4


def test_scores_do_not_depend_on_the_batch(bundle: Bundle) -> None:
    asked = [
        Question(ProbeKind.EFFICACY, f"The number of the {name} is", "eleven" * (index % 3 + 1), "two")
        for index, name in enumerate(["cat", "elephant", "dog", "mouse", "tortoise"] * 8)
    ]
    together = scored(bundle, asked)
    for question, (wanted, other) in zip(asked[:7], together, strict=False):
        alone_wanted, alone_other = scored(bundle, [question])[0]
        assert wanted.log_probability == pytest.approx(alone_wanted.log_probability, abs=1e-3)
        assert other is not None
        assert alone_other is not None
        assert other.log_probability == pytest.approx(alone_other.log_probability, abs=1e-3)
        assert (wanted.tokens, other.tokens) == (alone_wanted.tokens, alone_other.tokens)


def test_scores_are_sums_over_the_answer(bundle: Bundle) -> None:
    prompt, answer = "The dog of Ada is", "Rex"
    [(score, other)] = scored(bundle, [Question(ProbeKind.PORTABILITY, prompt, answer, "")])
    prompt_ids, answer_ids = bundle.tokenize_prompt_and_answer(prompt, answer)
    log_probability, right = 0.0, 0
    for index, token in enumerate(answer_ids):
        residual = bundle.lower(np.array([[*prompt_ids, *answer_ids[:index]]])).residual
        nothing = np.zeros((1, bundle.architecture.hidden), np.float32)
        out = bundle.upper(residual, None, nothing, [residual.shape[1] - 1], [token])
        log_probability += float(out.log_probabilities[0, 0])
        right += int(out.argmax[0, 0] == token)
    assert other is None
    assert score.tokens == len(answer_ids)
    assert score.tokens_argmax == right
    assert score.log_probability == pytest.approx(log_probability, abs=1e-3)


def test_probes_take_the_contexts_in_turn(bundle: Bundle) -> None:
    cost = EditCost()
    contexts = tokenize_contexts(bundle, RECORD, 3)
    loss = ContextLoss(bundle, contexts, essence=None, kl_weight=0.0, probe_contexts=1, cost=cost)
    deltas = np.random.default_rng(0).standard_normal((2, bundle.architecture.hidden))
    probes = [loss.probe(deltas, step) for step in range(3)]
    assert cost.loss_evaluations == 2
    # Together the contexts are padded: sums come in another order, and activations may round otherwise.
    np.testing.assert_allclose(np.mean(probes, axis=0), loss.evaluate(deltas).target, atol=1e-4)
    assert cost.loss_evaluations == 4
    np.testing.assert_array_equal(loss.probe(deltas, 3), probes[0])


def random_preparation(bundle: Bundle) -> Prepared:
    generator, hidden = np.random.default_rng(0), bundle.architecture.hidden
    intermediate = bundle.architecture.intermediate
    return Prepared(
        with_core(generator.uniform(1, 2, intermediate), generator.standard_normal((intermediate, 3))),
        Surrogate(generator.standard_normal((7 * hidden, hidden)), np.ones(hidden), 1e-5),
        Subspace(np.linalg.qr(generator.standard_normal((hidden, 4)))[0].T, np.ones(4)),
    )


def test_a_guess_is_the_surrogates_mean_over_the_contexts_and_costs_nothing(bundle: Bundle) -> None:
    prepared, cost = random_preparation(bundle), EditCost()
    contexts = tokenize_contexts(bundle, RECORD, 2)
    loss = ContextLoss(
        bundle, contexts, essence=None, kl_weight=0.0, probe_contexts=1, cost=cost, prepared=prepared
    )
    deltas = np.random.default_rng(1).standard_normal((3, bundle.architecture.hidden))
    loss.evaluate(deltas)
    spent = (cost.loss_evaluations, cost.token_layers)
    assert loss.guide is not None
    guess = loss.guide.guess(2)
    assert (cost.loss_evaluations, cost.token_layers) == spent

    assert prepared.surrogate is not None
    expected = np.zeros(bundle.architecture.hidden)
    for context in contexts:
        low = bundle.lower(np.array([context.input_ids]))
        share = float(low.key[0, context.subject_last].astype(np.float64) @ loss.edit_key)
        residual = low.residual.copy()
        residual[0, context.subject_last] += (share * deltas[2]).astype(np.float32)
        rows = range(len(context.prompt_ids) - 1, len(context.input_ids))
        out = bundle.upper(
            residual,
            None,
            np.zeros((1, bundle.architecture.hidden), np.float32),
            rows,
            context.answer_ids,
            with_log_softmax=True,
            with_final_residual=True,
        )
        assert out.log_softmax is not None
        assert out.final_residual is not None
        each = output_gradients(
            bundle, prepared.surrogate, out.log_softmax[0], out.final_residual[0], context.answer_ids
        )
        gradient = np.mean(each, axis=0)
        subject = low.residual[0, context.subject_last]
        part = prepared.surrogate.predict(
            gradient[None], out.final_residual[0, :1], subject[None], share * deltas[2:]
        )
        expected += share * part[0] / 2
    np.testing.assert_allclose(guess, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_without_a_preparation_there_is_no_guide(bundle: Bundle) -> None:
    contexts = tokenize_contexts(bundle, RECORD, 1)
    loss = ContextLoss(bundle, contexts, essence=None, kl_weight=0.0, probe_contexts=1, cost=EditCost())
    assert loss.guide is None


def test_a_prepared_bundle_can_be_edited_with_and_without_its_preparation(
    tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(tiny_bundle_path, threads=1, verify=False)
    plain = run(bundle)
    monkeypatch.setattr(bundle, "_prepared", random_preparation(bundle))
    with_it = run(bundle, settings={**QUICK, "guided_directions": 2, "learned_directions": 1, "memory": 0})
    # δ = 0 once; the guess alone, then two steps of 1 + 1 + 2 probes on one of two contexts; line searches.
    assert with_it.cost.loss_evaluations == 1 + 2 * 4 / 2 + 3 * 3
    assert run(bundle, settings={**QUICK, "prepared": "off"}) == plain


@pytest.mark.parametrize(
    ("part", "evaluations"),
    [
        # Probes on one of two contexts, in each step but a first one that a guess leads: the guess and two
        # random directions; two learned ones and the six random ones of QUICK; these alone.
        ("surrogate", 1 + 2 * (1 + 2) / 2 + 3 * 3),
        ("subspace", 1 + 3 * (2 + 6) / 2 + 3 * 3),
        ("second_moment", 1 + 3 * 6 / 2 + 3 * 3),
    ],
)
def test_a_part_of_the_preparation_can_be_used_alone(
    part: str, evaluations: float, tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(tiny_bundle_path, threads=1, verify=False)
    plain = run(bundle, settings={**QUICK, "memory": 0})
    monkeypatch.setattr(bundle, "_prepared", random_preparation(bundle))
    settings = {**QUICK, "guided_directions": 2, "learned_directions": 2, "memory": 0, "prepared": part}
    found = run(bundle, settings=settings)
    assert found.cost.loss_evaluations == evaluations
    assert found.scores != plain.scores  # C takes part in each
