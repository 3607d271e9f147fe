from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from mobifarm.agent.editor.bundle_files import MappedTensors
from mobifarm.workloads.models.graph import GraphWriter, WeightsFile, floats, store_linear

RANDOM = np.random.default_rng(7)
WEIGHT = RANDOM.standard_normal((12, 40)).astype(np.float32)
BIAS = RANDOM.standard_normal(12).astype(np.float32)


def run_linear(folder: Path, rows: NDArray[np.float32], *, int8: bool) -> NDArray[np.float32]:
    graph = GraphWriter("linear")
    with WeightsFile(folder / "weights.bin") as file:
        linear = store_linear(file, WEIGHT, BIAS, int8=int8)
        graph.rename(graph.linear("x", linear), "y")
    onnx.save(graph.model([floats("x", "M", 40)], [floats("y", "M", 12)]), folder / "g.onnx")
    session = onnxruntime.InferenceSession(str(folder / "g.onnx"), providers=["CPUExecutionProvider"])
    weight = MappedTensors(folder).tensor(linear.weight)
    fed = {value.name: weight for value in session.get_inputs() if value.name != "x"}
    result: NDArray[np.float32] = session.run(None, {"x": rows, **fed})[0]
    return result


@pytest.mark.parametrize(("int8", "tolerance"), [(False, 1e-6), (True, 0.01)])
def test_linear(tmp_path: Path, int8: bool, tolerance: float) -> None:
    rows = RANDOM.standard_normal((5, 40)).astype(np.float32)
    found = run_linear(tmp_path, rows, int8=int8)
    wanted = rows @ WEIGHT.T + BIAS
    assert np.linalg.norm(found - wanted) < tolerance * np.linalg.norm(wanted)


def test_activations_keep_14_bits(tmp_path: Path) -> None:
    """Against the int8 weights themselves, what is left is the rounding of the activations."""
    rows = RANDOM.standard_normal((5, 40)).astype(np.float32)
    found = run_linear(tmp_path, rows, int8=True)
    scales = np.abs(WEIGHT).max(axis=1) / 127
    stored = np.rint(WEIGHT / scales[:, None]) * scales[:, None]
    wanted = rows @ stored.T + BIAS
    assert np.linalg.norm(found - wanted) < 2e-4 * np.linalg.norm(wanted)


def test_row_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    """An outlier in one row leaves the others bit-equal: scales are per row and sums are exact."""
    rows = RANDOM.standard_normal((9, 40)).astype(np.float32)
    alone = run_linear(tmp_path, rows[:1], int8=True)
    rows[1:] *= 1000
    together = run_linear(tmp_path, rows, int8=True)
    assert (together[0] == alone[0]).all()


def test_products_fit_the_saturating_kernel(tmp_path: Path) -> None:
    """x86 without VNNI adds pairs of products in 16 bits; the halves must leave room for it."""
    graph = GraphWriter("linear")
    with WeightsFile(tmp_path / "weights.bin") as file:
        graph.linear("x", store_linear(file, WEIGHT, None, int8=True))
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in graph.initializers if not c.external_data}
    zero_points = {int(c) for c in constants.values() if c.dtype == np.uint8}
    reciprocal = max(
        float(c) for c in constants.values() if c.dtype == np.float32 and c.ndim == 0 and c < 0.1
    )
    largest = max(zero_points) + round(1 / reciprocal)
    assert len(zero_points) == 1
    assert 2 * largest * 127 <= 2**15 - 1


def test_zero_rows_give_the_bias(tmp_path: Path) -> None:
    found = run_linear(tmp_path, np.zeros((2, 40), np.float32), int8=True)
    assert (found == BIAS).all()


def test_equal_constants_are_held_once() -> None:
    graph = GraphWriter("g")
    assert graph.integers(1, 2) == graph.integers(1, 2)
    assert graph.integers(1, 2) != graph.integers(2, 1)
    assert graph.constant(np.array(1, np.int64)) != graph.integers(1)
