"""Our GGUF reader against that of transformers, on a small file of the same kind as SmolLM2's."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer, pre_tokenizers

from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.gguf_file import load_gguf

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and transformers themselves

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDE = 2, 64, 4, 2, 16, 96
SHAPES = {
    "attn_norm": (HIDDEN,),
    "ffn_norm": (HIDDEN,),
    "attn_q": (HEADS * HEAD_DIM, HIDDEN),
    "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_output": (HIDDEN, HEADS * HEAD_DIM),
    "ffn_gate": (WIDE, HIDDEN),
    "ffn_up": (WIDE, HIDDEN),
    "ffn_down": (HIDDEN, WIDE),
}


def write_gguf(path: Path, *, tokenizer: str = "smollm") -> None:
    random = np.random.default_rng(0)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "is", "Ġt", "he", "Ġthe"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(100_000.0)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["i s", "Ġ t", "h e", "Ġt he"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    tensors = {"token_embd": (len(tokens), HIDDEN), "output_norm": (HIDDEN,)}
    tensors |= {f"blk.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in SHAPES.items()}
    for name, shape in tensors.items():
        array = random.standard_normal(shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.F32
        if len(shape) == 2:
            embedding = name == "token_embd"
            kind = gguf.GGMLQuantizationType.Q8_0 if embedding else gguf.GGMLQuantizationType.Q4_1
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_same_model_as_transformers_reads(tmp_path: Path) -> None:
    import transformers

    write_gguf(tmp_path / "m.gguf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")

    found = load_gguf(tmp_path / "m.gguf", max_positions=2048)

    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight":
            assert (found.weight(name) == tensor.numpy()).all(), name
    a, config = found.architecture, model.config
    assert (a.layers, a.hidden, a.intermediate) == (LAYERS, HIDDEN, WIDE)
    assert (a.heads, a.key_value_heads, a.head_dim) == (HEADS, KV_HEADS, HEAD_DIM)
    assert (a.vocabulary, a.rms_epsilon, a.max_positions) == (config.vocab_size, config.rms_norm_eps, 512)
    assert a.tied
    assert not found.has("lm_head.weight")
    frequencies = model.model.rotary_emb.inv_freq.numpy()
    np.testing.assert_allclose(found.rotary.inverse_frequencies, frequencies, rtol=1e-6)
    ours = Tokenizer.from_str(found.tokenizer_json)
    text = "<|im_start|>This is the 1st thesis,\n  naïve  théâtre 2024<|im_end|>"
    assert ours.encode(text).ids == tokenizer(text).input_ids
    assert (found.bos_id, found.eos_id, found.prepend_bos) == (1, 2, False)


def test_other_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", tokenizer="llama-bpe")
    with pytest.raises(WorkloadInputError, match="tokenizer 'llama-bpe', which is not supported"):
        load_gguf(tmp_path / "m.gguf", max_positions=2048)
    (tmp_path / "m.gguf").write_bytes(b"no model" * 10)
    with pytest.raises(WorkloadInputError, match="cannot be read as a GGUF model"):
        load_gguf(tmp_path / "m.gguf", max_positions=2048)
