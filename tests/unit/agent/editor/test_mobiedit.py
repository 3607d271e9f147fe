import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent.editor.forward import Losses, Solution, Step
from mobifarm.agent.editor.mobiedit import Plateau, cosine_learning_rate, minimise, zeroth_order_gradient
from mobifarm.agent.editor.settings import MobiEditSettings

Array = np.ndarray


@dataclass
class Slope:
    """Loss floor + slope·δ, and what was asked: (batch, fresh), and the δ of every refresh."""

    slope: Array
    floor: float = 5.0
    asked: list[tuple[Array, bool]] = field(default_factory=list)
    refreshed: list[Array] = field(default_factory=list)

    def evaluate(self, deltas: Array, *, fresh: bool) -> Losses:
        self.asked.append((deltas, fresh))
        loss = self.floor + deltas @ self.slope
        return Losses(loss, loss)

    def refresh(self, delta: Array) -> None:
        self.refreshed.append(delta)


def search(
    oracle: Slope,
    settings: MobiEditSettings,
    seed: int = 0,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Solution:
    return minimise(
        oracle,
        dimension=len(oracle.slope),
        reference_norm=1.0,
        settings=settings,
        generator=np.random.default_rng(seed),
        on_step=on_step,
    )


@given(seed=st.integers(0, 1000), count=st.integers(1, 9), perturbation=st.floats(1e-3, 10))
def test_the_estimate_is_the_published_sum(seed: int, count: int, perturbation: float) -> None:
    generator = np.random.default_rng(seed)
    directions = generator.standard_normal((count, 7))
    ahead, behind = generator.standard_normal((2, count))
    expected = sum((ahead[i] - behind[i]) / (2 * perturbation) * directions[i] for i in range(count))
    np.testing.assert_allclose(
        zeroth_order_gradient(ahead, behind, directions, perturbation), expected, rtol=1e-9, atol=1e-12
    )


def test_the_estimate_is_on_average_the_gradient_times_the_directions() -> None:
    slope = np.array([1.0, -2.0, 0.5])
    directions = np.random.default_rng(0).standard_normal((200_000, 3))
    along = directions @ slope
    estimate = zeroth_order_gradient(along, -along, directions, 1.0)
    np.testing.assert_allclose(estimate / len(directions), slope, atol=0.03)


@given(initial=st.floats(1e-6, 10), limit=st.integers(1, 2000))
def test_the_learning_rate_falls_from_its_first_value_towards_zero(initial: float, limit: int) -> None:
    rates = [cosine_learning_rate(initial, step, limit) for step in range(1, limit + 2)]
    assert rates[0] == initial
    assert rates[-1] == pytest.approx(0, abs=1e-9 * initial)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
    assert math.fsum(rates) == pytest.approx(initial * (limit + 1) / 2)


@given(seed=st.integers(0, 1000))
def test_one_step_is_the_published_one(seed: int) -> None:
    oracle = Slope(np.random.default_rng(seed).standard_normal(6))
    settings = MobiEditSettings(step_limit=1, norm_limit=100, norm_penalty=0.0)
    solution = search(oracle, settings, seed)
    directions = np.random.default_rng(seed).standard_normal((5, 6))
    expected = -0.05 * sum((u @ oracle.slope) * u for u in directions)
    np.testing.assert_allclose(solution.delta, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(oracle.asked[0][0], np.concatenate([1e-3 * directions, -1e-3 * directions]))
    assert oracle.asked[0][1]


def test_the_penalty_is_on_the_length() -> None:
    oracle = Slope(np.zeros(4), floor=5.0)
    settings = MobiEditSettings(step_limit=2, norm_penalty=1.0, perturbation=1e-3, learning_rate=1e-9)
    losses: list[float] = []
    search(oracle, settings, on_step=lambda step: losses.append(step.loss))
    lengths = [np.linalg.norm(deltas, axis=1).mean() for deltas, _ in oracle.asked if len(deltas) > 1]
    np.testing.assert_allclose(losses[1:3], [5.0 + length for length in lengths], rtol=1e-9)


@given(seed=st.integers(0, 1000), limit=st.floats(0.05, 2.0))
def test_no_step_leaves_the_ball(seed: int, limit: float) -> None:
    oracle = Slope(np.random.default_rng(seed).standard_normal(6), floor=100.0)
    settings = MobiEditSettings(step_limit=5, norm_limit=limit, stop_every=1, learning_rate=1.0)
    search(oracle, settings, seed)
    looks = [deltas[0] for deltas, _ in oracle.asked if len(deltas) == 1]
    assert len(looks) == 5
    assert all(np.linalg.norm(delta) <= limit * (1 + 1e-9) for delta in looks)


@given(every=st.integers(1, 12), limit=st.integers(1, 40))
def test_the_confidence_is_looked_at_every_so_many_steps_and_at_the_end(every: int, limit: int) -> None:
    oracle = Slope(np.zeros(3))
    solution = search(oracle, MobiEditSettings(stop_every=every, step_limit=limit))
    steps, looks = 0, []
    for deltas, fresh in oracle.asked:
        if len(deltas) == 1:
            looks.append(steps)
            assert fresh
        else:
            steps += 1
    assert looks == sorted({*range(every, limit + 1, every), limit})
    assert solution.steps == steps == limit
    assert not solution.converged


def test_it_stops_at_the_first_look_that_finds_the_goal() -> None:
    # The goal is met from the start, but nobody looks before step 20.
    solution = search(Slope(np.zeros(3), floor=0.1), MobiEditSettings(stop_probability=0.9))
    assert solution.converged
    assert solution.steps == 20
    assert solution.target_probability == pytest.approx(math.exp(-0.1))


def test_the_cache_is_filled_in_step_one_and_where_the_loss_stands_still() -> None:
    oracle = Slope(np.zeros(3))
    search(oracle, MobiEditSettings(step_limit=9, stop_every=100, norm_penalty=0.0))
    fresh = [fresh for deltas, fresh in oracle.asked if len(deltas) > 1]
    # Four losses show the first fall over three steps; then the count starts again.
    assert [step for step, is_fresh in enumerate(fresh, 1) if is_fresh] == [1, 5, 9]
    assert len(oracle.refreshed) == 3


@given(st.lists(st.floats(-10, 10), max_size=30), st.floats(0, 1), st.integers(1, 5))
def test_a_plateau_is_a_small_fall_over_the_steps(losses: list[float], gain: float, steps: int) -> None:
    plateau, since = Plateau(gain, steps), 0
    for index, loss in enumerate(losses):
        expected = index - since >= steps and losses[index - steps] - loss < gain
        assert plateau.reached(loss) == expected
        if expected:
            since = index + 1


def test_a_loss_that_overflows_moves_nothing() -> None:
    solution = search(Slope(np.full(3, np.nan)), MobiEditSettings(step_limit=3))
    assert not solution.delta.any()
    assert not solution.converged


def test_raising_from_on_step_stops_before_the_next_call() -> None:
    class StopError(Exception):
        pass

    oracle = Slope(np.zeros(3))

    def stop(step: Step) -> None:
        if step.number == 2:
            raise StopError

    with pytest.raises(StopError):
        search(oracle, MobiEditSettings(), on_step=stop)
    assert len(oracle.asked) == 2
