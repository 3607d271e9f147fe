"""What a model must answer so that its edits can be measured, and what an editor gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mobifarm.agent.editor.evaluation import Answer
from mobifarm.agent.editor.tokens import Texts
from mobifarm.agent.editor.types import AnswerScore, Clock, EditCost, EditRecord


class LanguageModel(Protocol):
    """A model, edited or not. Sequences are token ids with the family's bos token where it has one."""

    @property
    def texts(self) -> Texts:
        """Its tokenizer and shape."""

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text, if the family has one."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""

    def score(self, answers: Sequence[Answer]) -> list[AnswerScore]:
        """Teacher-forced score of every answer, in order."""

    def next_log_probabilities(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.floating[Any]]:
        """[B, V] f32, nats: the token that follows each sequence."""


@dataclass(frozen=True, slots=True)
class EditedModel:
    """A finished edit: the model that has it, what it took, and whether the method's own goal was reached."""

    model: LanguageModel
    cost: EditCost
    converged: bool


class Editor(Protocol):
    """A method bound to a model."""

    @property
    def unedited(self) -> LanguageModel:
        """The model without an edit."""

    def edit(self, record: EditRecord, clock: Clock) -> EditedModel:
        """Edit one fact into a copy-free variant of the model; the model itself stays as it is.

        Raises:
            InputError: the record cannot be edited.
        """


@dataclass(frozen=True, slots=True)
class PrefixedModel:
    """A model that reads a text before everything it is asked.

    Attributes:
        inner: the model.
        prefix_ids: tokens of the text, bos first where the family has one.
        bos_tokens: how many leading tokens of a sequence are bos: 0 or 1; they stand before the prefix.
    """

    inner: LanguageModel
    prefix_ids: tuple[int, ...]
    bos_tokens: int

    @property
    def texts(self) -> Texts:
        """See LanguageModel."""
        return self.inner.texts

    @property
    def eos_id(self) -> int | None:
        """See LanguageModel."""
        return self.inner.eos_id

    def decode(self, token_ids: Sequence[int]) -> str:
        """See LanguageModel."""
        return self.inner.decode(token_ids)

    def score(self, answers: Sequence[Answer]) -> list[AnswerScore]:
        """See LanguageModel."""
        shift = len(self.prefix_ids) - self.bos_tokens
        return self.inner.score(
            [Answer(self._prefixed(a.input_ids), a.first_row + shift, a.targets) for a in answers]
        )

    def next_log_probabilities(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.floating[Any]]:
        """See LanguageModel."""
        return self.inner.next_log_probabilities([self._prefixed(ids) for ids in sequences])

    def _prefixed(self, ids: Sequence[int]) -> tuple[int, ...]:
        return (*self.prefix_ids, *ids[self.bos_tokens :])


def cut_by_length(
    sequences: Sequence[Sequence[int]], positions_per_call: int, sequences_per_call: int
) -> list[list[int]]:
    """Indices of sequences in calls of bounded size, sequences of similar length together."""
    calls: list[list[int]] = []
    for index in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
        rows = len(calls[-1]) + 1 if calls else 0
        if calls and rows <= sequences_per_call and rows * len(sequences[index]) <= positions_per_call:
            calls[-1].append(index)
        else:
            calls.append([index])
    return calls
