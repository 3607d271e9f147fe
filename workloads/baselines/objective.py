"""ROME's loss of a change of the subject's value, differentiable, computed in full or from the exact cache.

Both give the same loss and the same gradient; they differ in what a step costs. Costs are counted in the
units of EditCost: a backward pass counts as two forward passes of the tokens × layers that it goes through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

from mobifarm.agent.editor.contexts import ESSENCE_PROMPT, TokenizedContext, tokenize_contexts
from mobifarm.agent.editor.tokens import Texts, pad
from mobifarm.agent.editor.types import EditCost, EditRecord
from mobifarm.workloads.baselines.torch_model import forward
from mobifarm.workloads.preparation.decoder import Past, TorchDecoder

BACKWARD_FORWARDS = 2


@dataclass(frozen=True, slots=True)
class Sequences:
    """The rewriting prompts with the answer, and last "{subject} is a".

    Attributes:
        contexts: the rewriting prompts.
        token_ids: [n + 1, T] int64, padded on the right.
        lasts: [n + 1] index of the subject's last token.
    """

    contexts: Sequence[TokenizedContext]
    token_ids: np.ndarray
    lasts: torch.Tensor
    essence_length: int


def sequences_of(texts: Texts, record: EditRecord, contexts: int) -> Sequences:
    """Tokens of an edit; raises InputError as contexts.tokenize_contexts."""
    rewriting = tokenize_contexts(texts, record, contexts)
    prompt = ESSENCE_PROMPT.format(record.subject)
    essence = texts.tokenize(prompt)
    lasts = [context.subject_last for context in rewriting]
    lasts.append(texts.subject_last_index(prompt, record.subject))
    tokens = pad([*(context.input_ids for context in rewriting), essence])
    return Sequences(rewriting, tokens, torch.tensor(lasts), len(essence))


class Objective(Protocol):
    """NLL + weighted KL divergence as functions of δ, added at the subject's last token of every sequence.

    Attributes:
        keys: [n, f] input of ``down_proj`` at the subject's last token of every rewriting prompt.
        value: [d] its output in the first, v0.
    """

    keys: torch.Tensor
    value: torch.Tensor

    def losses(self, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean NLL per target token over the rewriting prompts, and KL(edited ‖ unedited) of the next token
        after "{subject} is a". The first call must be with δ = 0: it remembers the unedited distribution."""

    def count_backward(self) -> None:
        """Count the backward pass of the last call of :meth:`losses`."""


class FullObjective:
    """Every call runs the whole model on the whole sequences, as published."""

    def __init__(self, decoder: TorchDecoder, layer: int, sequences: Sequences, cost: EditCost) -> None:
        self._decoder, self._layer, self._sequences, self._cost = decoder, layer, sequences, cost
        self._upper = range(layer + 1, decoder.architecture.layers)
        self._read_out = _ReadOut(decoder, sequences, torch.zeros_like(sequences.lasts))
        _, self.keys, self.value = _lower(decoder, layer, sequences)
        cost.token_layers += sequences.token_ids.size * (layer + 1)

    def losses(self, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See Objective."""
        state, _, _ = _lower(self._decoder, self._layer, self._sequences)
        at_subject = functional.one_hot(self._sequences.lasts, state.shape[1]).to(state.dtype)
        residual = self._decoder.leave(self._layer, _with_delta(state, at_subject, delta))
        final = forward(self._decoder, residual, self._upper)
        self._cost.loss_evaluations += 1
        self._cost.token_layers += self._sequences.token_ids.size * self._decoder.architecture.layers
        return self._read_out.losses(final)

    def count_backward(self) -> None:
        """See Objective. Nothing below the edited layer needs a gradient."""
        self._cost.loss_evaluations += BACKWARD_FORWARDS
        self._cost.token_layers += BACKWARD_FORWARDS * self._sequences.token_ids.size * len(self._upper)


class CachedObjective:
    """Tokens before the subject's last one and all layers up to the edited one are computed once."""

    def __init__(self, decoder: TorchDecoder, layer: int, sequences: Sequences, cost: EditCost) -> None:
        self._decoder, self._layer, self._cost = decoder, layer, cost
        lasts = sequences.lasts
        self._upper = range(layer + 1, decoder.architecture.layers)
        state, self.keys, self.value = _lower(decoder, layer, sequences)
        lengths = [*(len(context.input_ids) for context in sequences.contexts), sequences.essence_length]
        longest = max(length - int(last) for length, last in zip(lengths, lasts, strict=True))
        positions = (lasts[:, None] + torch.arange(longest)).clamp(max=state.shape[1] - 1)
        self._suffix = torch.take_along_dim(state, positions[..., None], dim=1)
        self._lasts, self._pasts = lasts, None
        prefix = int(lasts.max())
        if prefix:
            with torch.no_grad():
                outputs = decoder.run(decoder.leave(layer, state[:, :prefix]), self._upper)
            self._pasts = [Past(out.past.key.clone(), out.past.value.clone()) for out in outputs]
        self._read_out = _ReadOut(decoder, sequences, lasts)
        size = sequences.token_ids.shape
        cost.token_layers += size[0] * (size[1] * (layer + 1) + prefix * len(self._upper))

    def losses(self, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See Objective."""
        first = functional.one_hot(torch.tensor(0), self._suffix.shape[1]).to(self._suffix.dtype)
        residual = self._decoder.leave(self._layer, _with_delta(self._suffix, first, delta))
        pasts = self._pasts
        for number, layer in enumerate(self._upper):
            residual = self._decoder.run(
                residual,
                [layer],
                pasts=None if pasts is None else [pasts[number]],
                past_lengths=None if pasts is None else self._lasts,
            )[0].residual
        self._cost.loss_evaluations += 1
        self._cost.token_layers += self._pass_token_layers
        return self._read_out.losses(residual)

    def count_backward(self) -> None:
        """See Objective."""
        self._cost.loss_evaluations += BACKWARD_FORWARDS
        self._cost.token_layers += BACKWARD_FORWARDS * self._pass_token_layers

    @property
    def _pass_token_layers(self) -> int:
        return self._suffix.shape[0] * self._suffix.shape[1] * len(self._upper)


class _ReadOut:
    """Losses from the final residual, whose sequences start ``offsets`` tokens late."""

    def __init__(self, decoder: TorchDecoder, sequences: Sequences, offsets: torch.Tensor) -> None:
        self._decoder = decoder
        count = len(sequences.contexts)
        answer = sequences.contexts[0].answer_ids
        self._rows = torch.tensor(
            [
                [len(context.prompt_ids) - 1 - int(offset) + i for i in range(len(answer))]
                for context, offset in zip(sequences.contexts, offsets[:count], strict=True)
            ]
        )
        self._targets = torch.tensor([list(context.answer_ids) for context in sequences.contexts])
        self._essence_row = sequences.essence_length - 1 - int(offsets[-1])
        self._before: torch.Tensor | None = None

    def losses(self, final: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = torch.take_along_dim(final[:-1], self._rows[..., None], dim=1)
        log_softmax = self._decoder.log_softmax(states)
        nll = -log_softmax.gather(2, self._targets[..., None]).mean()
        after = self._decoder.log_softmax(final[-1, self._essence_row])
        if self._before is None:
            self._before = after.detach()
        return nll, (after.exp() * (after - self._before)).sum()


@torch.no_grad()
def _lower(
    decoder: TorchDecoder, layer: int, sequences: Sequences
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """State [n + 1, T, w] of the edited layer, keys [n, f] and v0 [d] at the subject's last token."""
    residual = forward(decoder, decoder.embed(sequences.token_ids), range(layer))
    out = decoder.run(residual, [layer])[0]
    rewriting = torch.arange(len(sequences.contexts))
    keys = out.key[rewriting, sequences.lasts[:-1]]
    return out.state, keys, out.value[0, sequences.lasts[0]].clone()


def _with_delta(state: torch.Tensor, where: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """[n, T, w]: the state with δ [d] where ``where`` [..., T] is 1."""
    return state + where[..., None] * functional.pad(delta, (0, state.shape[2] - len(delta)))
