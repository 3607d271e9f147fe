"""What is asked of a phone before anything is pushed to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.errors import DeviceError
from mobifarm.controller.provisioning.install import install_runtime
from mobifarm.controller.provisioning.packing.archive import Member, pack
from mobifarm.controller.provisioning.runtime import Runtime
from mobifarm.controller.transport.interface import ShellResult


class FullPhone:
    """Has ``free`` bytes and nothing of the farm."""

    address = "tcp:x:1"

    def __init__(self, free: int) -> None:
        self.free = free
        self.pushed: list[str] = []

    def shell(self, command: str, timeout_s: float = 30.0) -> ShellResult:
        if command.startswith("df "):
            return ShellResult(0, f"Filesystem 1K-blocks\n/dev/x 9 9 {self.free >> 10} 9% /data\n", "")
        return ShellResult(1 if command.startswith("test ") else 0, "", "")

    def push(self, source: Path, target: str) -> None:
        self.pushed.append(target)
        raise DeviceError("enough for this test")


def test_a_phone_without_space_is_told_before_anything_is_pushed(tmp_path: Path) -> None:
    files = [Member(str(number), content=os.urandom(1 << 20)) for number in range(8)]
    python = pack(tmp_path, files, level=1)
    runtime = Runtime("arm64-v8a", python, pack(tmp_path, [], level=1))
    # The archive, its files beside it, and what is left to the phone.
    needed = python.size_bytes + python.unpacked_bytes + (64 << 20)
    phone: Any = FullPhone(needed - (1 << 20))
    with pytest.raises(DeviceError, match=r"tcp:x:1: 80 MiB are needed in /home and 79 MiB are free; delete"):
        install_runtime(phone, "/home", runtime)
    assert phone.pushed == []
    phone.free = needed + (1 << 20)
    with pytest.raises(DeviceError, match="enough for this test"):
        install_runtime(phone, "/home", runtime)
    assert len(phone.pushed) == 1
