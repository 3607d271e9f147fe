import hashlib

import pytest

from mobifarm.agent.editor import canonical_json, settings_hash, validate_settings
from mobifarm.agent.editor.settings import ForwardSettings, parse_settings
from mobifarm.agent.errors import InputError


def test_what_is_not_named_keeps_its_default() -> None:
    settings = validate_settings("forward", {"directions": 8})
    assert settings["directions"] == 8
    assert settings["norm_limit"] == 4.0
    assert validate_settings("forward", settings) == settings


def test_whole_numbers_may_come_as_floats() -> None:
    settings = parse_settings(ForwardSettings, {"directions": 16.0, "norm_limit": 3})
    assert settings == ForwardSettings(directions=16, norm_limit=3.0)
    assert isinstance(settings.directions, int)
    assert isinstance(settings.norm_limit, float)


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        validate_settings(
            "forward",
            {
                "direction": 8,
                "directions": 1.5,
                "differences": "backward",
                "norm_limit": float("nan"),
                "step_limit": True,
                "stop_probability": 1.0,
                "contexts": "3",
            },
        )
    message = str(caught.value)
    for part in (
        "'direction' is no setting (known: contexts, probe_contexts, directions,",
        "directions is 1.5: give a whole number from 2 to 4096",
        "differences is 'backward': choose one of forward, central",
        "norm_limit is nan: give a number from 0.01 to 100.0",
        "step_limit is True: give a whole number from 1 to 100000",
        "stop_probability is 1.0: give a number from 0.01 to 0.9999",
        "contexts is '3': give a whole number from 1 to 6",
    ):
        assert part in message


def test_a_number_beyond_all_floats_is_a_bad_value() -> None:
    with pytest.raises(InputError, match="give a whole number from 1 to 6"):
        validate_settings("forward", {"contexts": 10**400})
    with pytest.raises(InputError, match="norm_limit is inf"):
        validate_settings("forward", {"norm_limit": float("inf")})


def test_unhashable_values_are_bad_values() -> None:
    with pytest.raises(InputError, match="differences is \\[\\]"):
        validate_settings("forward", {"differences": []})


def test_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="'backward' is no editing method: choose one of forward"):
        validate_settings("backward", {})


def test_equal_settings_have_equal_names() -> None:
    assert canonical_json({"b": 1.0, "a": "x"}) == '{"a":"x","b":1.0}'
    assert settings_hash({"b": 1.0, "a": "x"}) == hashlib.sha256(b'{"a":"x","b":1.0}').hexdigest()
    one, two = (validate_settings("forward", given) for given in ({"directions": 8.0}, {"directions": 8}))
    assert settings_hash(one) == settings_hash(two)
