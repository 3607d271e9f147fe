"""Teacher-forced scores of answers after prompts, on the unedited and on the edited quantised model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mobifarm.agent.editor.tokens import Texts, pad
from mobifarm.agent.editor.types import AnswerScore, EditRecord, ProbeKind, ProbeScore
from mobifarm.agent.errors import InputError

if TYPE_CHECKING:
    from mobifarm.agent.editor.bundle import Bundle, EditPair

# Bounds the memory of a call; a read-out position costs a row of the vocabulary.
_POSITIONS_PER_CALL = 256
_READ_OUTS_PER_CALL = 32


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with the answer that is wanted and the one it is compared with ("" for none)."""

    kind: ProbeKind
    prompt: str
    wanted: str
    other: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model reads, where it predicts the answer's first token, and the answer's tokens."""

    input_ids: tuple[int, ...]
    first_row: int
    targets: tuple[int, ...]


def questions(record: EditRecord) -> list[Question]:
    """Everything a record asks, in the order efficacy, paraphrases, neighbours, portability."""
    new, true = record.target_new, record.target_true
    return [
        Question(ProbeKind.EFFICACY, record.prompt, new, true),
        *(Question(ProbeKind.PARAPHRASE, prompt, new, true) for prompt in record.paraphrases),
        *(Question(ProbeKind.NEIGHBOURHOOD, probe.prompt, probe.answer, new) for probe in record.neighbours),
        *(Question(ProbeKind.PORTABILITY, probe.prompt, probe.answer, "") for probe in record.portability),
    ]


def tokenize_questions(texts: Texts, asked: Sequence[Question]) -> list[tuple[Answer, Answer | None]]:
    """The wanted and the other answer of every question.

    Raises:
        InputError: an answer has no tokens or a prompt is too long for the bundle.
    """
    return [
        (_tokenize(texts, q.prompt, q.wanted), _tokenize(texts, q.prompt, q.other) if q.other else None)
        for q in asked
    ]


class Scorer:
    """Scores answers (see :func:`tokenize_questions`) before and after an edit."""

    def __init__(self, bundle: Bundle, answers: Sequence[tuple[Answer, Answer | None]]) -> None:
        self._bundle = bundle
        self._answers = answers

    def score(
        self, edits: EditPair | None, before_call: Callable[[], None]
    ) -> list[tuple[AnswerScore, AnswerScore | None]]:
        """Scores of the wanted and of the other answer of every question.

        Args:
            edits: side input of the edited layer; None for the unedited model.
            before_call: called before every call of the model; raise from it to stop.
        """
        # Answers of one token share the prompt's forward pass, and equal questions are asked once.
        by_input: dict[tuple[int, ...], dict[Answer, None]] = {}
        for answer in (a for pair in self._answers for a in pair if a is not None):
            by_input.setdefault(answer.input_ids, {})[answer] = None
        scores: dict[Answer, AnswerScore] = {}
        for batch in _batches(sorted(by_input.items(), key=lambda item: len(item[0]))):
            before_call()
            scores.update(self._score_batch(batch, edits))
        return [(scores[wanted], None if other is None else scores[other]) for wanted, other in self._answers]

    def _score_batch(
        self, batch: Sequence[tuple[tuple[int, ...], Iterable[Answer]]], edits: EditPair | None
    ) -> dict[Answer, AnswerScore]:
        answers = [list(asked) for _, asked in batch]
        low = self._bundle.lower(pad([ids for ids, _ in batch]), edits)
        targets = pad([[token for a in group for token in a.targets] for group in answers])
        asked = [[a.first_row + i for a in group for i in range(len(a.targets))] for group in answers]
        # Padded with a position that is asked for anyway: to ask for the first one is a call of another kind.
        rows = np.array([[*row, *row[-1:] * (targets.shape[1] - len(row))] for row in asked], np.int64)
        no_delta = np.zeros((len(batch), self._bundle.architecture.hidden), np.float32)
        high = self._bundle.upper(low.residual, None, no_delta, rows, targets)
        right = high.argmax == targets
        scores = {}
        for row, group in enumerate(answers):
            start = 0
            for answer in group:
                span = slice(start, start + len(answer.targets))
                start = span.stop
                scores[answer] = AnswerScore(
                    log_probability=float(high.log_probabilities[row, span].astype(np.float64).sum()),
                    tokens=len(answer.targets),
                    tokens_argmax=int(right[row, span].sum()),
                )
        return scores


def probe_scores(
    asked: Sequence[Question],
    before: Sequence[tuple[AnswerScore, AnswerScore | None]],
    after: Sequence[tuple[AnswerScore, AnswerScore | None]],
) -> tuple[ProbeScore, ...]:
    """Put the scores of both models side by side."""
    return tuple(
        ProbeScore(q.kind, q.prompt, q.wanted, q.other, wanted_0, wanted_1, other_0, other_1)
        for q, (wanted_0, other_0), (wanted_1, other_1) in zip(asked, before, after, strict=True)
    )


def _tokenize(texts: Texts, prompt: str, answer: str) -> Answer:
    prompt_ids, answer_ids = texts.tokenize_prompt_and_answer(prompt, answer)
    input_ids = (*prompt_ids, *answer_ids[:-1])
    limit = texts.architecture.max_positions
    if len(input_ids) > limit:
        raise InputError(
            f"the prompt {prompt[:40]!r}… with its answer has {len(input_ids)} tokens, "
            f"the model bundle takes at most {limit}: shorten it"
        )
    return Answer(input_ids, len(prompt_ids) - 1, tuple(answer_ids))


def _batches(
    items: Iterable[tuple[tuple[int, ...], dict[Answer, None]]],
) -> Iterable[list[tuple[tuple[int, ...], dict[Answer, None]]]]:
    """Cut a list that is sorted by length into calls of bounded size."""
    batch: list[tuple[tuple[int, ...], dict[Answer, None]]] = []
    widest = 0
    for ids, answers in items:
        width = sum(len(answer.targets) for answer in answers)
        rows, reads = len(batch) + 1, max(widest, width)
        if batch and (rows * len(ids) > _POSITIONS_PER_CALL or rows * reads > _READ_OUTS_PER_CALL):
            yield batch
            batch, reads = [], width
        batch.append((ids, answers))
        widest = reads
    if batch:
        yield batch
