import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.agent.editor.write_back import edit_key, shared_edit_key


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


@given(seed=st.integers(0, 2**32 - 1))
def test_one_prompts_key_is_the_published_one(seed: int) -> None:
    generator = np.random.default_rng(seed)
    key, samples = generator.standard_normal(12), generator.standard_normal((100, 12))
    inverse = np.linalg.inv(samples.T @ samples / 100)
    np.testing.assert_allclose(shared_edit_key(key[None], inverse), edit_key(key, inverse))
    # Equal keys are one key, and a ridge without bound takes their mean.
    np.testing.assert_allclose(shared_edit_key(np.stack([key] * 3), inverse), edit_key(key, inverse))
    keys = key + 0.1 * generator.standard_normal((3, 12))
    np.testing.assert_allclose(
        shared_edit_key(keys, inverse, ridge=1e9), edit_key(keys.mean(axis=0), inverse), rtol=1e-6
    )


@given(seed=st.integers(0, 2**32 - 1))
def test_every_prompt_gets_its_share(seed: int) -> None:
    """One prompt's key differs from the others', as where the subject begins the text."""
    generator = np.random.default_rng(seed)
    inverse = np.linalg.inv(np.cov(generator.standard_normal((200, 24)), rowvar=False))
    common = generator.standard_normal(24)
    keys = common + 0.05 * generator.standard_normal((3, 24))
    keys[0] = 0.2 * common + generator.standard_normal(24)
    shares = keys @ shared_edit_key(keys, inverse)
    alone = keys @ edit_key(keys.mean(axis=0), inverse)
    assert shares.mean() == pytest.approx(1)
    assert np.ptp(shares) < 0.2
    assert np.ptp(shares) < np.ptp(alone)


def test_keys_of_zeros_are_refused() -> None:
    with pytest.raises(ValueError, match="the keys are zero"):
        shared_edit_key(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="cancel each other"):
        shared_edit_key(np.array([[1.0, 0.0], [-1.0, 0.0]]))
