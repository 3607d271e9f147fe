"""Where --home may stand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mobifarm.controller.cli import devices, tokens
from mobifarm.controller.errors import UserError
from mobifarm.controller.paths import FarmPaths


@pytest.mark.parametrize("before", [True, False])
def test_the_home_stands_before_or_after_a_subcommand(
    before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOBIFARM_HOME", str(tmp_path / "other"))
    home = ["--home", str(tmp_path / "own")]
    made = CliRunner().invoke(
        tokens.app, [*home, "create", "ann"] if before else ["create", "ann", *home], catch_exceptions=False
    )
    assert made.exit_code == 0
    assert (tmp_path / "own" / "tokens.json").exists()


def test_without_one_the_home_is_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOBIFARM_HOME", str(tmp_path))
    assert CliRunner().invoke(tokens.app, ["create", "ann"], catch_exceptions=False).exit_code == 0
    assert (tmp_path / "tokens.json").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["add", "computer"],
        *([name, "usb:1-2"] for name in ("release", "drain", "undrain", "identify", "forget", "tag")),
        ["quarantine", "usb:1-2", "--reason", "x"],
    ],
)
def test_every_command_about_a_phone_takes_it_last(
    command: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def no_farm(paths: FarmPaths) -> None:
        asked.append(paths.home)
        raise UserError("no farm runs")

    monkeypatch.setattr(devices, "FarmClient", no_farm)
    with pytest.raises(UserError):
        CliRunner().invoke(devices.app, [*command, "--home", str(tmp_path)], catch_exceptions=False)
    assert asked == [tmp_path.resolve()]
