"""A torch decoder as a model that can be measured; an edit adds to one ``down_proj``'s output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mobifarm.agent.editor.evaluation import Answer
from mobifarm.agent.editor.tokens import Texts, pad
from mobifarm.agent.editor.types import AnswerScore
from mobifarm.workloads.baselines.texts import BundleTexts
from mobifarm.workloads.metrics.language_model import cut_by_length
from mobifarm.workloads.preparation.decoder import TorchDecoder

_POSITIONS_PER_CALL = 512
_SEQUENCES_PER_CALL = 16


@dataclass(frozen=True, slots=True)
class Addend:
    """What an edit adds to the output of ``down_proj`` in ``layer``: [B, T, f] keys → [B, T, d]."""

    layer: int
    of_key: Callable[[torch.Tensor], torch.Tensor]


def rank_one(layer: int, edit_key: torch.Tensor, edit_value: torch.Tensor) -> Addend:
    """(key·edit_key) edit_value with edit_key [f], edit_value [d]: ROME's write-back, see write_back."""
    return Addend(layer, lambda key: (key @ edit_key)[..., None] * edit_value)


def changed_weight(layer: int, change: torch.Tensor) -> Addend:
    """An addend [d, f] to the weight of ``down_proj``."""
    return Addend(layer, lambda key: functional.linear(key, change))


def forward(
    decoder: TorchDecoder, residual: torch.Tensor, layers: range, addend: Addend | None = None
) -> torch.Tensor:
    """Residual [B, T, d] through some layers, layer by layer, so that nothing is kept without need."""
    for layer in layers:
        of_key = addend.of_key if addend is not None and addend.layer == layer else None
        residual = decoder.run(residual, [layer], addend=of_key)[0].residual
    return residual


@dataclass(frozen=True, slots=True)
class TorchModel:
    """The decoder with an edit, or unedited."""

    decoder: TorchDecoder
    vocabulary: BundleTexts
    addend: Addend | None = None

    @property
    def texts(self) -> Texts:
        """See LanguageModel."""
        return self.vocabulary

    @property
    def eos_id(self) -> int | None:
        """See LanguageModel."""
        return self.vocabulary.manifest.tokenizer.eos_id

    def decode(self, token_ids: Sequence[int]) -> str:
        """See LanguageModel."""
        return self.vocabulary.decode(token_ids)

    @torch.no_grad()
    def score(self, answers: Sequence[Answer]) -> list[AnswerScore]:
        """See LanguageModel."""
        # Answers of one token share their prompt's forward pass.
        inputs = list(dict.fromkeys(answer.input_ids for answer in answers))
        asked: dict[tuple[int, ...], list[int]] = {}
        for index, answer in enumerate(answers):
            asked.setdefault(answer.input_ids, []).append(index)
        found: dict[int, AnswerScore] = {}
        for call in cut_by_length(inputs, _POSITIONS_PER_CALL, _SEQUENCES_PER_CALL):
            final = self._final([inputs[row] for row in call])
            for row, number in enumerate(call):
                for index in asked[inputs[number]]:
                    answer = answers[index]
                    rows = slice(answer.first_row, answer.first_row + len(answer.targets))
                    log_softmax = self.decoder.log_softmax(final[row, rows])
                    targets = torch.tensor(answer.targets)
                    found[index] = AnswerScore(
                        log_probability=float(log_softmax.gather(1, targets[:, None]).double().sum()),
                        tokens=len(targets),
                        tokens_argmax=int((log_softmax.argmax(dim=1) == targets).sum()),
                    )
        return [found[index] for index in range(len(answers))]

    @torch.no_grad()
    def next_log_probabilities(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.floating[Any]]:
        """See LanguageModel."""
        found = np.empty((len(sequences), self.vocabulary.architecture.vocabulary), np.float32)
        for call in cut_by_length(sequences, _POSITIONS_PER_CALL, _SEQUENCES_PER_CALL):
            final = self._final([sequences[index] for index in call])
            last = torch.tensor([len(sequences[index]) - 1 for index in call])
            found[call] = self.decoder.log_softmax(final[torch.arange(len(call)), last]).numpy()
        return found

    def _final(self, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
        layers = range(self.vocabulary.architecture.layers)
        return forward(self.decoder, self.decoder.embed(pad(sequences)), layers, self.addend)
