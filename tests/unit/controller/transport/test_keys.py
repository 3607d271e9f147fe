"""The farm's ADB key."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from mobifarm.controller.errors import UserError
from mobifarm.controller.transport.keys import ensure_key


def test_a_key_is_made_once_and_is_private(tmp_path) -> None:
    path = tmp_path / "farm" / "adbkey"
    with ThreadPoolExecutor(3) as pool:
        keys = list(pool.map(ensure_key, [path] * 3))
    assert len({key.public_key() for key in keys}) == 1
    assert len({key.sign(b"x" * 20) for key in keys}) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(file.name for file in path.parent.iterdir()) == ["adbkey", "adbkey.pub"]


def test_a_key_that_others_can_read_is_refused(tmp_path) -> None:
    path = tmp_path / "adbkey"
    ensure_key(path)
    path.chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        ensure_key(path)


def test_a_file_that_is_no_key_is_refused(tmp_path) -> None:
    path = tmp_path / "adbkey"
    path.write_text("hello")
    path.chmod(0o600)
    with pytest.raises(UserError, match="is not an ADB key"):
        ensure_key(path)
