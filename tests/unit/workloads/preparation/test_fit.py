from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.workloads.preparation.fit import factorise, with_core


@given(
    seed=st.integers(0, 2**32 - 1),
    rank=st.integers(1, 20),
    scale=st.floats(1e-3, 100),
    columns=st.sampled_from([(), (3,)]),
)
def test_the_inverse_is_applied_without_solving(
    seed: int, rank: int, scale: float, columns: tuple[int, ...]
) -> None:
    """One direction holds nearly all of the moment, as with real keys."""
    generator = np.random.default_rng(seed)
    factor = generator.standard_normal((20, rank))
    factor[:, 0] *= scale
    diagonal = generator.uniform(0.5, 2, 20)
    keys = generator.standard_normal((20, *columns))
    expected = np.linalg.solve(np.diag(diagonal) + factor @ factor.T, keys)
    found = with_core(diagonal, factor) @ keys
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_moment_is_kept_whole_up_to_its_loading() -> None:
    samples = np.random.default_rng(0).standard_normal((50, 8))
    moment = samples.T @ samples / 50
    inverse = factorise(moment)
    loaded = moment + 0.01 * np.trace(moment) / 8 * np.eye(8)
    np.testing.assert_allclose(inverse @ np.eye(8), np.linalg.inv(loaded), rtol=0.02, atol=0.02)


def test_a_moment_of_zeros_is_refused() -> None:
    with pytest.raises(ValueError, match="the second moment is zero"):
        factorise(np.zeros((3, 3)))
