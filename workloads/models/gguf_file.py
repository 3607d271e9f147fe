"""Models of the Llama family in a GGUF file, read with the ``gguf`` library alone.

transformers can read these files too, but parses the header three times over and takes ten times as long; it
stays the reference in the tests.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobifarm.agent.editor.manifest import Architecture
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.checkpoint import Checkpoint, plain_rotary

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL_TOKEN = 3


def load_gguf(path: Path, *, max_positions: int) -> Checkpoint:
    """The model in the file ``path``.

    Raises:
        WorkloadInputError: it is of another kind, or cannot be read.
    """
    model = _GgufModel(path, max_positions)
    return Checkpoint(
        architecture=model.architecture,
        weight=model.weight,
        has=model.has,
        rotary=plain_rotary(model.architecture),
        tokenizer_json=model.tokenizer_json(),
        bos_id=model.bos_id,
        eos_id=model.eos_id,
        prepend_bos=model.prepend_bos,
        versions={"gguf": metadata.version("gguf")},
    )


class _GgufModel:
    """A GGUF file of the family ``llama`` with a byte-level BPE tokenizer."""

    def __init__(self, path: Path, max_positions: int) -> None:
        """Read the header of ``path``; raises WorkloadInputError where it is of another kind."""
        import gguf

        try:
            self._reader = gguf.GGUFReader(path)
            family, splitter = self._field("general.architecture"), self._field("tokenizer.ggml.pre")
        except (OSError, ValueError, KeyError) as error:
            raise WorkloadInputError(f"{path.name} cannot be read as a GGUF model ({error})") from error
        if (family, splitter) != ("llama", "smollm"):
            raise WorkloadInputError(
                f"{path.name} is of the family {family!r} with the tokenizer {splitter!r}, which is not "
                "supported: use a Hugging Face folder"
            )
        self._dequantize = gguf.quants.dequantize
        self._tensors = {_hugging_face_name(tensor.name): tensor for tensor in self._reader.tensors}
        heads, hidden = self._field("llama.attention.head_count"), self._field("llama.embedding_length")
        self.architecture = Architecture(
            family=family,
            layers=self._field("llama.block_count"),
            hidden=hidden,
            heads=heads,
            key_value_heads=self._field("llama.attention.head_count_kv"),
            head_dim=self._field("llama.rope.dimension_count"),
            intermediate=self._field("llama.feed_forward_length"),
            vocabulary=self._field("llama.vocab_size"),
            rope_theta=self._field("llama.rope.freq_base"),
            rms_epsilon=self._field("llama.attention.layer_norm_rms_epsilon"),
            tied="lm_head.weight" not in self._tensors,
            max_positions=min(self._field("llama.context_length"), max_positions),
        )
        self.bos_id: int = self._field("tokenizer.ggml.bos_token_id")
        self.eos_id: int = self._field("tokenizer.ggml.eos_token_id")
        self.prepend_bos: bool = self._field("tokenizer.ggml.add_bos_token")

    def has(self, name: str) -> bool:
        """Whether there is a tensor of that Hugging Face name."""
        return name in self._tensors

    def weight(self, name: str) -> NDArray[np.float32]:
        """A tensor by its Hugging Face name, f32; KeyError where there is none."""
        tensor = self._tensors[name]
        array: NDArray[np.float32] = self._dequantize(tensor.data, tensor.tensor_type)
        a = self.architecture
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = a.heads if "q_proj" in name else a.key_value_heads
            # GGUF interleaves the two halves of a head that rotary embedding turns together.
            array = array.reshape(heads, a.head_dim // 2, 2, -1).swapaxes(1, 2).reshape(array.shape)
        return np.asarray(array, np.float32)

    def tokenizer_json(self) -> str:
        """The tokenizer in the format of the ``tokenizers`` library."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        tokens = self._field("tokenizer.ggml.tokens")
        merges = [tuple(merge.split(" ")) for merge in self._field("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        kinds = self._field("tokenizer.ggml.token_type")
        control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
        tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
        text: str = tokenizer.to_str()
        return text

    def _field(self, key: str) -> Any:
        field = self._reader.get_field(key)
        if field is None:
            raise KeyError(f"no {key}")
        return field.contents()


def _hugging_face_name(name: str) -> str:
    """``blk.3.attn_q.weight`` → ``model.layers.3.self_attn.q_proj.weight``; unknown names stay."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(\w+)", name)
    if match is None or match[2] not in _NAMES:
        return name
    layer = "" if match[1] is None else f"model.layers.{match[1]}."
    return f"{layer}{_NAMES[match[2]]}.{match[3]}"
