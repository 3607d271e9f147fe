"""Phones with another processor than the computer's."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from mobifarm.simulator import emulation
from mobifarm.simulator.emulation import (
    Emulation,
    EmulationUnavailableError,
    find_emulation,
    processor_list,
)


@pytest.fixture(autouse=True)
def on_a_pc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(emulation, "_TABLE", str(tmp_path))


def test_the_computers_own_programs_need_none() -> None:
    assert find_emulation("") is None
    assert find_emulation("x86_64") is None


def test_other_processors_and_missing_programs_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EmulationUnavailableError, match="arm64-v8a and x86_64 phones here, not riscv64"):
        find_emulation("riscv64")
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(EmulationUnavailableError, match="no static qemu-aarch64 is installed"):
        find_emulation("arm64-v8a")


@pytest.mark.parametrize(("flags", "used"), [("POCF", True), ("F", True), ("OC", False)])
def test_a_computer_that_runs_them_anyway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, used: bool
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    table = tmp_path / "qemu-aarch64"
    table.write_text(f"enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: {flags}\noffset 0\n")
    if used:
        found = find_emulation("arm64-v8a")
        assert found == Emulation("arm64-v8a", None)
        assert found.command_prefix == []
    else:
        with pytest.raises(EmulationUnavailableError):
            find_emulation("arm64-v8a")
    table.write_text(f"disabled\nflags: {flags}\n")
    with pytest.raises(EmulationUnavailableError):
        find_emulation("arm64-v8a")


def test_an_entry_of_the_table_that_the_kernel_can_read() -> None:
    script = Emulation("arm64-v8a", Path("/q")).command_prefix[-2]
    assert r":qemu-aarch64:M::\x7fELF\x02\x01\x01" in script
    assert r"\xb7\x00:" in script
    assert script.endswith('exec "$@"')


def test_every_processor_is_listed() -> None:
    text = processor_list(3)
    assert [line for line in text.splitlines() if line.startswith("processor")] == [
        f"processor\t: {number}" for number in range(3)
    ]
    assert text.count("asimddp\n") == 3


def test_a_qemu_that_needs_libraries_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which("sh")
    monkeypatch.setattr(shutil, "which", lambda name: program if name == "qemu-aarch64" else None)
    with pytest.raises(EmulationUnavailableError, match="no static qemu-aarch64"):
        find_emulation("arm64-v8a")
