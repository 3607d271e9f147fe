"""A model with random weights and one token per byte: small enough for the whole path to run in a second."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mobifarm.agent.editor.manifest import Architecture
from mobifarm.workloads.models.checkpoint import Checkpoint, plain_rotary

TINY_ARCHITECTURE = Architecture(
    family="llama",
    layers=4,
    hidden=64,
    heads=4,
    key_value_heads=2,
    head_dim=16,
    intermediate=128,
    vocabulary=256,
    rope_theta=10_000.0,
    rms_epsilon=1e-5,
    tied=True,
    max_positions=512,
)


def tiny_checkpoint(seed: int) -> Checkpoint:
    """Weights drawn with ``seed``; needs neither torch nor a network."""
    a = TINY_ARCHITECTURE
    random = np.random.default_rng(seed)

    def normal(rows: int, columns: int, scale: float) -> NDArray[np.float32]:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    weights = {"model.embed_tokens.weight": normal(a.vocabulary, a.hidden, 0.3)}
    shapes = {
        "self_attn.q_proj": (a.heads * a.head_dim, a.hidden),
        "self_attn.k_proj": (a.key_value_heads * a.head_dim, a.hidden),
        "self_attn.v_proj": (a.key_value_heads * a.head_dim, a.hidden),
        "self_attn.o_proj": (a.hidden, a.heads * a.head_dim),
        "mlp.gate_proj": (a.intermediate, a.hidden),
        "mlp.up_proj": (a.intermediate, a.hidden),
        "mlp.down_proj": (a.hidden, a.intermediate),
    }
    for layer in range(a.layers):
        for name, (rows, columns) in shapes.items():
            weights[f"model.layers.{layer}.{name}.weight"] = normal(rows, columns, columns**-0.5)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = np.ones(a.hidden, np.float32)
    # Small, so that no token starts out certain.
    weights["model.norm.weight"] = np.full(a.hidden, 0.25, np.float32)
    return Checkpoint(
        architecture=a,
        weight=weights.__getitem__,
        has=weights.__contains__,
        rotary=plain_rotary(a),
        tokenizer_json=_byte_tokenizer(a.vocabulary),
        bos_id=None,
        eos_id=None,
        prepend_bos=False,
    )


def _byte_tokenizer(vocabulary: int) -> str:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    assert len(letters) == vocabulary
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text: str = tokenizer.to_str()
    return text
