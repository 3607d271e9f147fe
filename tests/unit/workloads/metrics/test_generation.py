"""Free generation: when is the answer there, and does the loop write what the model says?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mobifarm.agent.editor.evaluation import Answer
from mobifarm.agent.editor.tokens import Texts
from mobifarm.agent.editor.types import AnswerScore
from mobifarm.workloads.metrics.generation import Generated, compare, greedy, sample

EOS = 9


class Counting:
    """Says the last token's successor; every second choice is its double successor."""

    eos_id = EOS

    def __init__(self) -> None:
        self.calls: list[int] = []

    @property
    def texts(self) -> Texts:
        raise AssertionError("not needed here")

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(str, token_ids))

    def score(self, answers: Sequence[Answer]) -> list[AnswerScore]:
        raise AssertionError("not needed here")

    def next_log_probabilities(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.floating[Any]]:
        self.calls.append(len(sequences))
        rows = np.full((len(sequences), EOS + 1), -50.0, np.float32)
        for row, ids in zip(rows, sequences, strict=True):
            row[min(ids[-1] + 1, EOS)] = -0.1
            row[min(ids[-1] + 2, EOS)] = -2.5
        return rows


@pytest.mark.parametrize(
    ("text", "answer", "ended", "begins", "exact"),
    [
        (" Rome. It is", "Rome", False, True, True),
        (" Rome", "Rome", True, True, True),
        (" Rome", "Rome", False, True, False),
        (" Rome and", "Rome", False, True, False),
        (" Romeo", "Rome", False, False, False),
        (" Rome-born", "Rome", False, False, False),
        (" rome\nThe", "Rome", False, True, True),
        ('"Rome"', "Rome", False, True, True),
        (" in Rome.", "Rome", False, False, False),
        (" New  York City,", "New York City", False, True, True),
        (" St. Louis, Missouri", "St. Louis", False, True, True),
        ("", "Rome", True, False, False),
        (" A.C. Milan!", "A.C. Milan", False, True, True),
        (" 3.5 million", "3", False, False, False),
        (" 1,234 people", "1", False, False, False),
        (" 1987, in", "1987", False, True, True),
        (" 1987.", "1987", False, True, True),
        (' "Heroes", by', '"Heroes"', False, True, True),
        (" 'Salem's Lot.", "'Salem's Lot", False, True, True),
        (" Rome.", '"', False, False, False),
    ],
)
def test_a_text_is_compared_up_to_its_natural_stop(
    text: str, answer: str, ended: bool, begins: bool, exact: bool
) -> None:
    assert compare(text, answer, ended) == Generated(begins, exact)


def test_greedy_writes_first_choices_to_eos_or_the_limit() -> None:
    model = Counting()
    assert greedy(model, [[0, 3], [6], [8]], [2, 10, 1]) == [[4, 5], [7, 8, EOS], [EOS]]
    assert model.calls == [3, 2, 1]


def test_samples_come_from_the_most_probable_tokens_and_follow_the_seed() -> None:
    model = Counting()

    def drawn(seed: int, top_k: int) -> list[int]:
        return sample(model, [0], tokens=6, top_k=top_k, generator=np.random.default_rng(seed))

    assert drawn(0, 1) == [1, 2, 3, 4, 5, 6]
    several = {tuple(drawn(seed, 2)) for seed in range(20)}
    assert len(several) > 1
    assert drawn(3, 2) == drawn(3, 2)
    assert all(b - a in (1, 2) and EOS not in ids for ids in several for a, b in itertools.pairwise(ids))
