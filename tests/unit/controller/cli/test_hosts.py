"""What `mobifarm join` says before it asks the farm."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobifarm.controller.cli.hosts import join
from mobifarm.controller.errors import UserError


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"\x80\xff", "it holds no token")])
def test_a_token_that_cannot_be_read_is_told_in_a_sentence(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    with pytest.raises(UserError, match=f"{reason}.*--token-file"):
        join("farm", token_file=token, home=tmp_path)
