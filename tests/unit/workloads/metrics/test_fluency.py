"""Entropy of word sequences."""

from __future__ import annotations

import pytest

from mobifarm.workloads.metrics.fluency import n_gram_entropy


def test_a_text_that_repeats_itself_has_no_entropy() -> None:
    assert n_gram_entropy("no no no no no no") == 0


def test_bigrams_weigh_two_thirds_and_trigrams_four() -> None:
    # Five different words: 4 bigrams with 2 bits, 3 trigrams with log2 3 bits.
    assert n_gram_entropy("one two three four five") == pytest.approx(
        (2 / 3 * 2 + 4 / 3 * 1.584962500721156) / 2
    )


def test_marks_count_as_words() -> None:
    assert n_gram_entropy("a, b") == n_gram_entropy("a c b")


@pytest.mark.parametrize("text", ["", "one", "?"])
def test_what_has_no_pair_of_words_has_no_entropy(text: str) -> None:
    assert n_gram_entropy(text) == 0
