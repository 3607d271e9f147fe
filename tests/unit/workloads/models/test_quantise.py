from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from mobifarm.workloads.models.quantise import quantise_rows

matrices = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.floats(-100, 100, width=32)
)


@given(matrices)
def test_error_is_at_most_half_a_step(weight: NDArray[np.float32]) -> None:
    values, scales = quantise_rows(weight)
    assert np.abs(values.astype(np.int32)).max() <= 127
    error = np.abs(values * scales[:, None] - weight)
    assert (error <= scales[:, None] * 0.5001).all()


def test_row_of_subnormal_weights_is_a_row_of_zeros() -> None:
    values, scales = quantise_rows(np.full((1, 2), 3.273e-42, np.float32))
    assert not values.any()
    assert (scales == 1).all()


def test_row_of_zeros_stays_zero() -> None:
    values, scales = quantise_rows(np.zeros((2, 3), np.float32))
    assert not values.any()
    assert (scales == 1).all()
