"""The quantised bundle as a model that can be measured, and the phone's methods as editors of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobifarm.agent.editor.bundle import Bundle, EditPair
from mobifarm.agent.editor.evaluation import Answer, Scorer
from mobifarm.agent.editor.methods import method_with
from mobifarm.agent.editor.tokens import Texts, pad
from mobifarm.agent.editor.types import AnswerScore, Clock, EditCost, EditRecord
from mobifarm.workloads.metrics.language_model import EditedModel, cut_by_length

_POSITIONS_PER_CALL = 512
_SEQUENCES_PER_CALL = 16


@dataclass(frozen=True, slots=True)
class BundleModel:
    """A bundle with some edits as its side input, or none."""

    bundle: Bundle
    edits: EditPair | None = None

    @property
    def texts(self) -> Texts:
        """See LanguageModel."""
        return self.bundle

    @property
    def eos_id(self) -> int | None:
        """See LanguageModel."""
        return self.bundle.manifest.tokenizer.eos_id

    def decode(self, token_ids: Sequence[int]) -> str:
        """See LanguageModel."""
        return self.bundle.tokenizer.decode(token_ids)

    def score(self, answers: Sequence[Answer]) -> list[AnswerScore]:
        """See LanguageModel."""
        scorer = Scorer(self.bundle, [(answer, None) for answer in answers])
        return [score for score, _ in scorer.score(self.edits, lambda: None)]

    def next_log_probabilities(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.floating[Any]]:
        """See LanguageModel."""
        a = self.bundle.architecture
        found = np.empty((len(sequences), a.vocabulary), np.float32)
        for call in cut_by_length(sequences, _POSITIONS_PER_CALL, _SEQUENCES_PER_CALL):
            chosen = [sequences[index] for index in call]
            low = self.bundle.lower(pad(chosen), self.edits)
            last = np.array([[len(ids) - 1] for ids in chosen])
            no_delta = np.zeros((len(call), a.hidden), np.float32)
            high = self.bundle.upper(
                low.residual, None, no_delta, last, np.zeros_like(last), with_log_softmax=True
            )
            assert high.log_softmax is not None
            found[call] = high.log_softmax[:, 0]
        return found


@dataclass(frozen=True, slots=True)
class BundleEditor:
    """A method of the phone's registry on a bundle.

    Attributes:
        method: its name.
        settings: settings that differ from its defaults.
        seed: drives all randomness; every record starts from it.
    """

    bundle: Bundle
    method: str
    settings: Mapping[str, object]
    seed: int
    on_step: Callable[[], None] = lambda: None

    @property
    def unedited(self) -> BundleModel:
        """See Editor."""
        return BundleModel(self.bundle)

    def edit(self, record: EditRecord, clock: Clock) -> EditedModel:
        """See Editor."""
        cost = EditCost()
        started = clock()
        found = method_with(self.method, self.settings).find(
            self.bundle,
            record,
            generator=np.random.default_rng(self.seed),
            cost=cost,
            on_step=lambda step: self.on_step(),
        )
        edits = EditPair(found.edit_key[None].astype(np.float32), found.edit_value[None].astype(np.float32))
        cost.edit_s = clock() - started
        return EditedModel(BundleModel(self.bundle, edits), cost, found.converged)
