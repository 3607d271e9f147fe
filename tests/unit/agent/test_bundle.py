"""The graphs' promises, on a bundle with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mobifarm.agent.editor.bundle import Bundle, EditPair, stack_caches
from mobifarm.agent.errors import InputError
from mobifarm.workloads.models.build import Precision, build_bundle
from mobifarm.workloads.models.checkpoint import Checkpoint
from mobifarm.workloads.models.sources import TinyRandom

# Cached and full evaluation differ only in the order in which attention adds up its f32 terms. An activation
# may then round to its neighbour, one of 2·63·126 steps across a row's range, which a few layers turn into
# the fourth digit of a log-probability.
CACHE_TOLERANCE_NATS = 2e-3


@pytest.fixture(scope="module")
def bundle(tiny_bundle_path: Path) -> Bundle:
    return Bundle.open(tiny_bundle_path, threads=1)


def zeros(bundle: Bundle, batch: int = 1) -> NDArray[np.float32]:
    return np.zeros((batch, bundle.architecture.hidden), np.float32)


def random_tokens(bundle: Bundle, *shape: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, bundle.architecture.vocabulary, shape)


def random_edit(bundle: Bundle, rank: int, seed: int = 1) -> EditPair:
    random = np.random.default_rng(seed)
    a = bundle.architecture
    keys = random.standard_normal((rank, a.intermediate)) * 0.1
    return EditPair(keys.astype(np.float32), random.standard_normal((rank, a.hidden)).astype(np.float32))


@pytest.mark.parametrize("prefix", [0, 1, 7, 19])
def test_cached_and_full_evaluation_agree(bundle: Bundle, prefix: int) -> None:
    tokens = random_tokens(bundle, 1, 20)
    delta = np.random.default_rng(3).standard_normal((5, bundle.architecture.hidden)).astype(np.float32)
    residual = bundle.lower(tokens).residual
    cache = bundle.fill_cache(residual[:, :prefix])
    rows = np.arange(20 - prefix)
    targets = random_tokens(bundle, 20 - prefix, seed=4)
    cached = bundle.upper(residual[:, prefix:], cache, delta, rows, targets, with_log_softmax=True)
    for index, one in enumerate(delta):
        shifted = residual.copy()
        shifted[0, prefix] += one
        full = bundle.upper(shifted, None, zeros(bundle), rows + prefix, targets, with_log_softmax=True)
        assert full.log_softmax is not None
        assert cached.log_softmax is not None
        np.testing.assert_allclose(
            cached.log_softmax[index], full.log_softmax[0], atol=CACHE_TOLERANCE_NATS, rtol=0
        )
        np.testing.assert_allclose(
            cached.log_probabilities[index], full.log_probabilities[0], atol=CACHE_TOLERANCE_NATS, rtol=0
        )


def test_delta_matters(bundle: Bundle) -> None:
    residual = bundle.lower(random_tokens(bundle, 1, 6)).residual
    delta = np.concatenate([zeros(bundle), zeros(bundle) + 1])
    out = bundle.upper(residual, None, delta, [5], [1])
    assert abs(out.log_probabilities[0, 0] - out.log_probabilities[1, 0]) > 10 * CACHE_TOLERANCE_NATS


def test_several_contexts_in_one_call(bundle: Bundle) -> None:
    """Prefixes of different lengths, each with its own suffix, δ, rows and targets."""
    prefixes = (0, 3, 9)
    residuals = [bundle.lower(random_tokens(bundle, 1, p + 4, seed=p)).residual for p in prefixes]
    caches = [bundle.fill_cache(r[:, :p]) for r, p in zip(residuals, prefixes, strict=True)]
    suffixes = np.concatenate([r[:, p:] for r, p in zip(residuals, prefixes, strict=True)])
    delta = np.random.default_rng(3).standard_normal((3, bundle.architecture.hidden)).astype(np.float32)
    rows, targets = np.array([[0, 3], [1, 2], [3, 3]]), random_tokens(bundle, 3, 2)
    together = bundle.upper(suffixes, stack_caches(caches), delta, rows, targets)
    for i in range(3):
        alone = bundle.upper(suffixes[i : i + 1], caches[i], delta[i : i + 1], rows[i], targets[i])
        np.testing.assert_allclose(
            together.log_probabilities[i], alone.log_probabilities[0], atol=CACHE_TOLERANCE_NATS, rtol=0
        )


def test_prefixes_of_different_lengths_in_one_fill(bundle: Bundle) -> None:
    tokens = random_tokens(bundle, 2, 8)
    residual = bundle.lower(tokens).residual
    both = bundle.fill_cache(residual, [8, 5])
    short = bundle.fill_cache(residual[1:, :5])
    np.testing.assert_allclose(both.past[:, 1:, :, :5], short.past, atol=1e-3)
    assert both.lengths.tolist() == [8, 5]


def test_right_padding_and_company_change_nothing(bundle: Bundle) -> None:
    tokens = random_tokens(bundle, 3, 12)
    short = bundle.lower(tokens[:1, :7])
    padded = bundle.lower(tokens)
    for name in ("residual", "key", "value"):
        np.testing.assert_allclose(getattr(padded, name)[0, :7], getattr(short, name)[0], atol=1e-3)
    a = bundle.upper(short.residual, None, zeros(bundle), [6], [1])
    b = bundle.upper(padded.residual, None, zeros(bundle, 3), [6], [1])
    np.testing.assert_allclose(
        a.log_probabilities[0], b.log_probabilities[0], atol=CACHE_TOLERANCE_NATS, rtol=0
    )


def test_outputs_belong_together(bundle: Bundle) -> None:
    residual = bundle.lower(random_tokens(bundle, 2, 6)).residual
    targets = random_tokens(bundle, 2, 3)
    out = bundle.upper(residual, None, zeros(bundle, 2), [1, 4, 5], targets, with_log_softmax=True)
    assert out.log_softmax is not None
    np.testing.assert_allclose(np.exp(out.log_softmax).sum(axis=2), 1, atol=1e-5)
    assert (out.log_softmax.argmax(axis=2) == out.argmax).all()
    picked = np.take_along_axis(out.log_softmax, targets[..., None], axis=2)[..., 0]
    assert (picked == out.log_probabilities).all()
    assert bundle.upper(residual, None, zeros(bundle, 2), [1], [1]).log_softmax is None


def test_an_edit_adds_its_part_to_the_value(bundle: Bundle) -> None:
    tokens, edit = random_tokens(bundle, 2, 5), random_edit(bundle, 3)
    before, after = bundle.lower(tokens), bundle.lower(tokens, edit)
    part = (before.key @ edit.keys.T) @ edit.values
    assert (before.key == after.key).all()
    np.testing.assert_allclose(after.value, before.value + part, atol=1e-4)
    np.testing.assert_allclose(after.residual, before.residual + part, atol=1e-4)


def test_an_undone_edit_leaves_no_trace(bundle: Bundle) -> None:
    tokens, edit = random_tokens(bundle, 2, 5), random_edit(bundle, 2)
    base, before = bundle.base_hash(), bundle.lower(tokens)
    assert (bundle.lower(tokens, edit).residual != before.residual).any()
    empty = EditPair(edit.keys[:0], edit.values[:0])
    for undone in (bundle.lower(tokens), bundle.lower(tokens, empty)):
        for name in ("residual", "key", "value"):
            assert getattr(undone, name).tobytes() == getattr(before, name).tobytes()
    assert bundle.base_hash() == base


def test_the_base_hash_sees_other_weights(tmp_path: Path, bundle: Bundle) -> None:
    other = build_bundle(replace(TinyRandom(), seed=1), tmp_path)
    assert Bundle.open(other.path, threads=1).base_hash() != bundle.base_hash()


@dataclass(frozen=True)
class EditedTiny(TinyRandom):
    """The random model with an edit folded into the weight."""

    name: str = "edited"
    layer: int = 0
    edit: EditPair | None = None

    def load(self, status: Callable[[str], None]) -> Checkpoint:
        assert self.edit is not None
        checkpoint = super().load(status)
        edited = f"model.layers.{self.layer}.mlp.down_proj.weight"
        changed = checkpoint.weight(edited) + self.edit.values.T @ self.edit.keys
        return replace(checkpoint, weight=lambda n: changed if n == edited else checkpoint.weight(n))


@pytest.mark.parametrize("precision", list(Precision))
def test_side_input_equals_edited_weight(tmp_path: Path, precision: Precision) -> None:
    plain = Bundle.open(build_bundle(TinyRandom(), tmp_path, precision=precision).path, threads=1)
    edit = random_edit(plain, 2)
    source = EditedTiny(layer=plain.edit_layer, edit=edit)
    folded = Bundle.open(build_bundle(source, tmp_path, precision=precision).path, threads=1)
    tokens = random_tokens(plain, 2, 9)
    a, b = plain.lower(tokens, edit), folded.lower(tokens)
    np.testing.assert_allclose(a.residual, b.residual, atol=1e-4)
    rows = [3, 8]
    high_a = plain.upper(a.residual, None, zeros(plain, 2), rows, [1, 2])
    high_b = folded.upper(b.residual, None, zeros(plain, 2), rows, [1, 2])
    np.testing.assert_allclose(
        high_a.log_probabilities, high_b.log_probabilities, atol=CACHE_TOLERANCE_NATS, rtol=0
    )


def test_placement_is_counted_from_a_trace(bundle: Bundle) -> None:
    assert set(bundle.placement()) == {"CPUExecutionProvider"}
    assert bundle.placement()["CPUExecutionProvider"] > 10 * bundle.architecture.layers


def test_too_long_a_text_is_refused(bundle: Bundle) -> None:
    limit = bundle.architecture.max_positions
    with pytest.raises(InputError, match=f"at most {limit}: shorten it"):
        bundle.lower(np.zeros((1, limit + 1), np.int64))
    residual = bundle.lower(np.zeros((1, limit), np.int64)).residual
    with pytest.raises(InputError, match="shorten it"):
        bundle.upper(residual[:, :2], bundle.fill_cache(residual[:, 1:]), zeros(bundle), [0], [0])


def test_texts(bundle: Bundle) -> None:
    prompt, answer = bundle.tokenize_prompt_and_answer("The capital of Peru is", "Lima")
    assert bundle.tokenizer.decode(prompt + answer) == "The capital of Peru is Lima"
    assert bundle.tokenize("The capital of Peru is") == prompt
    assert bundle.subject_last_index("The capital of Peru is", "Peru") == len("The capital of Per")
