"""Second moments of the MLP's keys over ordinary text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mobifarm.workloads.preparation.decoder import TorchDecoder

SEQUENCE_TOKENS, BATCH = 128, 8


def second_moments(
    decoder: TorchDecoder,
    token_ids: Sequence[int],
    layers: Sequence[int],
    progress: Callable[[int, int], None],
) -> dict[int, NDArray[np.float64]]:
    """C = E[k kᵀ] [f, f] for each of ``layers`` over a text, cut into sequences of 128 tokens.

    Raises:
        ValueError: the text is shorter than one sequence.
    """
    count = len(token_ids) // SEQUENCE_TOKENS
    if count == 0:
        raise ValueError(f"the text has fewer than {SEQUENCE_TOKENS} tokens")
    rows = np.array(token_ids[: count * SEQUENCE_TOKENS]).reshape(count, SEQUENCE_TOKENS)
    size = decoder.architecture.intermediate
    sums = {layer: np.zeros((size, size)) for layer in layers}
    with torch.no_grad():
        for start in range(0, count, BATCH):
            batch = rows[start : start + BATCH]
            outputs = decoder.run(decoder.embed(batch), range(max(layers) + 1))
            for layer in layers:
                keys = outputs[layer].key.reshape(-1, size)
                sums[layer] += (keys.T @ keys).numpy()
            progress(start + len(batch), count)
    return {layer: total / rows.size for layer, total in sums.items()}
