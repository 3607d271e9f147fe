"""A loaded model, whatever file it came from. Tensors have Hugging Face's names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mobifarm.agent.editor.manifest import Architecture


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model.

    Attributes:
        architecture: shape of the model.
        weight: Hugging Face name of a tensor → the tensor, f32; KeyError where there is none.
        has: whether there is a tensor of that name.
        inverse_frequencies: of the rotary position embedding, [head_dim / 2] f32.
        rotary_scaling: factor on its cosines and sines.
        tokenizer_json: tokenizer in the format of the ``tokenizers`` library.
        bos_id: first special token, if the family has one.
        eos_id: last special token, if the family has one.
        prepend_bos: whether texts start with bos.
        versions: libraries that loaded the model → version.
    """

    architecture: Architecture
    weight: Callable[[str], NDArray[np.float32]]
    has: Callable[[str], bool]
    inverse_frequencies: NDArray[np.float32]
    rotary_scaling: float
    tokenizer_json: str
    bos_id: int | None
    eos_id: int | None
    prepend_bos: bool
    versions: dict[str, str] = field(default_factory=dict)


def plain_inverse_frequencies(architecture: Architecture) -> NDArray[np.float32]:
    """Frequencies of an unscaled rotary position embedding, [head_dim / 2] f32."""
    steps = np.arange(0, architecture.head_dim, 2) / architecture.head_dim
    return (1 / architecture.rope_theta**steps).astype(np.float32)
