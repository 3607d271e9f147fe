import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent.editor.directions import (
    AUDIBLE,
    audible_step,
    central_difference_slopes,
    forward_difference_slopes,
    orthonormal_directions,
)

seeds = st.integers(0, 2**32 - 1)
dimensions = st.integers(2, 40)


@given(seed=seeds, dimension=dimensions, count=st.integers(1, 50), led=st.integers(0, 5))
def test_rows_are_orthonormal(seed: int, dimension: int, count: int, led: int) -> None:
    generator = np.random.default_rng(seed)
    rows = orthonormal_directions(
        generator, count, dimension, list(generator.standard_normal((led, dimension)))
    )
    assert rows.shape == (min(dimension, count + led), dimension)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-10)


@given(seed=seeds, dimension=dimensions, length=st.floats(1e-3, 1e3))
def test_the_first_rows_span_the_given_directions(seed: int, dimension: int, length: float) -> None:
    generator = np.random.default_rng(seed)
    first, second = generator.standard_normal((2, dimension))
    first *= length / np.linalg.norm(first)
    rows = orthonormal_directions(generator, 4, dimension, [first, second])
    np.testing.assert_allclose(rows[0], first / length, atol=1e-8)
    np.testing.assert_allclose(rows[:2].T @ (rows[:2] @ second), second, atol=1e-8)


def test_rows_prefer_no_orthant() -> None:
    generator = np.random.default_rng(0)
    firsts = np.array([orthonormal_directions(generator, 2, 8)[0] for _ in range(500)])
    assert np.abs(firsts.mean(axis=0)).max() < 0.1


@given(seed=seeds, dimension=dimensions, step=st.floats(0.01, 5))
def test_central_differences_recover_the_gradient_of_a_quadratic_within_the_span(
    seed: int, dimension: int, step: float
) -> None:
    generator = np.random.default_rng(seed)
    hessian = generator.standard_normal((dimension, dimension))
    hessian = hessian + hessian.T
    gradient = generator.standard_normal(dimension)
    rows = orthonormal_directions(generator, 5, dimension)

    def loss(points: np.ndarray) -> np.ndarray:
        return points @ gradient + 0.5 * np.einsum("bi,ij,bj->b", points, hessian, points)

    slopes = central_difference_slopes(loss(step * rows), loss(-step * rows), step)
    np.testing.assert_allclose(slopes @ rows, rows.T @ (rows @ gradient), atol=1e-8)


@given(seed=seeds, dimension=st.integers(3, 40), step=st.floats(0.01, 5), curvature=st.floats(-3, 3))
def test_forward_differences_take_equal_curvature_away(
    seed: int, dimension: int, step: float, curvature: float
) -> None:
    generator = np.random.default_rng(seed)
    gradient = generator.standard_normal(dimension)
    rows = orthonormal_directions(generator, 6, dimension)
    losses = 7.0 + step * rows @ gradient + 0.5 * curvature * step**2
    slopes = forward_difference_slopes(losses, step, led=0)
    true = rows @ gradient
    np.testing.assert_allclose(slopes, true - true.mean(), atol=1e-8)


def test_leading_rows_are_left_out_of_the_mean() -> None:
    losses = np.array([100.0, 1.0, 3.0])
    assert forward_difference_slopes(losses, 2.0, led=1) == pytest.approx([49.0, -0.5, 0.5])


@given(
    seed=seeds,
    count=st.integers(2, 64),
    slope=st.floats(0, 1e3),
    noise=st.floats(0, 1e2),
    step=st.floats(1e-2, 1e2),
    shortest=st.floats(1e-2, 1e2),
    more=st.floats(1, 10),
)
def test_a_step_is_as_long_as_the_noise_asks_for_within_its_limits(
    seed: int, count: int, slope: float, noise: float, step: float, shortest: float, more: float
) -> None:
    slopes = slope * np.random.default_rng(seed).standard_normal(count)
    longest = shortest * more
    found = audible_step(slopes, step, noise, shortest, longest)
    assert shortest <= found <= longest
    signal = np.sqrt(max(float(np.var(slopes)) - (noise / step) ** 2, 0))
    # No shorter than it must be, and no longer.
    assert found == longest or found * signal >= AUDIBLE * noise * (1 - 1e-9)
    assert found == shortest or found * signal <= AUDIBLE * noise * (1 + 1e-9)
    assert audible_step(slopes, step, 0.0, shortest, longest) == shortest
    assert audible_step(slopes, step, 2 * noise, shortest, longest) >= found


def test_the_noise_in_the_slopes_is_not_taken_for_signal() -> None:
    random = np.random.default_rng(0)
    noise = 0.1 * random.standard_normal(10_000)
    assert audible_step(noise / 0.5, 0.5, 0.1, 0.5, 50.0) > 10
    signal = 0.1 * random.standard_normal(10_000)
    # Slopes of 0.1 and noise of 0.1: a step of three makes the one three times the other.
    assert audible_step(signal + noise / 0.5, 0.5, 0.1, 0.5, 50.0) == pytest.approx(3.0, rel=0.1)
