"""Token sequences as batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pad(sequences: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """[B, T] int64, zeros on the right: harmless in front of causal attention."""
    padded = np.zeros((len(sequences), max(len(sequence) for sequence in sequences)), np.int64)
    for row, sequence in enumerate(sequences):
        padded[row, : len(sequence)] = sequence
    return padded
