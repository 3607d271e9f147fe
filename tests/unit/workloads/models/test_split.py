from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mobifarm.agent.editor import bundle as bundle_module
from mobifarm.agent.editor.bundle import Bundle
from mobifarm.workloads.models import split
from mobifarm.workloads.models.build import build_bundle
from mobifarm.workloads.models.graph import Cut
from mobifarm.workloads.models.sources import TinyRandom


def outputs(bundle: Bundle) -> list[NDArray[np.floating]]:
    """Of a prefix, and of two δ on what follows it."""
    low = bundle.lower(np.arange(12)[None])
    cache = bundle.fill_cache(low.residual[:, :5])
    delta = np.random.default_rng(1).standard_normal((2, bundle.architecture.hidden)).astype(np.float32)
    high = bundle.upper(
        low.residual[:, 5:], cache, delta, [2, 6], [1, 2], with_log_softmax=True, with_final_residual=True
    )
    assert high.log_softmax is not None
    assert high.final_residual is not None
    return [low.residual, low.key, low.value, cache.past, high.log_softmax, high.final_residual]


def test_pieces_give_what_the_whole_gives(
    tmp_path: Path, tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "PIECE_BYTES", 1)
    monkeypatch.setattr(split, "LARGE_CONSTANT_BYTES", 1000)
    cut, whole = Bundle.open(build_bundle(TinyRandom(), tmp_path).path), Bundle.open(tiny_bundle_path)
    assert len(cut.manifest.pieces("upper")) > len(whole.manifest.pieces("upper")) == 2
    assert all(np.array_equal(a, b) for a, b in zip(outputs(cut), outputs(whole), strict=True))


def test_a_cut_batch_gives_the_same(tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(tiny_bundle_path)
    together = outputs(bundle)
    monkeypatch.setattr(bundle_module, "_POSITIONS_PER_CALL", 1)
    monkeypatch.setattr(bundle_module, "_READ_OUTS_PER_CALL", 1)
    assert all(np.array_equal(a, b) for a, b in zip(outputs(bundle), together, strict=True))


def test_cuts_keep_pieces_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "PIECE_BYTES", 30)
    cuts = [Cut(f"layer {number}", 12 * (number + 1)) for number in range(5)]
    assert split.choose_cuts(cuts) == ["layer 1", "layer 3"]
    assert split.choose_cuts([Cut("large", 90), Cut("larger", 200)]) == ["large"]
    assert split.choose_cuts([]) == []
