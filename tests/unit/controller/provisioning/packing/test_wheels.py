"""Wheels for another processor, with a pip that is only played."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.provisioning.packing import wheels
from mobifarm.controller.provisioning.packing.commands import DownloadError
from mobifarm.controller.provisioning.packing.wheels import fetch_wheels, unpack_wheels

WANTED = {"grpcio-health-checking": "1.85.1", "numpy": "2.4.6"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    calls: list[list[str]] = []

    def pip(command: Sequence[str], *_: Any, **__: Any) -> str:
        requirements = [word for word in command if "==" in word and not word.startswith("-")]
        calls.append(requirements)
        assert "--only-binary=:all:" in command
        assert "--platform=manylinux_2_28_aarch64" in command
        assert "--python-version=3.11" in command
        (folder,) = (Path(word.removeprefix("--dest=")) for word in command if word.startswith("--dest="))
        for requirement in requirements:
            name, version = requirement.split("==")
            file = f"{name.replace('-', '_')}-{version}-cp311-cp311-manylinux_2_28_aarch64.whl"
            with zipfile.ZipFile(folder / file, "w") as archive:
                archive.writestr(f"{name}.py", version)
        return ""

    monkeypatch.setattr(wheels, "run_command", pip)
    return calls


def fetch(folder: Path, wanted: dict[str, str]) -> list[str]:
    return [path.name for path in fetch_wheels(folder, wanted, "aarch64", "3.11", lambda _doing: None)]


def test_wheels_are_downloaded_once_and_old_ones_go(tmp_path: Path, asked: list[list[str]]) -> None:
    first = fetch(tmp_path, WANTED)
    assert first == [
        "grpcio_health_checking-1.85.1-cp311-cp311-manylinux_2_28_aarch64.whl",
        "numpy-2.4.6-cp311-cp311-manylinux_2_28_aarch64.whl",
    ]
    assert fetch(tmp_path, WANTED) == first
    newer = fetch(tmp_path, {**WANTED, "numpy": "2.5.0"})
    assert asked == [["grpcio-health-checking==1.85.1", "numpy==2.4.6"], ["numpy==2.5.0"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == newer


def test_unpacked_as_an_installation_would(tmp_path: Path, asked: list[list[str]]) -> None:
    there = fetch_wheels(tmp_path / "w", WANTED, "aarch64", "3.11", lambda _doing: None)
    unpack_wheels(there, tmp_path / "packages")
    assert (tmp_path / "packages" / "numpy.py").read_text() == "2.4.6"


def test_a_damaged_wheel_is_downloaded_the_next_time(tmp_path: Path, asked: list[list[str]]) -> None:
    first, *_ = there = fetch_wheels(tmp_path / "w", WANTED, "aarch64", "3.11", lambda _doing: None)
    first.write_bytes(b"?")
    with pytest.raises(DownloadError, match="arrived damaged; retry"):
        unpack_wheels(there, tmp_path / "packages")
    fetch(tmp_path / "w", WANTED)
    assert asked[-1] == ["grpcio-health-checking==1.85.1"]


def test_a_wheel_with_a_damaged_byte_is_said_to_be_damaged_and_goes(tmp_path: Path) -> None:
    wheel = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.py", b"hello " * 1000)
    content = bytearray(wheel.read_bytes())
    content[content.index(b"a.py") + len("a.py")] ^= 0xFF  # the first byte of what is packed
    wheel.write_bytes(content)
    with pytest.raises(DownloadError, match="damaged"):
        unpack_wheels([wheel], tmp_path / "target")
    assert not wheel.exists()
