"""Quality of one edit from its scored prompts. Pure.

The probability form follows ROME (Meng et al., 2022): an answer is more probable than another when its mean
log-probability per token is higher. Accuracy is teacher-forced as in EasyEdit: the share of an answer's
tokens that are the model's first choice, given the tokens before them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Moment = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Quality:
    """Shares from 0 to 1; None where the record has no such prompts, or no answer to compare with.

    Attributes:
        edit_success: 1 where target_new is more probable than target_true after the prompt.
        rewrite_accuracy: teacher-forced accuracy of target_new after the prompt.
        paraphrase_success: share of the paraphrases with target_new more probable than target_true.
        neighbourhood_success: share of the neighbours with their own answer more probable than target_new.
        portability_accuracy: teacher-forced accuracy of the answers to the questions one step further.
    """

    edit_success: float | None
    rewrite_accuracy: float | None
    paraphrase_success: float | None
    neighbourhood_success: float | None
    portability_accuracy: float | None


def quality(scores: Sequence[Mapping[str, Any]], moment: Moment) -> Quality:
    """Quality on the unedited (``before``) or the edited (``after``) model, from a stored result's scores."""

    def success(kind: str) -> float | None:
        compared = [
            score for score in scores if score["kind"] == kind and score[f"other_{moment}"] is not None
        ]
        return _mean([float(_wanted_wins(score, moment)) for score in compared])

    def accuracy(kind: str) -> float | None:
        return _mean([_accuracy(score[f"wanted_{moment}"]) for score in scores if score["kind"] == kind])

    return Quality(
        edit_success=success("efficacy"),
        rewrite_accuracy=accuracy("efficacy"),
        paraphrase_success=success("paraphrase"),
        neighbourhood_success=success("neighbourhood"),
        portability_accuracy=accuracy("portability"),
    )


def failed_quality(record: Mapping[str, Any]) -> Quality:
    """An edit that failed counts as wrong on every prompt of its record."""
    compared = bool(record.get("target_true", True))
    return Quality(
        edit_success=0.0 if compared else None,
        rewrite_accuracy=0.0,
        paraphrase_success=0.0 if compared and record.get("paraphrases") else None,
        neighbourhood_success=0.0 if record.get("neighbours") else None,
        portability_accuracy=0.0 if record.get("portability") else None,
    )


def _wanted_wins(score: Mapping[str, Any], moment: Moment) -> bool:
    return _per_token(score[f"wanted_{moment}"]) > _per_token(score[f"other_{moment}"])


def _per_token(answer: Mapping[str, Any] | None) -> float:
    """Mean log-probability per token in nats; what is missing or was not finite loses every comparison."""
    if answer is None or answer["log_probability"] is None or not answer["tokens"]:
        return -math.inf
    return float(answer["log_probability"]) / int(answer["tokens"])


def _accuracy(answer: Mapping[str, Any] | None) -> float:
    if answer is None or not answer["tokens"]:
        return 0.0
    return int(answer["tokens_argmax"]) / int(answer["tokens"])


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
