"""Facts as token sequences, ready for gradients: whole, and as suffixes behind an exact cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from mobifarm.agent.editor import EditRecord
from mobifarm.agent.editor.tokens import Texts, pad
from mobifarm.workloads.preparation.decoder import Past, TorchDecoder


@dataclass(frozen=True, slots=True)
class Sample:
    """A rewriting prompt with its target. ``fact``: index of the fact among those that were given."""

    fact: int
    prompt_ids: Sequence[int]
    answer_ids: Sequence[int]
    subject_last: int

    @property
    def input_ids(self) -> list[int]:
        """What the model reads: the answer's last token is only predicted."""
        return [*self.prompt_ids, *self.answer_ids[:-1]]


def sample_of(texts: Texts, fact: int, record: EditRecord, prefix: str = "") -> Sample:
    """The prompt of ``record`` behind ``prefix``. Raises InputError where it cannot be tokenised."""
    prompt = prefix + record.prompt
    prompt_ids, answer_ids = texts.tokenize_prompt_and_answer(prompt, record.target_new)
    return Sample(fact, prompt_ids, answer_ids, texts.subject_last_index(prompt, record.subject))


@dataclass(frozen=True, slots=True)
class Targets:
    """Where target tokens are predicted: sample, position, token and weight in the sample's mean NLL."""

    samples: torch.Tensor
    positions: torch.Tensor
    tokens: torch.Tensor
    weights: torch.Tensor

    def nll(self, decoder: TorchDecoder, final: torch.Tensor) -> torch.Tensor:
        """Mean NLL [B] per target token from the final residual [B, T, d]."""
        scores = decoder.log_softmax(final[self.samples, self.positions])
        picked = scores.gather(1, self.tokens[:, None])[:, 0]
        return torch.zeros(len(final)).index_add(0, self.samples, -picked * self.weights)


def targets_of(samples: Sequence[Sample], *, from_subject: bool) -> Targets:
    """Targets of whole sequences, or with positions counted from the subject's last token."""
    entries = [
        (row, len(s.prompt_ids) - 1 + step - s.subject_last * from_subject, token, 1 / len(s.answer_ids))
        for row, s in enumerate(samples)
        for step, token in enumerate(s.answer_ids)
    ]
    rows, positions, tokens, weights = zip(*entries, strict=True)
    return Targets(torch.tensor(rows), torch.tensor(positions), torch.tensor(tokens), torch.tensor(weights))


@dataclass(frozen=True, slots=True)
class Suffixes:
    """Samples from the subject's last token on, above one layer.

    Attributes:
        layer: l.
        state: [B, S, w] of layer l, see TorchDecoder.leave.
        pasts: keys and values of the tokens before, of the layers above l.
        past_lengths: [B].
        keys: [B, f] input of layer l's ``down_proj`` at the subject's last token.
        values: [B, d] its output.
        targets: positions count from the subject's last token.
    """

    layer: int
    state: torch.Tensor
    pasts: Sequence[Past]
    past_lengths: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    targets: Targets

    def final_residual(self, decoder: TorchDecoder, deltas: torch.Tensor) -> torch.Tensor:
        """[B, S, d] after the last layer with ``deltas`` [B, d] at the subject's last token."""
        added = functional.pad(deltas, (0, self.state.shape[2] - deltas.shape[1]))
        state = torch.cat([self.state[:, :1] + added[:, None], self.state[:, 1:]], dim=1)
        residual = decoder.leave(self.layer, state)
        layers = range(self.layer + 1, decoder.architecture.layers)
        outputs = decoder.run(residual, layers, pasts=self.pasts, past_lengths=self.past_lengths)
        return outputs[-1].residual


def suffixes_of(decoder: TorchDecoder, samples: Sequence[Sample], layer: int) -> Suffixes:
    """Compute what δ at ``layer`` does not change."""
    rows = torch.arange(len(samples))
    lasts = torch.tensor([sample.subject_last for sample in samples])
    with torch.no_grad():
        low = decoder.run(decoder.embed(pad([s.input_ids for s in samples])), range(layer + 1))[-1]
        prefix = low.residual[:, : max(1, int(lasts.max()))]
        pasts = [out.past for out in decoder.run(prefix, range(layer + 1, decoder.architecture.layers))]
        lengths = [len(s.input_ids) - s.subject_last for s in samples]
        state = torch.zeros(len(samples), max(lengths), low.state.shape[2])
        for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
            start = sample.subject_last
            state[row, :length] = low.state[row, start : start + length]
    return Suffixes(
        layer,
        state,
        pasts,
        lasts,
        low.key[rows, lasts],
        low.value[rows, lasts],
        targets_of(samples, from_subject=True),
    )
