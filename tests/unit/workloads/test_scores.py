"""Quality of an edit from its scored prompts."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mobifarm.workloads.scores import Quality, failed_quality, quality


def answer(log_probability: float | None, tokens: int = 1, argmax: int = 0) -> dict[str, Any]:
    return {"log_probability": log_probability, "tokens": tokens, "tokens_argmax": argmax}


def score(
    kind: str, wanted: dict[str, Any], other: dict[str, Any] | None, before: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "kind": kind,
        "wanted_before": before or answer(-9.0),
        "wanted_after": wanted,
        "other_before": None if other is None else answer(-1.0),
        "other_after": other,
    }


def test_each_measure_reads_its_own_prompts() -> None:
    scores = [
        score("efficacy", answer(-1, 2, 1), answer(-3)),
        score("paraphrase", answer(-1), answer(-3)),
        score("paraphrase", answer(-4), answer(-3)),
        score("neighbourhood", answer(-1), answer(-3)),
        score("neighbourhood", answer(-4), answer(-3)),
        score("neighbourhood", answer(-5), answer(-3)),
        score("neighbourhood", answer(-6), answer(-3)),
        score("portability", answer(-1, 3, 3), None),
        score("portability", answer(-1, 3, 0), None),
    ]
    assert quality(scores, "after") == Quality(1.0, 0.5, 0.5, 0.25, 0.5)
    assert quality(scores, "before") == Quality(0.0, 0.0, 0.0, 0.0, 0.0)


def test_answers_are_compared_per_token() -> None:
    longer = score("efficacy", answer(-4, 4), answer(-2, 1))
    assert quality([longer], "after").edit_success == 1.0
    shorter = score("efficacy", answer(-2, 1), answer(-4, 4))
    assert quality([shorter], "after").edit_success == 0.0


def test_a_tie_is_no_success() -> None:
    assert quality([score("efficacy", answer(-2), answer(-2))], "after").edit_success == 0.0


def test_an_answer_without_a_finite_probability_loses() -> None:
    assert quality([score("efficacy", answer(None), answer(-50))], "after").edit_success == 0.0
    assert quality([score("efficacy", answer(-50), answer(None))], "after").edit_success == 1.0
    assert quality([score("efficacy", answer(None), answer(None))], "after").edit_success == 0.0


def test_prompts_that_a_record_lacks_are_not_measured() -> None:
    assert quality([], "after") == Quality(None, None, None, None, None)


def test_a_failed_edit_is_wrong_on_every_prompt_of_its_record() -> None:
    full = {"paraphrases": ["a"], "neighbours": [{}], "portability": [{}]}
    assert failed_quality(full) == Quality(0.0, 0.0, 0.0, 0.0, 0.0)
    assert failed_quality({"paraphrases": []}) == Quality(0.0, 0.0, None, None, None)


answers = st.builds(answer, st.none() | st.floats(-100, 0), st.integers(1, 9))
kinds = st.sampled_from(["efficacy", "paraphrase", "neighbourhood", "portability"])


@given(st.lists(st.builds(score, kinds, answers, answers), max_size=8))
def test_qualities_are_shares(scores: list[dict[str, Any]]) -> None:
    for moment in ("before", "after"):
        found = quality(scores, moment)
        for name in Quality.__dataclass_fields__:
            value = getattr(found, name)
            assert value is None or 0 <= value <= 1


def test_without_an_answer_to_compare_with_nothing_is_compared() -> None:
    scores = [score("efficacy", answer(-1, 2, 1), None), score("paraphrase", answer(-1), None)]
    assert quality(scores, "after") == Quality(None, 0.5, None, None, None)
    record = {"target_true": "", "paraphrases": ["a"], "neighbours": [{}]}
    assert failed_quality(record) == Quality(None, 0.0, None, 0.0, None)
