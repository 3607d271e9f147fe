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
RIGHT = {graph: {"y": array} for graph, array in WANTED.items()}


def write_graphs(folder: Path) -> NpuGraphs:
    inputs: dict[str, Arrays] = {graph: {"x": np.zeros(1, np.float32)} for graph in WANTED}
    (folder / "probe.npz").write_bytes(pack_probe(inputs, WANTED))
    (folder / "graph.onnx").touch()
    files = dict.fromkeys(WANTED, "graph.onnx")
    return NpuGraphs("w8a16", ChunkShape(4, 4, 2), files, dict.fromkeys(WANTED, 1.0), "probe.npz")


class Answering:
    accelerator = "htp_emulator"
    restarts = 0

    def __init__(self, answers: dict[str, dict[str, Any]]) -> None:
        self.answers = answers
        self.ran: list[str] = []

    def load(self, graph: str, model: bytes) -> None:
        pass

    def run(self, graph: str, feeds: Arrays) -> dict[str, Any]:
        self.ran.append(graph)
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
    graphs = write_graphs(tmp_path)
    model = NpuModel(tmp_path, graphs, Answering(RIGHT))
    model.backend = Answering({**RIGHT, READ_OUT: answer})
    with pytest.raises(BackendError, match="something else"):
        model.logits(np.zeros((1, 2), np.float32))
    with pytest.raises(BackendError, match="something else"):
        NpuModel(tmp_path, graphs, Answering({**RIGHT, LAYERS: answer}))


def test_another_worker_is_checked_before_it_is_believed(tmp_path: Path) -> None:
    backend = Answering(RIGHT)
    model = NpuModel(tmp_path, write_graphs(tmp_path), backend)
    state = np.zeros((1, 2), np.float32)
    for restarts, runs in ((1, [READ_OUT, LAYERS, READ_OUT]), (1, [READ_OUT])):
        backend.restarts = restarts
        backend.ran.clear()
        model.logits(state)
        assert backend.ran == runs
    backend.restarts = 2
    backend.answers = {**RIGHT, LAYERS: {"y": WANTED[LAYERS] + 99}}
    with pytest.raises(BackendError, match="computes something else than the processor"):
        model.logits(state)


def test_a_worker_that_starts_anew_in_its_check_is_not_used(tmp_path: Path) -> None:
    class Dying(Answering):
        def run(self, graph: str, feeds: Arrays) -> dict[str, Any]:
            self.restarts += 1
            return super().run(graph, feeds)

    with pytest.raises(BackendError, match="while it was checked"):
        NpuModel(tmp_path, write_graphs(tmp_path), Dying(RIGHT))


def test_compiled_graphs_that_are_refused_leave_the_onnx_files(tmp_path: Path) -> None:
    class Refusing(Answering):
        def load(self, graph: str, model: bytes) -> None:
            self.ran.append(f"{graph} {model.decode()}")
            if graph == READ_OUT and model:
                raise BackendError("compiled by another version")

    compiled = tmp_path / "SM8650"
    compiled.mkdir()
    (compiled / "graph.onnx").write_text("compiled")
    backend = Refusing(RIGHT)
    model = NpuModel(tmp_path, write_graphs(tmp_path), backend, compiled)
    assert not model.compiled
    loaded = ["layers compiled", "read_out compiled", "layers ", "read_out "]
    assert backend.ran == [*loaded, LAYERS, READ_OUT]
    (tmp_path / "graph.onnx").write_text("refused too")
    with pytest.raises(BackendError, match="compiled by another version"):
        NpuModel(tmp_path, model.graphs, backend, compiled)


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
