"""What `mobifarm doctor` examines, writes and prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mobifarm.controller.cli import doctor as command
from mobifarm.controller.doctor.finding import Finding
from mobifarm.controller.doctor.seed import document
from mobifarm.controller.errors import DeviceError, UserError
from mobifarm.controller.transport.usb import UsbPhone, UsbScan
from mobifarm.simulator.profile import load_profile

PHONES = UsbScan((UsbPhone("1-1", "S1"), UsbPhone("1-2", "S2"), UsbPhone("1-3", "S2")))


@pytest.fixture(autouse=True)
def bus(monkeypatch: pytest.MonkeyPatch) -> None:
    def examined(address: str, paths: object) -> dict[str, Any]:
        if address == "usb:1-2":
            raise DeviceError("it does not answer\x1b[2J")
        found = [Finding("memory", "ok", 5 << 30, "e", "bytes \x1b[31m that")]
        return document(address, "S/1", 1.0, found)

    monkeypatch.setattr("mobifarm.controller.transport.usb.list_usb", lambda: PHONES)
    monkeypatch.setattr("mobifarm.controller.doctor.computer.examine_computer", lambda paths: [])
    monkeypatch.setattr(command, "_by_an_own_link", examined)


def run(tmp_path: Path, *arguments: str) -> Any:
    app = typer.Typer()
    app.command()(command.doctor)
    return CliRunner().invoke(app, [*arguments, "--home", str(tmp_path)])


def test_all_phones_are_examined_and_one_that_fails_hinders_no_other(tmp_path: Path) -> None:
    done = run(tmp_path, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert [phone["device_id"] for phone in report["phones"]] == ["usb:1-1", "usb:1-3"]
    assert [problem["device_id"] for problem in report["problems"]] == ["usb:1-2"]
    profile = Path(report["phones"][0]["profile"])
    assert profile.parent == tmp_path / "profiles"
    assert load_profile(str(profile)).memory_gib == 5


def test_the_table_obeys_no_phone(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert "memory" in done.stdout
    assert "usb:1-2 was not examined" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("phone", "words"), [("S2", "several phones have"), ("S9", "no phone that the farm knows")]
)
def test_a_serial_that_names_no_single_phone_is_refused(tmp_path: Path, phone: str, words: str) -> None:
    failure = run(tmp_path, phone).exception
    assert isinstance(failure, UserError)
    assert words in str(failure)


def test_the_phone_that_was_asked_for_may_fail_the_command(tmp_path: Path) -> None:
    assert isinstance(run(tmp_path, "usb:1-2").exception, DeviceError)
    assert run(tmp_path, "S1", "--json").exit_code == 0
