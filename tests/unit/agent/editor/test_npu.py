"""A neural processor that answers with something else than its graphs give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mobifarm.agent.backends import BackendError
from mobifarm.agent.backends.interface import Arrays, Placement
from mobifarm.agent.editor.npu import LAYERS, NPU, READ_OUT, NpuGraphs, NpuModel, npu_graphs, pack_probe
from mobifarm.agent.editor.packing import ChunkShape
from mobifarm.agent.errors import BundleError

WANTED = {LAYERS: np.zeros((1, 4, 2), np.float32), READ_OUT: np.zeros((1, 2, 8), np.float32)}


class Answering:
    accelerator = "htp_emulator"

    def __init__(self, answers: dict[str, dict[str, Any]]) -> None:
        self.answers = answers

    def load(self, graph: str, model: bytes) -> None:
        pass

    def run(self, graph: str, feeds: Arrays) -> dict[str, Any]:
        return self.answers[graph]

    def placement(self) -> Placement:
        return Placement(0, 0, None, "")

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "answer",
    [{}, {"a": np.zeros((1, 4, 2)), "b": np.zeros(1)}, {"a": np.zeros((1, 3, 2))}, {"a": np.zeros((0,))}],
)
def test_nonsense_of_a_backend_is_its_own_error(tmp_path: Path, answer: dict[str, Any]) -> None:
    inputs: dict[str, Arrays] = {graph: {"x": np.zeros(1, np.float32)} for graph in WANTED}
    (tmp_path / "probe.npz").write_bytes(pack_probe(inputs, WANTED))
    (tmp_path / "graph.onnx").touch()
    files = dict.fromkeys(WANTED, "graph.onnx")
    graphs = NpuGraphs("w8a16", ChunkShape(4, 4, 2), files, dict.fromkeys(WANTED, 1.0), "probe.npz")
    right = {graph: {"y": array} for graph, array in WANTED.items()}
    model = NpuModel(tmp_path, graphs, Answering(right))
    model.backend = Answering({**right, READ_OUT: answer})
    with pytest.raises(BackendError, match="something else"):
        model.logits(np.zeros((1, 2), np.float32))
    with pytest.raises(BackendError, match="something else"):
        NpuModel(tmp_path, graphs, Answering({**right, LAYERS: answer}))


def manifest_with(**entries: Any) -> Any:
    graphs = NpuGraphs(
        "w8a16", ChunkShape(4, 4, 2), dict.fromkeys(WANTED, "g"), dict.fromkeys(WANTED, 1.0), "p"
    )
    extras = {**graphs.to_extras(), **entries}
    return SimpleNamespace(name="tiny", files={"g": None, "p": None}, extras={NPU: extras})


def test_a_bundle_from_before_the_noise_was_measured_has_none() -> None:
    manifest = manifest_with()
    del manifest.extras[NPU]["loss_noise"]
    graphs = npu_graphs(manifest)
    assert graphs is not None
    assert graphs.loss_noise == 0.0
    assert npu_graphs(manifest_with(loss_noise=0.25)) == replace(graphs, loss_noise=0.25)


@pytest.mark.parametrize("noise", [float("nan"), float("inf"), -1.0, "much"])
def test_noise_that_is_none_is_refused(noise: object) -> None:
    with pytest.raises(BundleError, match="build it again"):
        npu_graphs(manifest_with(loss_noise=noise))
