import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent.editor.write_back import edit_key


@given(seed=st.integers(0, 2**32 - 1), with_covariance=st.booleans())
def test_the_edited_weight_maps_the_key_to_the_new_value(seed: int, with_covariance: bool) -> None:
    generator = np.random.default_rng(seed)
    keys, values = 12, 7
    weight = generator.standard_normal((values, keys))
    key, new_value = generator.standard_normal(keys), generator.standard_normal(values)
    samples = generator.standard_normal((100, keys))
    inverse = np.linalg.inv(samples.T @ samples / 100) if with_covariance else None
    edited = weight + np.outer(new_value - weight @ key, edit_key(key, inverse))
    np.testing.assert_allclose(edited @ key, new_value, atol=1e-9)


def test_keys_that_the_covariance_knows_well_are_spared() -> None:
    key, common = np.array([1.0, 1.0]), np.array([0.0, 1.0])
    inverse = np.linalg.inv(np.diag([1.0, 9.0]))
    assert abs(common @ edit_key(key, inverse)) < abs(common @ edit_key(key))


def test_a_key_of_zeros_is_refused() -> None:
    with pytest.raises(ValueError, match="the key is zero"):
        edit_key(np.zeros(3))
