"""Model folders in the shapes of large models, with random weights: nothing is downloaded.

Weights are written layer by layer, each layer a file of its own, so that a folder may be larger than memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, processors

# As in the config.json of the models of these names.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-3b-shape": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "max_position_embeddings": 32768,
        "num_attention_heads": 16,
        "num_hidden_layers": 36,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151_936,
    },
    "llama-3.2-3b-shape": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 131_072,
        "num_attention_heads": 24,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
        },
        "rope_theta": 500_000.0,
        "tie_word_embeddings": True,
        "vocab_size": 128_256,
    },
    "tiny-shape": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 128,
        "max_position_embeddings": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "vocab_size": 320,
    },
}
# Texts of Llama 3 begin with a token of their own.
BEGINS_WITH_BOS = ("llama",)
_DEVIATION = 0.02  # of the weights of both families before they are trained

Tensors = Mapping[str, NDArray[np.float16]]


def write_model(
    folder: Path, shape: Mapping[str, Any], tokenizer_json: str, progress: Callable[[int, int], None]
) -> int:
    """Write a Hugging Face folder of that shape; files that are there already stay.

    Args:
        folder: made where it is missing.
        shape: what its config.json says.
        tokenizer_json: a byte-level BPE tokenizer, which is padded to the shape's vocabulary.
        progress: told how many files of how many are written.

    Returns:
        Number of parameters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, details = _grown_tokenizer(tokenizer_json, shape)
    (folder / "config.json").write_text(json.dumps({**shape, "torch_dtype": "float16"}, indent=1))
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(details))
    parts = list(_parts(shape))
    weight_map: dict[str, str] = {}
    parameters = 0
    for number, sizes in enumerate(parts):
        name = f"model-{number + 1:05}-of-{len(parts):05}.safetensors"
        weight_map |= dict.fromkeys(sizes, name)
        parameters += sum(int(np.prod(size)) for size in sizes.values())
        if not (folder / name).exists():
            unfinished = folder / f".{name}"
            save_file(_drawn(sizes, seed=number), unfinished)
            os.replace(unfinished, folder / name)
        progress(number + 1, len(parts))
    index = {"metadata": {"total_size": 2 * parameters}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return parameters


def _parts(shape: Mapping[str, Any]) -> Iterator[dict[str, tuple[int, ...]]]:
    """The tensors of each file: name → size."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    head = shape.get("head_dim") or hidden // shape["num_attention_heads"]
    queries, keys = shape["num_attention_heads"] * head, shape["num_key_value_heads"] * head
    yield {"model.embed_tokens.weight": (shape["vocab_size"], hidden)}
    for layer in range(shape["num_hidden_layers"]):
        sizes: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj.weight": (queries, hidden),
            "self_attn.k_proj.weight": (keys, hidden),
            "self_attn.v_proj.weight": (keys, hidden),
            "self_attn.o_proj.weight": (hidden, queries),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
        }
        if shape["model_type"] == "qwen2":
            sizes |= {
                f"self_attn.{part}_proj.bias": (size,)
                for part, size in zip("qkv", (queries, keys, keys), strict=True)
            }
        yield {f"model.layers.{layer}.{name}": size for name, size in sizes.items()}
    yield {"model.norm.weight": (hidden,)}


def _drawn(sizes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, NDArray[np.float16]]:
    generator = np.random.default_rng(seed)
    drawn = {}
    for name, size in sizes.items():
        if name.endswith("norm.weight"):
            drawn[name] = np.ones(size, np.float16)
        else:
            values = generator.standard_normal(size, np.float32)
            values *= _DEVIATION
            drawn[name] = values.astype(np.float16)
    return drawn


def _grown_tokenizer(tokenizer_json: str, shape: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The tokenizer with as many tokens as the shape has, and its tokenizer_config.json.

    The made-up tokens are a digit with another token behind it. Tokenizers of this kind take every digit
    alone, so no text has them: they cost the memory that a vocabulary of this size costs, and texts keep
    their tokens.
    """
    raw = json.loads(tokenizer_json)
    vocabulary, merges = raw["model"]["vocab"], raw["model"]["merges"]
    used = set(vocabulary.values()) | {token["id"] for token in raw["added_tokens"]}
    free = iter(sorted(set(range(shape["vocab_size"])) - used))
    plain = [token for token in vocabulary if not any(letter.isdigit() for letter in token)]
    pairs = ((digit, token) for digit in "0123456789" for token in plain if digit + token not in vocabulary)
    for place, (digit, token) in zip(free, pairs, strict=False):
        vocabulary[digit + token] = place
        merges.append([digit, token])
    tokenizer = Tokenizer.from_str(json.dumps(raw))
    details = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if shape["model_type"] in BEGINS_WITH_BOS:
        bos = tokenizer.id_to_token(0)
        details["bos_token"] = bos
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, 0)]
        )
    text: str = tokenizer.to_str()
    return text, details
