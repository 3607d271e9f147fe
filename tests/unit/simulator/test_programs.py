from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mobifarm.simulator.programs import format_build_properties, write_scripts


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    properties = {"ro.product.model": "Pixel 8", "ro.strange": "a=b", "ro.empty": ""}
    (tmp_path / "build.prop").write_text(format_build_properties(properties))
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "battery").write_text("level: 80\n")
    write_scripts(tmp_path, shell_path="/bin/sh", services=str(tmp_path / "services"), with_identity=True)
    return tmp_path


def run(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"ANDROID_ROOT": str(folder), "ANDROID_DATA": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        [folder / name, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=20
    )


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["ro.product.model"], "Pixel 8\n"),
        (["ro.strange"], "a=b\n"),
        (["ro.none"], "\n"),
        (["ro.none", "default"], "default\n"),
        ([], "[ro.empty]: []\n[ro.product.model]: [Pixel 8]\n[ro.strange]: [a=b]\n"),
    ],
)
def test_getprop(programs: Path, arguments: list[str], output: str) -> None:
    done = run(programs, "getprop", *arguments)
    assert (done.returncode, done.stdout) == (0, output)


def test_input_writes_down_which_keys_are_pressed(programs: Path) -> None:
    (programs / "local" / "tmp").mkdir(parents=True)
    for key in ("KEYCODE_WAKEUP", "KEYCODE_SLEEP"):
        assert run(programs, "input", "keyevent", key).returncode == 0
    assert (programs / "local" / "tmp" / "input-events").read_text() == "KEYCODE_WAKEUP\nKEYCODE_SLEEP\n"
    assert run(programs, "input", "swipe").returncode == 1


def test_dumpsys(programs: Path) -> None:
    assert run(programs, "dumpsys", "battery").stdout == "level: 80\n"
    assert run(programs, "dumpsys", "nothing").stdout == "Can't find service: nothing\n"
    assert run(programs, "dumpsys", "../build.prop").returncode == 1
    assert run(programs, "dumpsys").returncode == 1


def test_identity(programs: Path) -> None:
    assert run(programs, "id").stdout.startswith("uid=2000(shell)")
    assert run(programs, "id", "-u").stdout == "2000\n"
    assert run(programs, "id", "-un").stdout == run(programs, "whoami").stdout == "shell\n"


@pytest.mark.parametrize("properties", [{"a=b": "c"}, {"a": "b\nc=d"}])
def test_properties_that_break_the_file_are_refused(properties: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="property"):
        format_build_properties(properties)
