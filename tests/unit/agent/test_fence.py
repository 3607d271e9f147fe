"""The highest fencing token is remembered, across restarts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobifarm.agent.errors import Fenced
from mobifarm.agent.fence import Fence, FenceError


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1) | st.integers(0, 5), st.booleans())))
def test_lets_in_exactly_what_is_not_below_the_highest_seen(tmp_path_factory, tokens):
    path = tmp_path_factory.mktemp("fence") / "token"
    fence, highest = Fence(path), 0
    for token, restart in tokens:
        if restart:
            fence = Fence(path)
        if token < highest:
            with pytest.raises(Fenced, match=str(highest)):
                fence.check(token)
        else:
            fence.check(token)
        highest = max(highest, token)
        assert fence.highest == highest


def test_a_token_that_cannot_be_stored_is_not_passed(tmp_path: Path):
    fence = Fence(tmp_path / "missing" / "token")
    with pytest.raises(FileNotFoundError):
        fence.check(3)
    assert fence.highest == 0


def test_a_file_that_holds_something_else_stops_the_start(tmp_path: Path):
    path = tmp_path / "token"
    path.write_text("seven")
    with pytest.raises(FenceError, match="delete it"):
        Fence(path)
