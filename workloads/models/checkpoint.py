"""A loaded model, whatever file it came from. Tensors have Hugging Face's names.

The weights of RMS norms are what the normed states are multiplied with: where a file holds w − 1, as Gemma's
do, the 1 was added when it was read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mobifarm.agent.editor.manifest import Architecture


@dataclass(frozen=True, slots=True)
class Rotary:
    """A rotary position embedding: inverse_frequencies [head_dim / 2] f32; scaling: factor on its cosines and
    sines."""

    inverse_frequencies: NDArray[np.float32]
    scaling: float = 1.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model.

    Attributes:
        architecture: shape of the model.
        weight: Hugging Face name of a tensor → the tensor, f32; KeyError where there is none.
        has: whether there is a tensor of that name.
        rotary: position embedding.
        local_rotary: that of the local layers; the same where None.
        tokenizer_json: tokenizer in the format of the ``tokenizers`` library.
        bos_id: first special token, if the family has one.
        eos_id: last special token, if the family has one.
        prepend_bos: whether texts start with bos.
        versions: libraries that loaded the model → version.
    """

    architecture: Architecture
    weight: Callable[[str], NDArray[np.float32]]
    has: Callable[[str], bool]
    rotary: Rotary
    tokenizer_json: str
    bos_id: int | None
    eos_id: int | None
    prepend_bos: bool
    local_rotary: Rotary | None = None
    versions: dict[str, str] = field(default_factory=dict)


def plain_rotary(architecture: Architecture) -> Rotary:
    """An unscaled rotary position embedding."""
    steps = np.arange(0, architecture.head_dim, 2) / architecture.head_dim
    return Rotary((1 / architecture.rope_theta**steps).astype(np.float32))
