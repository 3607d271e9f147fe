"""Which runtime a phone gets."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.errors import DeviceError, HostError
from mobifarm.controller.provisioning import runtime
from mobifarm.controller.provisioning.packing import registries, this_machine
from mobifarm.controller.provisioning.packing.archive import Member


def test_of_some_processors_no_runtime_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"no agent runtime for armeabi-v7a phones: .* arm64-v8a"):
        runtime.ensure_runtime(tmp_path, "armeabi-v7a")


def test_arm64_is_known_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine, known in (
        ("x86_64", ["arm64-v8a", "x86_64"]),
        ("aarch64", ["arm64-v8a"]),
        ("riscv64", ["arm64-v8a"]),
    ):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert runtime.known_abis() == known


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where each Python was made from; nothing is downloaded."""
    calls: list[str] = []

    def fetched(_folder: Path, unpacked: registries.Unpacked, *_: Any, anew: bool) -> list[Member]:
        calls.append("registries, anew" if anew else "registries")
        (unpacked.system / "python").write_bytes(b"arm64")
        return [Member("bin/python3", unpacked.system / "python")]

    def ours() -> list[Member]:
        calls.append("this machine")
        return [Member("bin/python3", content=b"x86")]

    monkeypatch.setattr(registries, "python_members", fetched)
    monkeypatch.setattr(this_machine, "python_members", ours)
    return calls


def test_this_machines_python_or_another_ones(
    tmp_path: Path, packed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    here, there = (runtime.ensure_runtime(tmp_path, abi) for abi in ("x86_64", "arm64-v8a"))
    assert packed == ["this machine", "registries"]
    assert here.python.hash != there.python.hash
    assert here.agent == there.agent
    assert not list(tmp_path.rglob("unpacked"))

    # Packed once; again only where that is asked for, with the same result.
    assert runtime.ensure_runtime(tmp_path, "arm64-v8a") == there
    assert packed == ["this machine", "registries"]
    assert runtime.ensure_runtime(tmp_path, "arm64-v8a", anew=True) == there
    assert packed[-1] == "registries, anew"

    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    runtime.ensure_runtime(tmp_path / "other", "arm64-v8a")
    assert packed[-1] == "this machine"


def test_what_could_not_be_downloaded_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> list[Member]:
        raise HostError("no network")

    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(registries, "python_members", fails)
    with pytest.raises(HostError, match="no network"):
        runtime.ensure_runtime(tmp_path, "arm64-v8a")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "runtimes" / ".lock"]
