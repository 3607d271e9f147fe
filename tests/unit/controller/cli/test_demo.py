from __future__ import annotations

from pathlib import Path

import pytest

from mobifarm.controller.cli.demo import MARKER, _empty_farm
from mobifarm.controller.errors import UserError


def test_new_folder_is_made_and_marked(tmp_path: Path) -> None:
    paths = _empty_farm(tmp_path / "demo")
    assert (paths.home / MARKER).exists()


def test_earlier_demo_is_emptied(tmp_path: Path) -> None:
    _empty_farm(tmp_path / "demo")
    (tmp_path / "demo" / "farm.sqlite").touch()
    paths = _empty_farm(tmp_path / "demo")
    assert [file.name for file in paths.home.iterdir()] == [MARKER]


def test_folder_with_anything_else_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.touch()
    with pytest.raises(UserError, match="--home"):
        _empty_farm(tmp_path)
    assert precious.exists()
