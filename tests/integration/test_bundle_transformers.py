"""What folders are refused, and SmolLM2 against transformers and its fp32 self."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mobifarm.agent.editor.bundle import Bundle
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.build import Precision, build_bundle
from mobifarm.workloads.models.sources import (
    SMOLLM2_NAME,
    HuggingFaceFolder,
    SmolLM2,
    TinyRandom,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and transformers themselves

SENTENCES = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "In 1969 two people walked on the Moon for the first time while millions watched on television.",
    "Water boils at one hundred degrees Celsius at sea level, but sooner on a high mountain.",
    "She opened the window, looked at the street below and wondered where everybody had gone.",
)


def log_softmax_of(bundle: Bundle, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """[B, T, V], all layers, no edit."""
    residual = bundle.lower(tokens).residual
    delta = np.zeros((len(tokens), bundle.architecture.hidden), np.float32)
    rows = np.arange(tokens.shape[1])
    found = bundle.upper(residual, None, delta, rows, tokens, with_log_softmax=True).log_softmax
    assert found is not None
    return found


def reference_of(model: Any, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """[B, T, V] of the transformers model."""
    import torch

    with torch.no_grad():
        found: NDArray[np.float32] = model(torch.from_numpy(tokens)).logits.log_softmax(-1).numpy()
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, "rope_type 'dynamic'"),
        ({"quantization_config": {}}, "quantization_config"),
        ({"model_type": "gemma3"}, "model_type 'gemma3'"),
        ({"model_type": "gemma3_text", "hidden_activation": "relu"}, "hidden_act 'relu'"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "layer type 'chunked_attention'"),
    ],
)
def test_what_the_graphs_cannot_express_is_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps({"model_type": "llama", **change}))
    with pytest.raises(WorkloadInputError, match=words):
        build_bundle(HuggingFaceFolder(tmp_path / "m"), tmp_path / "b")


def test_a_folder_without_weights_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(WorkloadInputError, match="cannot be read as a model") as caught:
        build_bundle(HuggingFaceFolder(tmp_path / "m"), tmp_path / "b")
    assert "\n" not in str(caught.value)


def test_a_folder_that_lacks_a_tensor_or_has_one_of_another_shape_is_refused(tmp_path: Path) -> None:
    """transformers would fill the first with random numbers."""
    import transformers
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "m"
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2, vocab_size=256
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(TinyRandom().load(lambda words: None).tokenizer_json)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    assert build_bundle(HuggingFaceFolder(folder), tmp_path / "b").built
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        WorkloadInputError, match=r"m lacks 1 of the model's tensors, such as lm_head\.weight"
    ):
        build_bundle(HuggingFaceFolder(folder), tmp_path / "b")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "intermediate_size": 24}))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WorkloadInputError, match=r"of shape .*, which by its config\.json is \["):
        build_bundle(HuggingFaceFolder(folder), tmp_path / "b")


@pytest.fixture(scope="module")
def smollm2(smollm2_bundle_path: Path) -> Bundle:
    return Bundle.open(smollm2_bundle_path, threads=1)


@pytest.mark.model
def test_smollm2(smollm2: Bundle, tmp_path: Path) -> None:
    """fp32 graphs give transformers' logits for the same weights; the int8 bundle stays close to them."""
    import torch
    import transformers

    fp32 = Bundle.open(build_bundle(SmolLM2(), tmp_path, precision=Precision.FP32).path, threads=1)
    checkpoint, a = SmolLM2().load(lambda words: None), fp32.architecture
    config = transformers.LlamaConfig(
        hidden_size=a.hidden,
        intermediate_size=a.intermediate,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.key_value_heads,
        vocab_size=a.vocabulary,
        rms_norm_eps=a.rms_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": a.rope_theta},
        tie_word_embeddings=a.tied,
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    names = [name for name in model.state_dict() if name != "lm_head.weight"]
    state = {name: torch.from_numpy(checkpoint.weight(name)) for name in names}
    model.to_empty(device="cpu").load_state_dict(state, strict=False)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    losses: dict[str, list[float]] = {"fp32": [], "int8": []}
    for sentence in SENTENCES:
        tokens = np.array([smollm2.tokenize(sentence)])
        wanted = reference_of(model, tokens)
        np.testing.assert_allclose(log_softmax_of(fp32, tokens), wanted, atol=5e-3, rtol=0)
        for name, found in (("fp32", wanted), ("int8", log_softmax_of(smollm2, tokens))):
            losses[name] += (-np.take_along_axis(found[0, :-1], tokens[0, 1:, None], 1)[:, 0]).tolist()
    assert np.mean(losses["fp32"]) == pytest.approx(np.mean(losses["int8"]), abs=0.03)
    assert np.abs(np.subtract(losses["fp32"], losses["int8"])).mean() < 0.1


@pytest.mark.model
def test_smollm2_cached_and_full_evaluation_agree(smollm2: Bundle) -> None:
    """On the quantised model. Both ways compute every token with the same integer sums; only the order of f32
    additions in attention differs, which now and then rounds an activation to the next of its 14-bit steps.
    Seen over 12 CounterFact records: 0.006 nats on average and 0.018 at most."""
    assert smollm2.name == SMOLLM2_NAME
    prompt, subject = "The mother tongue of Danielle Darrieux is", "Danielle Darrieux"
    prompt_ids, answer_ids = smollm2.tokenize_prompt_and_answer(prompt, "English")
    start = smollm2.subject_last_index(prompt, subject)
    tokens = np.array([prompt_ids + answer_ids[:-1]])
    residual = smollm2.lower(tokens).residual
    delta = np.random.default_rng(0).standard_normal((4, smollm2.architecture.hidden)).astype(np.float32) * 2
    first = len(prompt_ids) - 1
    rows = np.arange(first, first + len(answer_ids))
    cached = smollm2.upper(
        residual[:, start:], smollm2.fill_cache(residual[:, :start]), delta, rows - start, answer_ids
    )
    moved = []
    for index, one in enumerate(delta):
        shifted = residual.copy()
        shifted[0, start] += one
        none = np.zeros((1, len(one)), np.float32)
        full = smollm2.upper(shifted, None, none, rows, answer_ids)
        moved.append(full.log_probabilities[0])
        np.testing.assert_allclose(cached.log_probabilities[index], moved[-1], atol=0.03, rtol=0)
    spread = np.ptp(np.array(moved), axis=0).min()
    assert spread > 0.3, "the tolerance says nothing about perturbations this weak"
