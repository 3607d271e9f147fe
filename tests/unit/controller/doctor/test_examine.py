"""The doctor over a scripted link, and of this computer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.doctor.computer import examine_computer
from mobifarm.controller.doctor.phone import DEADLINE_S, examine
from mobifarm.controller.doctor.probes import SHELL_PROBES
from mobifarm.controller.errors import DeviceError
from mobifarm.controller.paths import FarmPaths
from mobifarm.controller.transport.interface import ShellResult
from mobifarm.controller.transport.usb import UsbPhone, UsbScan


class Link:
    address = "tcp:x:1"
    features = frozenset({"shell_v2"})

    def __init__(self, *, change_bytes: bool = False, step_s: float = 0.001) -> None:
        self.loss_reason = ""
        self.now = 0.0
        self.step_s = step_s
        self.change_bytes = change_bytes
        self.files: dict[str, bytes] = {}
        self.lose_at = ""
        self.scripts: list[str] = []

    def clock(self) -> float:
        self.now += self.step_s
        return self.now

    def shell(self, command: str, timeout_s: float = 30.0) -> ShellResult:
        self.scripts.append(command)
        if self.lose_at and self.lose_at in command:
            self.loss_reason = "the cable was pulled"
            raise DeviceError(self.loss_reason)
        if "ready.json" in command:
            return ShellResult(0, '{"address": "unix-abstract:agent"}', "")
        if "uname" in command:
            raise DeviceError("`uname` did not end within 10 s")
        return ShellResult(0, "", "")

    def push_bytes(self, data: bytes, target: str, mode: int, timeout_s: float) -> None:
        self.files[target] = data

    def pull_bytes(self, source: str, timeout_s: float) -> bytes:
        return b"x" if self.change_bytes else self.files[source]

    def open_stream(self, destination: str, timeout_s: float) -> Any:
        raise DeviceError(f"{destination} is closed")


def results(link: Link) -> dict[str, Any]:
    return {found.probe: found for found in examine(link, link.clock)}  # type: ignore[arg-type]


def test_every_probe_has_a_finding_and_one_that_hangs_hinders_no_other() -> None:
    found = results(Link())
    expected = [probe.name for probe in SHELL_PROBES]
    expected += ["abstract_socket", "adb_features", "round_trip", "push", "pull"]
    assert list(found) == expected
    assert found["kernel"].status == "unknown"
    assert "did not end" in found["kernel"].meaning
    assert found["abstract_socket"].status == "failed"
    assert found["adb_features"].value == ["shell_v2"]
    assert found["push"].value == round((8 << 20) / 0.001 / 1e6, 1)


def test_a_cable_that_changes_bytes_is_told() -> None:
    assert results(Link(change_bytes=True))["pull"].status == "failed"


def test_the_whole_has_a_deadline() -> None:
    link = Link(step_s=DEADLINE_S / 5)
    assert "not asked" in results(link)["screen"].meaning
    assert len(link.scripts) < 8


def test_a_link_that_is_lost_ends_it_without_waiting() -> None:
    link = Link()
    link.lose_at = "getenforce"
    found = results(link)
    assert found["battery"].status == "unknown"
    assert "cable was pulled" in found["battery"].meaning
    assert not any("power_supply" in script for script in link.scripts)


@pytest.fixture
def paths(tmp_path: Path) -> FarmPaths:
    (tmp_path / "adbkey").write_text("secret")
    (tmp_path / "adbkey").chmod(0o600)
    return FarmPaths(tmp_path)


def computer(paths: FarmPaths, scan: UsbScan | None = None, *, adb: bool = False) -> dict[str, Any]:
    folder = paths.home / "rules"
    found = examine_computer(
        paths,
        scan=lambda: scan or UsbScan(()),
        rule_folders=(folder, paths.home / "absent"),
        adb_server_answers=lambda: adb,
    )
    return {finding.probe: finding for finding in found}


def test_a_computer_in_order(paths: FarmPaths) -> None:
    (paths.home / "rules").mkdir()
    (paths.home / "rules" / "51-android.rules").touch()
    found = computer(paths, UsbScan((UsbPhone("1-2", "S1"),)))
    assert found["usb"].value == ["usb:1-2"]
    assert {name: finding.status for name, finding in found.items() if name != "disk"} == dict.fromkeys(
        ("usb", "udev_rule", "adb_server", "secrets"), "ok"
    )


def test_what_is_wrong_says_what_to_do(paths: FarmPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    (paths.home / "adbkey").chmod(0o644)
    found = computer(paths, UsbScan((UsbPhone("1-2", ""),)), adb=True)
    assert "usb:1-2" in found["usb"].meaning
    assert "android-sdk-platform-tools-common" in found["udev_rule"].meaning
    assert "adb kill-server" in found["adb_server"].meaning
    assert found["secrets"].value == ["adbkey"]
    assert "chmod 600" in found["secrets"].meaning
    assert computer(paths, UsbScan((), "libusb is missing"))["usb"].status == "failed"
