"""The rank-one write-back of ROME (Meng et al., 2022, eq. 2) as a side input of the edited layer. Pure.

``W' k = W k + (k·edit_key) edit_value`` with ``edit_key = C⁻¹k* / (k*ᵀC⁻¹k*)`` and ``edit_value = v* − Wk*``;
W stays as it is. k* is the mean key over the rewriting prompts, the same in both places (r-ROME, Gupta et
al., 2024).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mobifarm.agent.editor.directions import FloatArray


class LinearOperator(Protocol):
    """A matrix, or what multiplies a vector like one."""

    def __matmul__(self, vector: FloatArray, /) -> FloatArray:
        """The product with a vector."""


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
