"""The loss of δ as MobiEdit takes it: whole sequences, δ added in full at each subject's last token.

``contexts.ContextLoss`` is the other one: with the exact cache, and with each context's share of the edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mobifarm.agent.editor.contexts import TokenizedContext
from mobifarm.agent.editor.directions import FloatArray
from mobifarm.agent.editor.forward import Losses
from mobifarm.agent.editor.settings import MobiEditSettings
from mobifarm.agent.editor.tokens import pad
from mobifarm.agent.editor.types import EditCost
from mobifarm.agent.editor.write_back import edit_key

if TYPE_CHECKING:
    from mobifarm.agent.editor.bundle import Bundle, Cache, EditPair, Floats, UpperOutput

# Three tokens of SmolLM2 and a full stop each. ROME lets the model write them; with fixed ones runs compare.
MOBIEDIT_PREFIXES = (
    "",
    "The first time. ",
    "Therefore, the. ",
    "Because it is. ",
    "I am not. ",
    "You can also. ",
)


@dataclass(slots=True)
class _Sequence:
    """One sequence; ``held`` positions come out of ``cache`` where there is one.

    ``residual`` [1, T, w] is the unedited one, see LowerOutput.
    """

    input_ids: Sequence[int]
    subject_last: int
    rows: Sequence[int]
    targets: Sequence[int]
    residual: Floats
    held: int
    cache: Cache | None = None


class SequenceLoss:
    """The oracle of one edit: mean NLL per target token over the rewriting prompts, plus the weighted
    KL(edited ‖ unedited) of the next token after "{subject} is a".

    Args:
        bundle: the model.
        contexts: the rewriting prompts.
        essence: tokens of "{subject} is a" and the index of the subject's last token.
        settings: weight of the KL divergence, and which cache.
        cost: loss_evaluations and token_layers are counted here.
        held: edits that the model has already.

    Attributes:
        edit_key: [f] left vector of the write-back, with C = I as published.
        value_norm: ‖v0‖, v0 = W k at the subject of the first rewriting prompt.
    """

    def __init__(
        self,
        bundle: Bundle,
        contexts: Sequence[TokenizedContext],
        essence: tuple[Sequence[int], int],
        settings: MobiEditSettings,
        cost: EditCost,
        held: EditPair | None = None,
    ) -> None:
        self._bundle, self._settings, self._cost, self._held = bundle, settings, cost, held
        essence_ids, essence_last = essence
        tokens = pad([*(context.input_ids for context in contexts), essence_ids])
        low = bundle.lower(tokens, held)
        cost.token_layers += tokens.size * (bundle.edit_layer + 1)
        count = np.arange(len(contexts))
        lasts = np.array([context.subject_last for context in contexts])
        self.edit_key = edit_key(low.key[count, lasts].astype(np.float64).mean(axis=0))
        self.value_norm = float(np.linalg.norm(low.value[0, lasts[0]].astype(np.float64)))
        self._contexts = [
            self._sequence(
                context.input_ids,
                context.subject_last,
                range(len(context.prompt_ids) - 1, len(context.input_ids)),
                context.answer_ids,
                low.residual[index : index + 1],
            )
            for index, context in enumerate(contexts)
        ]
        self._essence = self._sequence(
            essence_ids, essence_last, [len(essence_ids) - 1], [0], low.residual[-1:]
        )
        nothing = np.zeros((1, bundle.architecture.hidden))
        self._essence_before = self._vocabulary(nothing, fresh=True)
        if settings.cache == "exact":
            self._fill(nothing[0])

    def evaluate(self, deltas: FloatArray, *, fresh: bool) -> Losses:
        """See mobiedit.SequenceOracle."""
        target = np.zeros(len(deltas))
        for sequence in self._contexts:
            out = self._run(sequence, deltas, fresh)
            target -= out.log_probabilities.astype(np.float64).mean(axis=1) / len(self._contexts)
        after = self._vocabulary(deltas, fresh)
        drift = (np.exp(after) * (after - self._essence_before)).sum(axis=1)
        self._cost.loss_evaluations += len(deltas)
        return Losses(target + self._settings.kl_weight * drift, target)

    def refresh(self, delta: FloatArray) -> None:
        """See mobiedit.SequenceOracle."""
        if self._settings.cache == "stale":
            self._fill(delta)

    def _sequence(
        self,
        input_ids: Sequence[int],
        subject_last: int,
        rows: Sequence[int],
        targets: Sequence[int],
        residual: Floats,
    ) -> _Sequence:
        held = {
            "none": 0,
            # A position whose prediction is asked for cannot be held.
            "stale": min(self._settings.held_positions, rows[0]),
            "exact": subject_last,
        }[self._settings.cache]
        return _Sequence(input_ids, subject_last, rows, targets, residual[:, : len(input_ids)], held)

    def _fill(self, delta: FloatArray) -> None:
        for sequence in [*self._contexts, self._essence]:
            residual = _with_delta(sequence.residual, sequence.subject_last, delta[None])
            sequence.cache = self._bundle.fill_cache(residual[:, : sequence.held])
            self._cost.token_layers += sequence.held * self._bundle.upper_layers

    def _vocabulary(self, deltas: FloatArray, fresh: bool) -> FloatArray:
        """Log-probabilities [B, V] float64 of the next token after "{subject} is a"."""
        out = self._run(self._essence, deltas, fresh, with_log_softmax=True)
        assert out.log_softmax is not None
        return out.log_softmax[:, 0].astype(np.float64)

    def _run(
        self, sequence: _Sequence, deltas: FloatArray, fresh: bool, *, with_log_softmax: bool = False
    ) -> UpperOutput:
        bundle, batch = self._bundle, len(deltas)
        # The exact cache is never stale.
        cached = sequence.cache is not None and (self._settings.cache == "exact" or not fresh)
        held = sequence.held if cached else 0
        layers = bundle.upper_layers
        if cached:
            residual = sequence.residual
        else:
            # Published: every evaluation is the whole model on the whole sequence.
            residual = bundle.lower(np.repeat([sequence.input_ids], batch, axis=0), self._held).residual
            layers += bundle.edit_layer + 1
        residual = _with_delta(residual, sequence.subject_last, deltas)[:, held:]
        self._cost.token_layers += batch * residual.shape[1] * layers
        return bundle.upper(
            residual,
            sequence.cache if cached else None,
            np.zeros((batch, bundle.architecture.hidden), np.float32),
            [row - held for row in sequence.rows],
            sequence.targets,
            with_log_softmax=with_log_softmax,
        )


def _with_delta(residual: Floats, position: int, deltas: FloatArray) -> Floats:
    """[B, T, w]: the residual [1 or B, T, w] with each δ of [B, d] added at one position."""
    edited = np.repeat(residual, len(deltas) // len(residual), axis=0)
    edited[:, position, : deltas.shape[1]] += deltas.astype(np.float32)
    return edited
