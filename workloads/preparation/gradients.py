"""True gradients of the edit loss with respect to δ, by backpropagation, with the surrogate's inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from mobifarm.agent.editor.tokens import pad
from mobifarm.workloads.preparation.decoder import TorchDecoder
from mobifarm.workloads.preparation.samples import Sample, suffixes_of, targets_of

Floats = NDArray[np.float32]

BATCH = 32
# Adam as in ROME; gradients are kept at some of its steps, where a forward-only search passes too.
LEARNING_RATE, DECAYS, ADAM_EPSILON = 0.5, (0.9, 0.999), 1e-8
NORM_LIMIT, NORM_PENALTY = 4.0, 0.05
STOP_NLL = 0.357
KEPT_STEPS = (1, 2, 4, 7)


@dataclass(frozen=True, slots=True)
class Gradients:
    """One row per point (a fact and a δ).

    Attributes:
        facts: [n] int64.
        gradients: [n, d] dL/dδ.
        output_gradients: [n, d] dL/d(final residual), summed over positions.
        final_residuals: [n, d] where the target's first token is predicted.
        subject_residuals: [n, d] to which δ is added, without δ.
        deltas: [n, d].
    """

    facts: NDArray[np.int64]
    gradients: Floats
    output_gradients: Floats
    final_residuals: Floats
    subject_residuals: Floats
    deltas: Floats

    def where(self, mask: NDArray[np.bool_]) -> Gradients:
        """Some of the rows."""
        return Gradients(*(getattr(self, field.name)[mask] for field in fields(self)))


def concatenate(parts: Sequence[Gradients]) -> Gradients:
    """All rows of all parts."""
    return Gradients(
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Gradients))
    )


def gradients_at_start(
    decoder: TorchDecoder,
    samples: Sequence[Sample],
    layers: Sequence[int],
    progress: Callable[[int, int], None],
) -> dict[int, Gradients]:
    """Gradients at δ = 0 for several layers from one backward pass: δ is added to the layers' states."""
    parts: dict[int, list[Gradients]] = {layer: [] for layer in layers}
    ordered = sorted(samples, key=lambda sample: len(sample.input_ids))
    for start in range(0, len(ordered), BATCH):
        batch = ordered[start : start + BATCH]
        # Only what lies above the lowest of the layers needs a gradient.
        with torch.no_grad():
            embedded = decoder.embed(pad([sample.input_ids for sample in batch]))
            low = decoder.run(embedded, range(min(layers) + 1))[-1].state
        states = {min(layers): low.requires_grad_()}
        residual = decoder.leave(min(layers), low)
        outputs = decoder.run(residual, range(min(layers) + 1, decoder.architecture.layers))
        states |= {min(layers) + 1 + index: out.state for index, out in enumerate(outputs)}
        targets = targets_of(batch, from_subject=False)
        final = outputs[-1].residual
        wanted = [states[layer] for layer in layers]
        *slopes, last = torch.autograd.grad(targets.nll(decoder, final).sum(), [*wanted, final])
        rows = torch.arange(len(batch))
        subject = torch.tensor([sample.subject_last for sample in batch])
        first = torch.tensor([len(sample.prompt_ids) - 1 for sample in batch])
        facts, width = np.array([sample.fact for sample in batch]), final.shape[2]
        for layer, slope, state in zip(layers, slopes, wanted, strict=True):
            parts[layer].append(
                Gradients(
                    facts,
                    _array(slope[rows, subject, :width]),
                    _array(last.sum(dim=1)),
                    _array(final[rows, first]),
                    _array(state[rows, subject, :width]),
                    np.zeros((len(batch), width), np.float32),
                )
            )
        progress(start + len(batch), len(ordered))
    return {layer: concatenate(found) for layer, found in parts.items()}


@dataclass(frozen=True, slots=True)
class Search:
    """Result of :func:`search`: deltas [B, d], keys [B, f], values [B, d], steps [B], converged [B]; path:
    gradients at the kept steps, δ = 0 left out."""

    deltas: torch.Tensor
    keys: torch.Tensor
    steps: NDArray[np.int64]
    converged: NDArray[np.bool_]
    path: Gradients | None


def search(decoder: TorchDecoder, samples: Sequence[Sample], layer: int, *, step_limit: int) -> Search:
    """ROME's search of δ by backpropagation with the exact cache, for many facts at once, one prompt each."""
    suffixes = suffixes_of(decoder, samples, layer)
    lengths = suffixes.values.norm(dim=1, keepdim=True)
    firsts = torch.tensor([len(s.prompt_ids) - 1 - s.subject_last for s in samples])
    rows, facts = torch.arange(len(samples)), np.array([sample.fact for sample in samples])
    deltas = torch.zeros_like(suffixes.values)
    mean, square = torch.zeros_like(deltas), torch.zeros_like(deltas)
    done = torch.zeros(len(samples), dtype=torch.bool)
    steps = torch.zeros(len(samples), dtype=torch.int64)
    path: list[Gradients] = []
    for step in range(step_limit + 1):
        point = deltas.clone().requires_grad_()
        final = suffixes.final_residual(decoder, point)
        nll = suffixes.targets.nll(decoder, final)
        done = done | (nll.detach() < STOP_NLL)
        if step == step_limit or bool(done.all()):
            break
        slope, last = torch.autograd.grad(nll.sum(), [point, final])
        if step in KEPT_STEPS:
            kept = (~done).numpy()
            path.append(
                Gradients(
                    facts,
                    _array(slope),
                    _array(last.sum(dim=1)),
                    _array(final[rows, firsts]),
                    _array(suffixes.state[:, 0, : final.shape[2]]),
                    _array(deltas),
                ).where(kept)
            )
        slope = slope + 2 * NORM_PENALTY * deltas / lengths**2
        mean = DECAYS[0] * mean + (1 - DECAYS[0]) * slope
        square = DECAYS[1] * square + (1 - DECAYS[1]) * slope**2
        spread = (square / (1 - DECAYS[1] ** (step + 1))).sqrt() + ADAM_EPSILON
        moved = deltas - LEARNING_RATE * mean / (1 - DECAYS[0] ** (step + 1)) / spread
        moved = moved * torch.clamp(NORM_LIMIT * lengths / moved.norm(dim=1, keepdim=True), max=1)
        deltas = torch.where(done[:, None], deltas, moved)
        steps += ~done
    found = concatenate(path) if path else None
    return Search(deltas.detach(), suffixes.keys, steps.numpy(), done.numpy(), found)


def _array(tensor: torch.Tensor) -> Floats:
    array: Floats = tensor.detach().numpy().astype(np.float32)
    return array
