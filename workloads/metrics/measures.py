"""All measures of one edited model for one record. See docs/metrics.md for their sources."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mobifarm.agent.editor.evaluation import Answer, tokenize_questions
from mobifarm.agent.editor.evaluation import Question as ScoredQuestion
from mobifarm.agent.editor.tokens import Texts
from mobifarm.agent.editor.types import AnswerScore, EditRecord, ProbeKind
from mobifarm.workloads.metrics.fluency import n_gram_entropy
from mobifarm.workloads.metrics.generation import answers_generated, sample
from mobifarm.workloads.metrics.language_model import LanguageModel

Metrics = Mapping[str, float | None]
"""Measure → its value for one record; None where the record has no such prompts or it was not asked for."""

_FORMS = ("probability", "teacher_forced", "greedy_begins", "greedy_exact")
NO_SHARES = ("fluency", "perplexity_drift")
METRIC_NAMES: tuple[str, ...] = (
    *(f"efficacy_{form}" for form in _FORMS),
    *(f"paraphrase_{form}" for form in _FORMS),
    "neighbourhood_probability",
    "neighbourhood_teacher_forced",
    "neighbourhood_unchanged",
    "neighbourhood_after_edit_sentence",
    *(f"portability_{form}" for form in _FORMS[1:]),
    *NO_SHARES,
)
"""Shares from 0 to 1, but fluency in bits and the drift as a relative change of the perplexity."""

_FLUENCY_TOKENS = 100
_FLUENCY_TOP_K = 5


@dataclass(frozen=True, slots=True)
class Extent:
    """What to measure beyond the record's prompts, and what the unedited model says to it.

    Attributes:
        fluency: also generate 100 tokens after the prompt.
        windows: pieces of ordinary text for the perplexity, see :func:`text_windows`; none to leave it out.
        windows_nll: mean NLL per token of the unedited model over the windows.
        seed: of what is sampled.
    """

    fluency: bool = False
    windows: Sequence[Answer] = ()
    windows_nll: float = math.nan
    seed: int = 0


def first_choices(model: LanguageModel, record: EditRecord) -> list[int]:
    """The model's most probable token after each neighbour."""
    if not record.neighbours:
        return []
    prompts = [model.texts.tokenize(probe.prompt.rstrip()) for probe in record.neighbours]
    return [int(token) for token in model.next_log_probabilities(prompts).argmax(axis=1)]


def text_windows(texts: Texts, text: str, *, count: int, tokens: int) -> list[Answer]:
    """Pieces of a text at equal distances, to be read token by token.

    Args:
        texts: the tokenizer.
        text: ordinary text, long enough.
        count: pieces wanted.
        tokens: length of a piece; its first token is only read.
    """
    ids = texts.tokenize(text)
    starts = np.linspace(0, max(0, len(ids) - tokens), count).astype(int)
    pieces = [ids[start : start + tokens] for start in starts]
    return [Answer(tuple(piece[:-1]), 0, tuple(piece[1:])) for piece in pieces]


def mean_nll(model: LanguageModel, windows: Sequence[Answer]) -> float:
    """Mean negative log-probability per token, nats."""
    scores = model.score(windows)
    return -math.fsum(s.log_probability for s in scores) / sum(s.tokens for s in scores)


def measure(
    model: LanguageModel, record: EditRecord, unedited_choices: Sequence[int], extent: Extent
) -> Metrics:
    """Measure an edited model.

    Args:
        model: the edited model.
        record: what was edited.
        unedited_choices: :func:`first_choices` of the unedited model.
        extent: what else to measure.

    Raises:
        InputError: a text of the record gives no token or is too long.
    """
    found: dict[str, float | None] = dict.fromkeys(METRIC_NAMES)
    new = record.target_new
    rewritten = [record.prompt, *record.paraphrases]
    sentence = f"{record.prompt} {new}."
    asked = [
        *((prompt, new, record.target_true) for prompt in rewritten),
        *((probe.prompt, probe.answer, new) for probe in record.neighbours),
        *((f"{sentence} {probe.prompt}", probe.answer, new) for probe in record.neighbours),
        *((probe.prompt, probe.answer, "") for probe in record.portability),
    ]
    pairs = _score(model, asked)
    neighbours = len(record.neighbours)
    sections = np.cumsum([1, len(record.paraphrases), neighbours, neighbours])
    efficacy, paraphrase, neighbour, after_sentence, portability = (
        pairs[start:stop] for start, stop in zip([0, *sections], [*sections, len(pairs)], strict=True)
    )
    found["efficacy_probability"] = _more_probable(efficacy)
    found["efficacy_teacher_forced"] = _teacher_forced(efficacy)
    found["paraphrase_probability"] = _more_probable(paraphrase)
    found["paraphrase_teacher_forced"] = _teacher_forced(paraphrase)
    found["neighbourhood_probability"] = _more_probable(neighbour)
    found["neighbourhood_teacher_forced"] = _teacher_forced(neighbour)
    found["neighbourhood_after_edit_sentence"] = _more_probable(after_sentence)
    found["portability_teacher_forced"] = _teacher_forced(portability)
    same = [a == b for a, b in zip(first_choices(model, record), unedited_choices, strict=True)]
    found["neighbourhood_unchanged"] = _mean([float(x) for x in same])

    questions = [(prompt, new) for prompt in rewritten]
    generated = answers_generated(model, questions + [(p.prompt, p.answer) for p in record.portability])
    for kind, part in (
        ("efficacy", generated[:1]),
        ("paraphrase", generated[1 : len(rewritten)]),
        ("portability", generated[len(rewritten) :]),
    ):
        found[f"{kind}_greedy_begins"] = _mean([float(g.begins) for g in part])
        found[f"{kind}_greedy_exact"] = _mean([float(g.exact) for g in part])
    if extent.fluency:
        prompt = model.texts.tokenize(record.prompt.rstrip())
        written = sample(
            model,
            prompt,
            tokens=_FLUENCY_TOKENS,
            top_k=_FLUENCY_TOP_K,
            generator=np.random.default_rng(extent.seed),
        )
        found["fluency"] = n_gram_entropy(model.decode(written))
    if extent.windows:
        found["perplexity_drift"] = math.expm1(mean_nll(model, extent.windows) - extent.windows_nll)
    return found


def failed_metrics(record: EditRecord, extent: Extent) -> Metrics:
    """A failed edit counts as wrong on every prompt of its record; its drift is unknown, not zero."""
    present = {
        "efficacy": True,
        "paraphrase": bool(record.paraphrases),
        "neighbourhood": bool(record.neighbours),
        "portability": bool(record.portability),
        "fluency": extent.fluency,
        "perplexity": False,
    }
    found = {name: 0.0 if present[name.split("_")[0]] else None for name in METRIC_NAMES}
    if not record.target_true:
        found["efficacy_probability"] = found["paraphrase_probability"] = None
    return found


_Pair = tuple[AnswerScore, AnswerScore | None]


def _score(model: LanguageModel, asked: Sequence[tuple[str, str, str]]) -> list[_Pair]:
    questions = [ScoredQuestion(ProbeKind.EFFICACY, *question) for question in asked]
    answers = tokenize_questions(model.texts, questions)
    flat = list(dict.fromkeys(a for pair in answers for a in pair if a is not None))
    scores = dict(zip(flat, model.score(flat), strict=True))
    return [(scores[wanted], None if other is None else scores[other]) for wanted, other in answers]


def _more_probable(pairs: Sequence[_Pair]) -> float | None:
    """Share of the wanted answers that are more probable, per token, than the other; None without others."""
    return _mean([float(_per_token(a) > _per_token(b)) for a, b in pairs if b is not None])


def _per_token(score: AnswerScore) -> float:
    """Mean log-probability per token; what is not finite loses every comparison."""
    value = score.log_probability / score.tokens
    return value if math.isfinite(value) else -math.inf


def _teacher_forced(pairs: Sequence[_Pair]) -> float | None:
    return _mean([wanted.tokens_argmax / wanted.tokens for wanted, _ in pairs])


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
