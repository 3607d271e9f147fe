"""Int8 weights. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def quantise_rows(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 with one scale per row (output channel).

    Args:
        weight: [N, K] f32.

    Returns:
        values [N, K] int8 in −127…127 and scales [N] f32, so that ``values * scales[:, None] ≈ weight``.
    """
    scales = np.abs(weight).max(axis=1) / np.float32(127)
    # A row this small is zero to the model, and a subnormal scale would lose its digits.
    scales[scales < np.finfo(np.float32).tiny] = 1
    values = np.rint(weight / scales[:, None]).astype(np.int8)
    return values, scales.astype(np.float32)
