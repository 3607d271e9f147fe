"""What was learned once for a model and came with its bundle; see docs/editor-preparation.md.

A bundle that was not prepared edits with C = I and without a surrogate. The tensors are mapped into memory,
not read; their file is among those that the bundle's check covers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mobifarm.agent.editor.bundle_files import MappedTensors
from mobifarm.agent.editor.directions import FloatArray
from mobifarm.agent.editor.manifest import Manifest, prepared_tensors
from mobifarm.agent.editor.settings import PreparedPart
from mobifarm.agent.editor.write_back import shared_edit_key

if TYPE_CHECKING:
    from mobifarm.agent.editor.bundle import Bundle

# The probable tokens carry the gradient; the others are left out of its sum.
_TOKENS_KEPT = 256
# What is mapped as f16 is widened piece by piece.
_ROWS_WIDENED = 256
_REFINEMENTS = 8
# The key is used in single precision.
_PRECISION = 1e-7


@dataclass(frozen=True, slots=True)
class InverseSecondMoment:
    """C⁻¹ as an operator: ``inverse @ key``, for C = diag(diagonal) + factor·factorᵀ.

    Attributes:
        diagonal: [f] > 0.
        factor: [f, r].
        core: [r, r] (I + factorᵀ·diag(diagonal)⁻¹·factor)⁻¹, so that no system is solved on the phone.
    """

    diagonal: FloatArray
    factor: FloatArray
    core: FloatArray

    def __matmul__(self, keys: FloatArray) -> FloatArray:
        """C⁻¹·keys float64 for one key [f] or for columns [f, n], by Woodbury's identity.

        What the core's single precision leaves is refined away in double.
        """
        wanted = np.asarray(keys, np.float64)
        diagonal = np.asarray(self.diagonal, np.float64)
        if wanted.ndim > 1:
            diagonal = diagonal[:, None]
        found, rest = np.zeros_like(wanted), wanted
        for _ in range(_REFINEMENTS):
            scaled = rest / diagonal
            weights = self.core @ self._transposed_product(scaled).astype(np.float32)
            found += scaled - self._product(weights.astype(np.float64)) / diagonal
            rest = wanted - diagonal * found - self._product(self._transposed_product(found))
            if np.linalg.norm(rest) <= _PRECISION * np.linalg.norm(wanted):
                break
        return found

    def _product(self, vectors: FloatArray) -> FloatArray:
        parts = [self.factor[rows].astype(np.float64) @ vectors for rows in _chunks(len(self.factor))]
        return np.concatenate(parts)

    def _transposed_product(self, vectors: FloatArray) -> FloatArray:
        product = np.zeros((self.factor.shape[1], *vectors.shape[1:]))
        for rows in _chunks(len(self.factor)):
            product += self.factor[rows].astype(np.float64).T @ vectors[rows]
        return product


@dataclass(frozen=True, slots=True)
class Surrogate:
    """A linear guess of dL/dδ from what the same forward pass gives anyway.

    Gradients turn while δ grows, so that there is one map for δ = 0 and one for the way from there.

    Attributes:
        weights: [7d, d]: 3d rows for δ = 0, then 4d rows for δ ≠ 0, see :func:`surrogate_inputs`.
        final_norm: [d] weight of the model's last norm.
        epsilon: constant of that norm.
        logit_softcap: logits z become c·tanh(z/c); None for none.
    """

    weights: FloatArray
    final_norm: FloatArray
    epsilon: float
    logit_softcap: float | None = None

    def predict(
        self,
        output_gradients: FloatArray,
        final_residuals: FloatArray,
        subject_residuals: FloatArray,
        deltas: FloatArray,
    ) -> FloatArray:
        """Guesses [B, d] float64 of the direction of dL/dδ; their length, 1 at most on average, tells how
        sure they are.

        Args:
            output_gradients: [B, d], see :func:`output_gradients`; mean over the target's tokens.
            final_residuals: [B, d] before the last norm where the target's first token is predicted.
            subject_residuals: [B, d] to which δ is added at the subject's last token, without δ.
            deltas: [B, d] where the gradient is wanted.
        """
        inputs = surrogate_inputs(output_gradients, final_residuals, subject_residuals, deltas)
        guesses = np.zeros((len(inputs), self.weights.shape[1]))
        for rows in _chunks(len(self.weights)):
            if not inputs[:, rows].any():
                continue  # half of the inputs are zeros
            guesses += inputs[:, rows].astype(np.float32) @ self.weights[rows].astype(np.float32)
        return guesses


def surrogate_inputs(
    output_gradients: FloatArray,
    final_residuals: FloatArray,
    subject_residuals: FloatArray,
    deltas: FloatArray,
) -> FloatArray:
    """The surrogate's input [B, 7d] float64: for δ = 0 three parts and zeros, else zeros and four parts.

    The parts have the length 1 (output gradient) and ½ (the residuals and δ).
    """
    parts = [
        _unit(output_gradients),
        0.5 * _unit(final_residuals),
        0.5 * _unit(subject_residuals),
    ]
    first = ~np.any(np.asarray(deltas), axis=1, keepdims=True)
    start = np.concatenate(parts, axis=1)
    path = np.concatenate([start, 0.5 * _unit(deltas)], axis=1)
    return np.concatenate([np.where(first, start, 0.0), np.where(first, 0.0, path)], axis=1)


@dataclass(frozen=True, slots=True)
class Subspace:
    """Where gradients lie that the surrogate does not foresee.

    Attributes:
        directions: [k, d] orthonormal rows, the most important first.
        variances: [k] mean squared part of a unit gradient along each, descending.
    """

    directions: FloatArray
    variances: FloatArray


@dataclass(frozen=True, slots=True)
class Prepared:
    """The extras of a bundle; None for what it does not have."""

    inverse_second_moment: InverseSecondMoment | None = None
    surrogate: Surrogate | None = None
    subspace: Subspace | None = None

    def part(self, name: PreparedPart) -> Prepared:
        """What is used of it, see settings.ForwardSettings.prepared."""
        left_out = {
            "auto": (),
            "surrogate": ("subspace",),
            "subspace": ("surrogate",),
            "second_moment": ("surrogate", "subspace"),
            "off": ("inverse_second_moment", "surrogate", "subspace"),
        }[name]
        return dataclasses.replace(self, **dict.fromkeys(left_out))

    def edit_key(self, keys: FloatArray) -> FloatArray:
        """See write_back.shared_edit_key, for keys [n, f], with the bundle's C or the identity."""
        return shared_edit_key(keys, self.inverse_second_moment)


UNPREPARED = Prepared()


def load_prepared(tensors: MappedTensors, manifest: Manifest) -> Prepared:
    """The extras of a bundle, mapped into memory.

    Raises:
        BundleError: the manifest's entry does not fit this version.
    """
    stored = prepared_tensors(manifest)
    if not stored:
        return Prepared()
    found = {name: tensors.tensor(tensor) for name, tensor in stored.items()}
    return Prepared(
        InverseSecondMoment(*(found[f"second_moment_{part}"] for part in ("diagonal", "factor", "core"))),
        Surrogate(
            found["surrogate"],
            found["final_norm"],
            manifest.architecture.rms_epsilon,
            manifest.architecture.logit_softcap,
        ),
        Subspace(found["subspace"], found["subspace_variances"]),
    )


def _chunks(rows: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS_WIDENED) for start in range(0, rows, _ROWS_WIDENED))


def output_gradients(
    bundle: Bundle,
    surrogate: Surrogate,
    log_softmax: Sequence[FloatArray],
    final_residuals: Sequence[FloatArray],
    targets: Sequence[int],
) -> list[FloatArray]:
    """Gradients of the NLL of single tokens with respect to the residual before the last norm.

    With p the softmax, γ the norm's weight and r = sqrt(mean(h²) + ε): (a − h (h·a)/(d r²)) / r for
    a = γ ∘ (Σ p W_U − W_U[target]). The sum takes the most probable tokens only. With a soft cap c every row
    of W_U counts with the slope 1 − tanh²(z/c) at its logit z.

    Args:
        bundle: the model, for rows of its output projection.
        surrogate: holds the last norm.
        log_softmax: [V] for each token.
        final_residuals: [d] h for each token.
        targets: the tokens' ids.

    Returns:
        [d] float64 for each token.
    """
    taken = []
    for values, target in zip(log_softmax, targets, strict=True):
        kept = min(_TOKENS_KEPT, len(values))
        taken.append(np.append(np.argpartition(values, -kept)[-kept:], target))
    # Read at once and in order: a row is a column of a mapped matrix, which lies on many pages.
    wanted, places = np.unique(np.concatenate(taken), return_inverse=True)
    rows = bundle.output_rows(wanted)
    found, start = [], 0
    for tokens, values, state in zip(taken, log_softmax, final_residuals, strict=True):
        stop = start + len(tokens)
        probabilities = np.exp(np.asarray(values[tokens[:-1]], np.float64))
        # Without the tail the weights must still sum to 1, to cancel the target's row where p is certain.
        weights = np.append(probabilities / probabilities.sum(), -1)
        here = np.asarray(rows[places[start:stop]], np.float64)
        found.append(_through_the_norm(surrogate, here, weights, np.asarray(state, np.float64)))
        start = stop
    return found


def _through_the_norm(
    surrogate: Surrogate, rows: FloatArray, weights: FloatArray, state: FloatArray
) -> FloatArray:
    norm = np.asarray(surrogate.final_norm, np.float64)
    square = float(np.mean(state**2)) + surrogate.epsilon
    if surrogate.logit_softcap is not None:
        logits = rows @ (norm * state / np.sqrt(square))
        weights = weights * (1 - np.tanh(logits / surrogate.logit_softcap) ** 2)
    scaled = norm * (weights @ rows)
    return np.asarray((scaled - state * (state @ scaled) / (len(state) * square)) / np.sqrt(square))


def _unit(rows: FloatArray) -> FloatArray:
    rows = np.asarray(rows, np.float64)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, np.finfo(np.float64).tiny))
