"""Every family of models that can be built, as a tiny model with random weights: against transformers, and
from the folder to a finished edit."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from typer.testing import CliRunner

from mobifarm.agent.editor import EditRecord, Probe, edit
from mobifarm.agent.editor.bundle import Bundle, EditPair
from mobifarm.agent.editor.contexts import ContextLoss, tokenize_contexts
from mobifarm.agent.editor.evaluation import questions, tokenize_questions
from mobifarm.agent.editor.manifest import parse_manifest
from mobifarm.agent.editor.prepared import Surrogate, output_gradients
from mobifarm.agent.editor.types import EditCost
from mobifarm.workloads.baselines.editors import baseline
from mobifarm.workloads.baselines.torch_model import BundleTexts, TorchModel
from mobifarm.workloads.models.build import Precision, build_bundle
from mobifarm.workloads.models.cli import app
from mobifarm.workloads.models.sources import HuggingFaceFolder, TinyRandom
from mobifarm.workloads.preparation.decoder import TorchDecoder
from mobifarm.workloads.preparation.gradients import gradients_at_start
from mobifarm.workloads.preparation.prepare import PreparationSettings, prepare_bundle
from mobifarm.workloads.preparation.samples import sample_of, suffixes_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and transformers themselves

# Sums in another order, through a few layers; at most 9e-6 were seen.
FP32_TOLERANCE_NATS = 5e-5
# An int8 weight is off by at most 1/254 of its row's largest; 0.014 to 0.029 were seen, of log-probabilities
# that scatter by 1.
INT8_MEAN_NATS = 0.04
EDIT_LAYER = 1
SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GEMMA = {"num_key_value_heads": 1, "head_dim": 16, "hidden_activation": "gelu_pytorch_tanh"}
FULL, LOCAL = "full_attention", "sliding_attention"
# Whole and local layers on both sides of the edited one; every text here is longer than the window.
LAYER_TYPES = {"layer_types": [LOCAL, FULL, LOCAL, FULL], "sliding_window": 5}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"num_key_value_heads": 2, "head_dim": 16}),
    "llama 3.2": (
        "llama",
        {"num_key_value_heads": 1, "tie_word_embeddings": True, "rope_parameters": LLAMA3_ROPE},
    ),
    "llama with biases": ("llama", {"num_key_value_heads": 4, "attention_bias": True}),
    "qwen 2.5": ("qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen 2.5 untied": ("qwen2", {"num_key_value_heads": 2}),
    "qwen 2.5 with a window": (
        "qwen2",
        {"num_key_value_heads": 2, "use_sliding_window": True, "max_window_layers": 1, "sliding_window": 5},
    ),
    "qwen 3": ("qwen3", {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True}),
    "gemma": ("gemma", {"num_key_value_heads": 1, "head_dim": 16}),
    "gemma 2": (
        "gemma2",
        {
            **GEMMA,
            **LAYER_TYPES,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 1.0,
            "final_logit_softcapping": 4.0,
        },
    ),
    "gemma 3": ("gemma3_text", {**GEMMA, **LAYER_TYPES, "query_pre_attn_scalar": 24}),
}
RECORD = EditRecord(
    record_id="r1",
    subject="Ada",
    prompt="This old dog belongs to Ada",
    target_new="R",
    target_true="B",
    paraphrases=("The dog is that of Ada",),
    neighbours=(Probe("This old cat belongs to Tim", "B"),),
)


def sentencepiece_tokenizer() -> Tokenizer:
    """Of Gemma's kind: spaces as ▁, unknown characters as bytes, texts start with <bos>."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters, "▁t", "▁b"]
    tokenizer = Tokenizer(
        models.BPE(
            {token: index for index, token in enumerate(tokens)},
            [("▁", "t"), ("▁", "b")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    return tokenizer


@dataclass
class Made:
    """One of the models: in transformers, in torch for gradients, and as bundles."""

    name: str
    place: Path

    @cached_property
    def folder(self) -> Path:
        return self._written[0]

    @cached_property
    def model(self) -> Any:
        return self._written[1]

    @cached_property
    def _written(self) -> tuple[Path, Any]:
        family, options = MODELS[self.name]
        tokenizer = sentencepiece_tokenizer() if "gemma" in family else None
        size = 256 if tokenizer is None else tokenizer.get_vocab_size()
        config = transformers.AutoConfig.for_model(family, **SHAPE, **options, vocab_size=size)
        torch.manual_seed(0)
        model: Any = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        for name, parameter in model.named_parameters():
            # The initial values hide mistakes: biases are zero, norms are one, weights are tiny.
            mean = float(name.endswith("norm.weight") and tokenizer is None)
            torch.nn.init.normal_(parameter, mean=mean, std=0.15)
        folder = self.place / self.name.replace(" ", "-")
        model.save_pretrained(folder)
        details: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        if tokenizer is None:
            text = TinyRandom().load(lambda words: None).tokenizer_json
        else:
            text = tokenizer.to_str()
            details |= {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
        (folder / "tokenizer.json").write_text(text)
        (folder / "tokenizer_config.json").write_text(json.dumps(details))
        return folder, model

    @property
    def source(self) -> HuggingFaceFolder:
        return HuggingFaceFolder(self.folder)

    def bundle(self, precision: Precision) -> Bundle:
        built = build_bundle(self.source, self.place / "bundles", precision=precision, edit_layer=EDIT_LAYER)
        return Bundle.open(built.path, threads=1, verify=False)

    @cached_property
    def fp32(self) -> Bundle:
        return self.bundle(Precision.FP32)

    @cached_property
    def decoder(self) -> TorchDecoder:
        torch.set_num_threads(1)
        return TorchDecoder(self.source.load(lambda words: None))

    def reference(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """[B, T, V] log-probabilities of the transformers model."""
        with torch.no_grad():
            logits = self.model(torch.from_numpy(tokens)).logits
        found: NDArray[np.float32] = logits.log_softmax(-1).numpy()
        return found

    def tokens(self, *shape: int) -> NDArray[np.int64]:
        return np.random.default_rng(0).integers(0, self.model.config.vocab_size, shape)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module", params=list(MODELS))
def made(request: pytest.FixtureRequest, place: Path) -> Made:
    return Made(request.param, place)


def log_softmax_of(
    bundle: Bundle, tokens: NDArray[np.int64], edits: EditPair | None = None
) -> NDArray[np.float32]:
    """[B, T, V], all layers."""
    residual = bundle.lower(tokens, edits).residual
    delta = np.zeros((len(tokens), bundle.architecture.hidden), np.float32)
    rows = np.arange(tokens.shape[1])
    found = bundle.upper(residual, None, delta, rows, tokens, with_log_softmax=True).log_softmax
    assert found is not None
    return found


def random_delta(bundle: Bundle, batch: int, scale: float = 1.0) -> NDArray[np.float32]:
    random = np.random.default_rng(3).standard_normal((batch, bundle.architecture.hidden))
    return (random * scale).astype(np.float32)


def adding(model: Any, layer: int, position: int, delta: torch.Tensor) -> Any:
    """Until it is removed, δ is added to what the layer's ``down_proj`` gives at one position."""

    def hook(module: Any, arguments: Any, value: torch.Tensor) -> torch.Tensor:
        where = torch.arange(value.shape[1]) == position
        return value + where[:, None] * delta

    return model.model.layers[layer].mlp.down_proj.register_forward_hook(hook)


def test_fp32_bundle_and_torch_decoder_give_the_logits_of_transformers(made: Made) -> None:
    bundle = made.fp32
    assert bundle.architecture.family == MODELS[made.name][0]
    assert parse_manifest(bundle.manifest.to_bytes()) == bundle.manifest
    tokens = made.tokens(2, 40)
    wanted = made.reference(tokens)
    assert np.ptp(wanted) > 2.5
    np.testing.assert_allclose(log_softmax_of(bundle, tokens), wanted, atol=FP32_TOLERANCE_NATS, rtol=0)
    decoder = made.decoder
    final = decoder.run(decoder.embed(tokens), range(bundle.architecture.layers))[-1].residual
    np.testing.assert_allclose(decoder.log_softmax(final), wanted, atol=FP32_TOLERANCE_NATS, rtol=0)


def test_int8_bundle_is_close_to_the_fp32_one(made: Made) -> None:
    tokens = made.tokens(2, 20)
    int8, fp32 = (log_softmax_of(made.bundle(p), tokens) for p in (Precision.INT8, Precision.FP32))
    assert 0 < np.abs(int8 - fp32).mean() < INT8_MEAN_NATS
    assert np.corrcoef(int8.ravel(), fp32.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("prefix", [0, 3, 17])
def test_delta_is_a_change_of_the_value_with_and_without_cache(made: Made, prefix: int) -> None:
    """δ in the upper graph, on a cached prefix or none, is δ added to ``down_proj``'s output."""
    bundle, tokens = made.fp32, made.tokens(1, 20)
    deltas = random_delta(bundle, 3)
    residual = bundle.lower(tokens).residual
    rows, targets = np.arange(20 - prefix), tokens[0, prefix:]
    cache = bundle.fill_cache(residual[:, :prefix])
    cached = bundle.upper(residual[:, prefix:], cache, deltas, rows, targets, with_log_softmax=True)
    assert cached.log_softmax is not None
    before = made.reference(tokens)[0, prefix:]
    for delta, found in zip(deltas, cached.log_softmax, strict=True):
        hook = adding(made.model, EDIT_LAYER, prefix, torch.from_numpy(delta))
        wanted = made.reference(tokens)[0, prefix:]
        hook.remove()
        assert np.abs(wanted - before).max() > 100 * FP32_TOLERANCE_NATS
        np.testing.assert_allclose(found, wanted, atol=FP32_TOLERANCE_NATS, rtol=0)
        shifted = residual.copy()
        shifted[0, prefix, : len(delta)] += delta
        nothing = np.zeros((1, len(delta)), np.float32)
        full = bundle.upper(shifted, None, nothing, rows + prefix, targets, with_log_softmax=True).log_softmax
        assert full is not None
        np.testing.assert_allclose(found, full[0], atol=FP32_TOLERANCE_NATS, rtol=0)


def test_a_written_edit_is_a_changed_weight(made: Made) -> None:
    bundle, tokens = made.fp32, made.tokens(2, 12)
    keys = np.random.default_rng(1).standard_normal((2, bundle.architecture.intermediate)) * 0.2
    edits = EditPair(keys.astype(np.float32), random_delta(bundle, 2))
    weight = made.model.model.layers[EDIT_LAYER].mlp.down_proj.weight
    original = weight.detach().clone()
    before = made.reference(tokens)
    with torch.no_grad():
        weight += torch.from_numpy(edits.values.T @ edits.keys)
        wanted = made.reference(tokens)
        weight.copy_(original)
    assert np.abs(wanted - before).max() > 100 * FP32_TOLERANCE_NATS
    np.testing.assert_allclose(
        log_softmax_of(bundle, tokens, edits), wanted, atol=FP32_TOLERANCE_NATS, rtol=0
    )


def test_once_settled_the_search_sees_the_written_edit(made: Made) -> None:
    """Also where a norm follows the edited layer: the loss of δ is that of the whole model with the edit."""
    bundle = made.fp32
    contexts = tokenize_contexts(bundle, RECORD, 3)
    loss = ContextLoss(bundle, contexts, essence=None, kl_weight=0.0, probe_contexts=1, cost=EditCost())
    delta = random_delta(bundle, 1)[0].astype(np.float64)
    delta /= np.linalg.norm(delta) / (2 * loss.value_norm)
    unsettled = loss.evaluate(delta[None]).target[0]
    loss.settle(delta)
    edits = EditPair(loss.edit_key[None].astype(np.float32), delta[None].astype(np.float32))
    nll = []
    for context in contexts:
        rows = np.arange(len(context.prompt_ids) - 1, len(context.input_ids))
        found = log_softmax_of(bundle, np.array([context.input_ids]), edits)[0]
        nll.append(-found[rows, context.answer_ids].mean())
    assert loss.evaluate(delta[None]).target[0] == pytest.approx(np.mean(nll), abs=FP32_TOLERANCE_NATS)
    assert abs(unsettled - np.mean(nll)) > 20 * FP32_TOLERANCE_NATS


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_gradients_are_those_of_transformers(made: Made, layer: int) -> None:
    """dL/dδ and dL/d(final residual), at δ = 0 and, from the exact cache, at δ ≠ 0."""
    sample = sample_of(made.fp32, 0, RECORD, "In fact, ")
    tokens = torch.tensor([sample.input_ids])
    rows = slice(len(sample.prompt_ids) - 1, None)
    final: list[torch.Tensor] = []
    watching = made.model.model.norm.register_forward_pre_hook(lambda module, inputs: final.append(inputs[0]))

    def wanted_at(delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        point = delta.clone().requires_grad_()
        hook = adding(made.model, layer, sample.subject_last, point)
        log_softmax = made.model(tokens).logits[0, rows].log_softmax(-1)
        hook.remove()
        nll = -log_softmax.gather(1, torch.tensor(sample.answer_ids)[:, None]).mean()
        slopes = torch.autograd.grad(nll, [point, final[-1]])
        return slopes[0], slopes[1][0].sum(dim=0)

    nothing, delta = torch.zeros(48), torch.from_numpy(random_delta(made.fp32, 1)[0])
    wanted, last = wanted_at(nothing)
    points = gradients_at_start(made.decoder, [sample], [0, 1, 2], lambda done, total: None)[layer]
    assert_close(points.gradients[0], wanted)
    assert_close(points.output_gradients[0], last)
    suffixes = suffixes_of(made.decoder, [sample], layer)
    point = delta[None].clone().requires_grad_()
    nll = suffixes.targets.nll(made.decoder, suffixes.final_residual(made.decoder, point))
    assert_close(torch.autograd.grad(nll.sum(), point)[0][0], wanted_at(delta)[0])
    watching.remove()


def assert_close(found: Any, wanted: torch.Tensor) -> None:
    difference = np.linalg.norm(np.asarray(found) - wanted.numpy())
    assert difference < 1e-3 * np.linalg.norm(wanted.numpy())


def test_the_phones_output_gradient_is_that_of_torch(made: Made) -> None:
    bundle, decoder = made.fp32, made.decoder
    a = bundle.architecture
    surrogate = Surrogate(np.empty(0), decoder.final_norm.numpy(), a.rms_epsilon, a.logit_softcap)
    tokens, target = made.tokens(1, 9), 65
    residual = bundle.lower(tokens).residual
    nothing = np.zeros((1, a.hidden), np.float32)
    out = bundle.upper(
        residual, None, nothing, [8], [target], with_log_softmax=True, with_final_residual=True
    )
    assert out.log_softmax is not None
    assert out.final_residual is not None
    [found] = output_gradients(bundle, surrogate, out.log_softmax[0], out.final_residual[0], [target])
    state = torch.from_numpy(out.final_residual[0, 0]).requires_grad_()
    (wanted,) = torch.autograd.grad(-decoder.log_softmax(state)[target], state)
    cosine = found @ wanted.numpy() / np.linalg.norm(found) / wanted.norm()
    # The phone leaves the least probable tokens out where there are more than 256.
    assert cosine > (0.99 if a.vocabulary > 256 else 0.999999)


def test_texts_start_with_bos_where_the_tokenizer_says_so(made: Made) -> None:
    bundle, gemma = made.fp32, "gemma" in made.name
    reference = transformers.AutoTokenizer.from_pretrained(made.folder)
    text = "Ein Tännchen 木 to be"
    assert bundle.tokenize(text) == reference(text).input_ids
    assert (bundle.tokenize(text)[0] == 2) == gemma
    assert bundle.tokenizer.decode(bundle.tokenize(text)) == text
    prompt, answer = bundle.tokenize_prompt_and_answer(text, "or not")
    assert prompt == bundle.tokenize(text)
    assert bundle.tokenizer.decode(answer) == " or not"
    for subject in ("Tännchen", "木", "Ein"):
        ids = bundle.tokenize(text)[: bundle.subject_last_index(text, subject) + 1]
        assert bundle.tokenizer.decode(ids) == text[: text.index(subject) + len(subject)]


def test_a_folder_is_built_listed_and_shown(place: Path, tmp_path: Path) -> None:
    folder = Made("gemma 3", place).folder

    def run(*arguments: str) -> Any:
        outcome = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path), "--json"])
        assert outcome.exit_code == 0, outcome.output
        return json.loads(outcome.stdout)

    assert run("build", str(folder))["built"]
    assert [bundle["name"] for bundle in run("list")] == ["gemma-3"]
    shown = run("show", "gemma-3")["manifest"]["architecture"]
    assert (shown["activation"], shown["window"], shown["local_layers"]) == ("gelu_tanh", 5, [0, 2])
    assert shown["post_norms"]
    assert shown["query_key_norm"]


@pytest.fixture(scope="module")
def learning(
    tmp_path_factory: pytest.TempPathFactory, to_learn_from: Callable[[Path, int], dict[str, Path]]
) -> dict[str, Path]:
    return to_learn_from(tmp_path_factory.mktemp("learning"), 16)


def test_preparing_and_editing(made: Made, learning: dict[str, Path]) -> None:
    """The way of a user's folder: prepared, edited on the phone's path, and by ROME on the same weights."""
    settings = PreparationSettings(
        tokens=256, facts=16, path_facts=16, trial_facts=2, layers=(0, 1), path_steps=5
    )
    result = prepare_bundle(made.source, made.place / "prepared", settings=settings, **learning)
    bundle = Bundle.open(result.path, threads=1)
    assert bundle.prepared.surrogate is not None
    base, ticks = bundle.base_hash(), itertools.count()
    outcome = edit(
        bundle,
        RECORD,
        method="forward",
        settings={"contexts": 1, "norm_limit": 50, "step_limit": 12},
        seed=0,
        report=lambda progress: None,
        cancelled=lambda: False,
        clock=lambda: float(next(ticks)),
    )
    before, after = outcome.scores[0].wanted_before, outcome.scores[0].wanted_after
    # Written back, the edit also touches the prompt's other tokens, which resemble the subject's here.
    assert after.log_probability > before.log_probability + 1
    assert bundle.base_hash() == base

    editor = baseline(
        "rome_cached",
        made.decoder,
        BundleTexts(result.path),
        inverse_second_moment=bundle.prepared.inverse_second_moment,
    )
    found = editor.edit(RECORD, lambda: float(next(ticks)))
    ((answer, _),) = tokenize_questions(bundle, questions(RECORD)[:1])
    unedited = TorchModel(made.decoder, BundleTexts(result.path))
    (before,), (after,) = unedited.score([answer]), found.model.score([answer])
    assert after.log_probability > before.log_probability + 1
