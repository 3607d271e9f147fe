"""The rank-one write-back of ROME (Meng et al., 2022, eq. 2) as a side input of the edited layer. Pure.

``W' k = W k + (k·edit_key) edit_value`` with ``edit_key = C⁻¹k* / (k*ᵀC⁻¹k*)`` and ``edit_value = v* − Wk*``;
W stays as it is. As published k* is the mean key over the rewriting prompts, the same in both places (r-ROME,
Gupta et al., 2024). A subject near the beginning of the text has quite another key there than behind a
prefix; then the mean key gives one prompt a fifth of the edit that another gets, and ``shared_edit_key``
serves both.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mobifarm.agent.editor.directions import FloatArray

# Of the mean diagonal of K C⁻¹ Kᵀ: keys that differ by less than some 15 % count as the same one.
RIDGE = 0.02


class LinearOperator(Protocol):
    """A matrix, or what multiplies vectors like one."""

    def __matmul__(self, vectors: FloatArray, /) -> FloatArray:
        """The product with a vector [f] or with columns [f, n]."""


def edit_key(
    mean_key: FloatArray, inverse_second_moment: LinearOperator | FloatArray | None = None
) -> FloatArray:
    """The vector whose dot product with a key tells how much of the edit that key gets; 1 for k* itself.

    Args:
        mean_key: [f] k*.
        inverse_second_moment: [f, f] C⁻¹ with C = E[k kᵀ] over ordinary text; None stands for the identity.

    Returns:
        [f] float64.

    Raises:
        ValueError: k* is zero or C⁻¹ is not positive on it.
    """
    key = np.asarray(mean_key, dtype=np.float64)
    direction = key if inverse_second_moment is None else inverse_second_moment @ key
    scale = float(key @ direction)
    if not scale > 0:
        raise ValueError(f"k*ᵀC⁻¹k* is {scale}: the key is zero or C is not positive definite")
    return np.asarray(direction / scale)


def shared_edit_key(
    keys: FloatArray, inverse_second_moment: LinearOperator | FloatArray | None = None, ridge: float = RIDGE
) -> FloatArray:
    """The edit key a that gives every prompt's key about the same share: a·k_i ≈ 1, and 1 on average.

    It minimises aᵀCa, what the keys of ordinary text get, plus Σ (a·k_i − 1)²/λ: the least squares of MEMIT
    (Meng et al., 2023, eq. 14) on the side of the keys. With λ → ∞ it is :func:`edit_key` of the mean key.

    Args:
        keys: [n, f] one for each rewriting prompt.
        inverse_second_moment: see :func:`edit_key`.
        ridge: λ in units of the mean of k_iᵀC⁻¹k_i, > 0.

    Returns:
        [f] float64.

    Raises:
        ValueError: the keys are zero, cancel each other, or C⁻¹ is not positive on them.
    """
    keys = np.asarray(keys, dtype=np.float64)
    columns = keys.T if inverse_second_moment is None else inverse_second_moment @ keys.T
    overlaps = keys @ columns
    scale = float(np.trace(overlaps)) / len(keys)
    if not scale > 0:
        raise ValueError(f"the mean of kᵀC⁻¹k is {scale}: the keys are zero or C is not positive definite")
    weights = np.linalg.solve(overlaps + ridge * scale * np.eye(len(keys)), np.ones(len(keys)))
    key = columns @ weights
    share = float((keys @ key).mean())
    if not share > 0:
        raise ValueError(f"the mean share of the keys is {share}: they cancel each other")
    return np.asarray(key / share)
