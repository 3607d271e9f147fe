from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mobifarm.agent.editor import bundle as bundle_module
from mobifarm.agent.editor.bundle import Bundle
from mobifarm.agent.editor.manifest import GRAPHS
from mobifarm.workloads.models import share, split
from mobifarm.workloads.models.build import build_bundle
from mobifarm.workloads.models.graph import GraphWriter
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
    cut = GraphWriter.cut

    def cut_before_the_read_out(graph: GraphWriter, value: str) -> None:
        if value == "final_residual":
            cut(graph, value)

    monkeypatch.setattr(GraphWriter, "cut", cut_before_the_read_out)
    monkeypatch.setattr(split, "BLOCK_BYTES", 2**30)
    whole = Bundle.open(build_bundle(TinyRandom(), tmp_path / "whole").path)
    monkeypatch.undo()
    monkeypatch.setattr(split, "BLOCK_BYTES", 5000)
    monkeypatch.setattr(share, "LARGE_BYTES", 1000)
    blocks = Bundle.open(build_bundle(TinyRandom(), tmp_path / "blocks").path)
    assert [len(whole.manifest.graphs[name]) for name in GRAPHS] == [1, 1, 1]
    assert all(len(blocks.manifest.graphs[name]) > 2 for name in GRAPHS)
    expected = outputs(whole)
    for bundle in (Bundle.open(tiny_bundle_path), blocks):
        assert all(np.array_equal(a, b) for a, b in zip(outputs(bundle), expected, strict=True))
    tokens = np.arange(whole.architecture.vocabulary)
    assert np.array_equal(blocks.embed(tokens), whole.embed(tokens))


def test_a_cut_batch_gives_the_same(tiny_bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(tiny_bundle_path)
    together = outputs(bundle)
    monkeypatch.setattr(bundle_module, "_POSITIONS_PER_CALL", 1)
    monkeypatch.setattr(bundle_module, "_READ_OUTS_PER_CALL", 1)
    assert all(np.array_equal(a, b) for a, b in zip(outputs(bundle), together, strict=True))


@pytest.mark.parametrize(
    ("vocabulary", "columns"),
    [(49_152, 6144), (100, 100), (7919, 3960)],
    ids=["equal blocks", "small", "prime: the last block is smaller"],
)
def test_blocks_of_the_output_projection(vocabulary: int, columns: int) -> None:
    assert split.block_columns(vocabulary, 576, itemsize=1) == columns
    assert columns * 576 <= split.BLOCK_BYTES
