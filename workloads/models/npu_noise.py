"""How much rounding the quantised graphs add to a loss: what a search must see through to find slopes.

Static scales make it the same wherever the search is. It is measured once, when the graphs are written: what
the losses of a wrong word differ by, along random directions, from those of the bundle's other graphs. What
they all differ by does not matter for slopes and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mobifarm.agent.editor.directions import FloatArray, orthonormal_directions
from mobifarm.agent.editor.npu import AcceleratedBundle

# In units of ‖v0‖, as long as the editor's default: shorter changes may round to nothing.
_LENGTH = 0.5
_DIRECTIONS = 8


def loss_noise(bundle: AcceleratedBundle, texts: Sequence[str]) -> float:
    """Standard deviation of the rounding in one loss, nats; that of the other graphs is in it.

    Args:
        bundle: with its quantised graphs attached.
        texts: of each, the word in the middle is changed and the last word of the next one is asked for.
    """
    random = np.random.default_rng(0)
    tokens = [bundle.tokenize(text) for text in texts]
    variances = []
    for index, own in enumerate(tokens):
        low = bundle.lower(np.array([own]))
        at = len(own) // 2
        cache = bundle.fill_cache(low.residual[:, :at])
        unit = float(np.linalg.norm(low.value[0, at]))
        directions = orthonormal_directions(random, _DIRECTIONS, low.value.shape[2])
        deltas = (_LENGTH * unit * directions).astype(np.float32)
        # The last token is a full stop, the one before it the answer.
        row, target = len(own) - 3 - at, tokens[(index + 1) % len(tokens)][-2]

        def losses() -> FloatArray:
            out = bundle.upper(low.residual[:, at:], cache, deltas, [row], [target])  # noqa: B023
            return -out.log_probabilities[:, 0].astype(np.float64)

        exact = losses()
        with bundle.on_accelerator():
            variances.append(np.var(losses() - exact, ddof=1))
    return float(np.sqrt(np.mean(variances)))
