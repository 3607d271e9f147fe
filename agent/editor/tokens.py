"""Texts as token sequences, and token sequences as batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mobifarm.agent.editor.manifest import Architecture


class Texts(Protocol):
    """The part of a bundle that needs no weights: enough to check an edit."""

    @property
    def architecture(self) -> Architecture:
        """Shape of the model."""

    def tokenize(self, text: str) -> list[int]:
        """See Tokenizer."""

    def tokenize_prompt_and_answer(self, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """See Tokenizer."""

    def subject_last_index(self, prompt: str, subject: str) -> int:
        """See Tokenizer."""


def pad(sequences: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """[B, T] int64, zeros on the right: harmless in front of causal attention."""
    padded = np.zeros((len(sequences), max(len(sequence) for sequence in sequences)), np.int64)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = sequence
    return padded
