"""The command line as a whole: what a mistake or a machine in trouble ends in."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from mobifarm.controller.cli import main as module


def run(arguments: Sequence[object], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["mobifarm", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # with pytest's there the log is not opened
    (tmp_path / "farm.log").mkdir()
    assert run(["up", "--home", tmp_path], monkeypatch) == 5
    assert capsys.readouterr().err == f"error: {tmp_path}/farm.log: Is a directory\n"


def test_a_full_disk_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("logging.basicConfig", full)
    assert run(["up", "--home", tmp_path], monkeypatch) == 5
    assert capsys.readouterr().err == "error: No space left on device\n"


@pytest.mark.parametrize("fault", [KeyError("odd\x1b[2J"), OSError(errno.EBADF, "Bad file descriptor")])
def test_what_nobody_foresaw_is_called_a_fault_and_keeps_its_traceback(
    fault: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**_: object) -> None:
        raise fault

    monkeypatch.setattr("logging.basicConfig", broken)
    assert run(["up", "--home", tmp_path], monkeypatch) == 70
    said = capsys.readouterr().err
    assert said.startswith("error: this is a fault of MobiFarm: please report it")
    assert "Traceback" in said
    assert type(fault).__name__ in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "99999"],
        ["--port", "-1"],
        ["--attempt-limit", "0"],
        ["--attempt-limit", "nan"],
        ["--lost-grace", "-1"],
        ["--lost-grace", "inf"],
    ],
)
def test_options_that_no_farm_can_have_are_refused(
    tmp_path: Path,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["up", "--home", tmp_path, *arguments], monkeypatch) == 2
    assert f"Invalid value for '{arguments[0]}'" in capsys.readouterr().err
    assert not (tmp_path / "farm.log").exists()
