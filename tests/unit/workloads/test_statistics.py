"""Estimates: known values, and what must hold for all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.workloads.statistics import (
    bootstrap_mean_interval,
    mean,
    median,
    quantile,
    wilson_interval,
)

shares = st.floats(0, 1)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)],
)
def test_wilson_gives_the_published_intervals(successes: int, trials: int, low: float, high: float) -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    interval = wilson_interval(successes, trials)
    assert interval.low == pytest.approx(low, abs=6e-5)
    assert interval.high == pytest.approx(high, abs=6e-5)


@given(st.integers(1, 10_000), st.data(), st.floats(0.01, 0.999))
def test_wilson_holds_the_share_and_mirrors(trials: int, data: st.DataObject, confidence: float) -> None:
    successes = data.draw(st.integers(0, trials))
    interval = wilson_interval(successes, trials, confidence)
    assert 0 <= interval.low <= successes / trials <= interval.high <= 1
    mirrored = wilson_interval(trials - successes, trials, confidence)
    assert mirrored.low == pytest.approx(1 - interval.high, abs=1e-9)
    if 0 < successes < trials:
        wider = wilson_interval(successes, trials, (1 + confidence) / 2)
        assert wider.low < interval.low < interval.high < wider.high


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_proportion(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson_interval(successes, trials)


@given(st.lists(shares, min_size=1, max_size=30), st.integers(0, 2**32))
def test_bootstrap_stays_within_the_values_and_repeats_with_its_seed(values: list[float], seed: int) -> None:
    interval = bootstrap_mean_interval(values, np.random.default_rng(seed), resamples=50)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval == bootstrap_mean_interval(values, np.random.default_rng(seed), resamples=50)


def test_bootstrap_covers_the_true_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(300):
        values = list(generator.random(40))
        interval = bootstrap_mean_interval(values, generator, resamples=400)
        covered += interval.low <= 0.5 <= interval.high
    assert 0.88 * 300 <= covered <= 300 * 0.99


def test_copies_of_an_observation_do_not_narrow_a_clustered_interval() -> None:
    values = list(np.random.default_rng(1).random(12))
    names = list(range(12))
    once = bootstrap_mean_interval(values, np.random.default_rng(2), clusters=names)
    copied = bootstrap_mean_interval(values * 9, np.random.default_rng(2), clusters=names * 9)
    naive = bootstrap_mean_interval(values * 9, np.random.default_rng(2))
    assert copied.low == pytest.approx(once.low)
    assert copied.high == pytest.approx(once.high)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


def test_bootstrap_refuses_what_it_cannot_estimate() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_mean_interval([], generator)
    with pytest.raises(ValueError, match="cluster names"):
        bootstrap_mean_interval([1.0], generator, clusters=["a", "b"])
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_mean_interval([1.0], generator, confidence=1.0)


def test_middle_and_mean_of_nothing_are_unknown() -> None:
    assert (median([]), mean([]), quantile([], 0.9)) == (None, None, None)


def test_quantiles_lie_linearly_between_neighbours() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([1.0, 2.0]) == 1.5
    assert quantile([0.0, 10.0], 0.9) == pytest.approx(9.0)
    assert mean([0.1] * 10) == 0.1
