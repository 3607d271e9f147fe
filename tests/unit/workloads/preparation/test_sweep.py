import pytest

pytest.importorskip("torch")

from mobifarm.workloads.preparation.sweep import LayerTrial, choose_layer

TRIALS = [
    LayerTrial(5, 1.0, 0.75, 0.75, 1.0, 8.8),
    LayerTrial(9, 1.0, 0.75, 0.78, 0.9, 10.2),
    LayerTrial(12, 1.0, 0.75, 0.40, 1.0, 7.0),
]


def test_spilling_layers_are_out_and_guessable_gradients_decide() -> None:
    cosines = {5: 0.22, 9: 0.37, 12: 0.45}
    assert choose_layer(TRIALS, cosines, tolerance=0.02) == 9
    assert choose_layer(TRIALS, {**cosines, 5: 0.4}, tolerance=0.02) == 5


def test_a_layer_that_misses_one_goal_altogether_scores_nothing() -> None:
    assert LayerTrial(3, 1.0, 0.0, 1.0, 1.0, 5.0).score == 0.0
    assert LayerTrial(3, 1.0, None, 1.0, 1.0, 5.0).score == pytest.approx(1.0)
