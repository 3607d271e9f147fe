from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from mobifarm.agent.editor.manifest import Piece
from mobifarm.workloads.models.graph import GraphWriter, WeightsFile, floats
from mobifarm.workloads.models.share import share_graphs

LARGE = np.arange(2**15, dtype=np.float32)


def scaled(file: WeightsFile, factor: float, *, large: bool = False) -> onnx.ModelProto:
    """(x·W)·factor + 1"""
    graph = GraphWriter("scaled")
    weight = graph.stored(file.add(np.full((2, 2), factor, np.float32)))
    value = graph.node("MatMul", "x", weight)
    value = graph.node("Mul", value, graph.parameter(np.array(factor, np.float32)))
    value = graph.node("Add", value, graph.constant(LARGE if large else np.array(1, np.float32)))
    graph.rename(value, f"scaled_by_{factor}")
    return graph.model([floats("x", 2, 2)], [floats(f"scaled_by_{factor}", 2, 2)])


def test_pieces_of_one_form_share_a_file(tmp_path: Path) -> None:
    with WeightsFile(tmp_path / "weights.bin") as file:
        models, pieces = share_graphs({"both": [scaled(file, 2.0), scaled(file, 3.0)]}, file)
    assert list(models) == ["both_000.onnx"]
    first, second = pieces["both"]
    assert first == Piece("both_000.onnx", ("x",), first.weights, ("scaled_by_2.0",))
    assert second == Piece("both_000.onnx", ("x",), second.weights, ("scaled_by_3.0",))
    raw = (tmp_path / "weights.bin").read_bytes()
    for piece, factor in ((first, 2.0), (second, 3.0)):
        weight, scale = (np.frombuffer(raw, np.float32, 1, offset)[0] for offset in piece.weights)
        assert weight == scale == factor
    # What is the same in both stays in the graph.
    [kept] = models["both_000.onnx"].graph.initializer
    assert numpy_helper.to_array(kept) == 1


def test_other_forms_have_files_of_their_own(tmp_path: Path) -> None:
    with WeightsFile(tmp_path / "weights.bin") as file:
        graphs = {
            "a": [scaled(file, 2.0)],
            "b": [scaled(file, 2.0, large=True), scaled(file, 4.0, large=True)],
        }
        models, pieces = share_graphs(graphs, file)
    assert list(models) == ["a_000.onnx", "b_000.onnx"]
    [alone], both = pieces["a"], pieces["b"]
    assert len(alone.weights) == 1
    # Large constants are stored once.
    assert not models["b_000.onnx"].graph.initializer
    assert len({piece.weights[-1] for piece in both}) == 1
    assert np.array_equal(
        np.fromfile(tmp_path / "weights.bin", np.float32, LARGE.size, offset=both[0].weights[-1]), LARGE
    )
