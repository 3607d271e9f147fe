"""Second moment, surrogate and subspace from samples. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobifarm.agent.editor.prepared import InverseSecondMoment, Subspace, Surrogate, surrogate_inputs
from mobifarm.workloads.preparation.gradients import Gradients

FloatArray = NDArray[np.floating[Any]]

LOADING = 0.01
LARGEST_RANK = 1536
SUBSPACE_SIZE = 64
# Relative to the mean square of an input; weak enough for thousands of facts, and flat around the best.
RIDGES = (0.3, 1.0, 3.0, 10.0)


def factorise(second_moment: FloatArray, rank: int = LARGEST_RANK) -> InverseSecondMoment:
    """C ≈ diag + factor·factorᵀ with the ``rank`` largest eigenvalues, and 1 % of the mean diagonal added.

    Args:
        second_moment: [f, f] E[k kᵀ].
        rank: at most f; everything is kept where it is f.
    """
    size = len(second_moment)
    values, vectors = np.linalg.eigh(np.asarray(second_moment, np.float64))
    kept = slice(max(0, size - rank), None)
    factor = vectors[:, kept] * np.sqrt(np.maximum(values[kept], 0.0))
    rest = np.maximum(np.diag(second_moment) - (factor**2).sum(axis=1), 0.0)
    loading = LOADING * float(np.trace(second_moment)) / size
    if not loading > 0:
        raise ValueError("the second moment is zero")
    return with_core((rest + loading).astype(np.float32), factor.astype(np.float16))


def with_core(diagonal: FloatArray, factor: FloatArray) -> InverseSecondMoment:
    """C⁻¹ for C = diag(diagonal [f]) + factor·factorᵀ, factor [f, r] as it is stored."""
    exact = np.asarray(factor, np.float64)
    inner = np.eye(exact.shape[1]) + exact.T @ (exact / np.asarray(diagonal, np.float64)[:, None])
    return InverseSecondMoment(diagonal, factor, np.linalg.inv(inner).astype(np.float32))


@dataclass(frozen=True, slots=True)
class Fit:
    """weights [7d, d] of the surrogate and mean cosines with true gradients on facts not used, at δ = 0 and
    on the way (None without such points)."""

    weights: FloatArray
    cosine_start: float
    cosine_path: float | None


def fit_surrogate(points: Gradients, held_out: NDArray[np.bool_], ridges: Sequence[float] = RIDGES) -> Fit:
    """Ridge regression of unit gradients on the surrogate's inputs, at δ = 0 and on the way apart.

    Args:
        points: true gradients.
        held_out: [n], rows that choose the ridge and are judged on.
        ridges: to choose from.
    """
    width = points.gradients.shape[1]
    inputs = _inputs(points)
    goals = _unit(points.gradients)
    at_start = ~points.deltas.any(axis=1)
    weights = np.zeros((7 * width, width))
    cosines: list[float | None] = []
    for rows, columns in ((at_start, slice(0, 3 * width)), (~at_start, slice(3 * width, None))):
        x, train, test = inputs[:, columns], rows & ~held_out, rows & held_out
        if not train.any() or not test.any():
            cosines.append(None)
            continue
        found = [_ridge(x[train], goals[train], ridge) for ridge in ridges]
        scores = [float((_unit(x[test] @ matrix) * goals[test]).sum(axis=1).mean()) for matrix in found]
        weights[columns] = found[int(np.argmax(scores))]
        cosines.append(max(scores))
    if cosines[0] is None:
        raise ValueError("there are no gradients at δ = 0 to learn from and to judge on")
    return Fit(weights.astype(np.float16), cosines[0], cosines[1])


def fit_subspace(points: Gradients, surrogate: Surrogate, size: int = SUBSPACE_SIZE) -> Subspace:
    """Principal directions of what the surrogate leaves of unit gradients."""
    goals = _unit(points.gradients)
    rest = goals - surrogate.predict(
        points.output_gradients, points.final_residuals, points.subject_residuals, points.deltas
    )
    values, vectors = np.linalg.eigh(rest.T @ rest / len(rest))
    order = np.argsort(values)[::-1][:size]
    return Subspace(vectors[:, order].T.astype(np.float16), values[order].astype(np.float32))


def _inputs(points: Gradients) -> FloatArray:
    return surrogate_inputs(
        points.output_gradients, points.final_residuals, points.subject_residuals, points.deltas
    ).astype(np.float32)


def _ridge(inputs: FloatArray, goals: FloatArray, ridge: float) -> FloatArray:
    gram = inputs.T @ inputs
    gram[np.diag_indices(len(gram))] += ridge * np.trace(gram) / len(gram)
    return np.asarray(np.linalg.solve(gram, inputs.T @ goals))


def _unit(rows: FloatArray) -> FloatArray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, np.finfo(np.float32).tiny))
