"""What `mobifarm doctor` examines, writes and prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mobifarm.controller.cli import doctor as command
from mobifarm.controller.core.events import DeviceAdded, DeviceLost, DeviceReady, HostJoined, Identity
from mobifarm.controller.doctor.finding import Finding
from mobifarm.controller.doctor.seed import document
from mobifarm.controller.errors import DeviceError, UserError
from mobifarm.controller.paths import farm_paths
from mobifarm.controller.store.sqlite import SqliteStore
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
    files = [Path(phone["profile"]).name for phone in report["phones"]]  # both have one serial number
    assert files == ["S-1.json", "S-1-usb-1-3.json"]
    profile = Path(report["phones"][0]["profile"])
    assert profile.parent == tmp_path / "profiles"
    assert load_profile(str(profile)).memory_gib == 5


def test_the_table_obeys_no_phone(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert "memory" in done.stdout
    assert "usb:1-2 was not examined" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("phone", "words"),
    [
        ("S2", "several phones have the serial number S2: name one by its place, usb:1-2 or usb:1-3"),
        ("S9", "no phone that the farm knows"),
        ("hub1/usb:1-1", "no phone that the farm knows"),
    ],
)
def test_a_serial_that_names_no_single_phone_is_refused(tmp_path: Path, phone: str, words: str) -> None:
    failure = run(tmp_path, phone).exception
    assert isinstance(failure, UserError)
    assert words in str(failure)


def test_the_phone_that_was_asked_for_may_fail_the_command(tmp_path: Path) -> None:
    assert isinstance(run(tmp_path, "usb:1-2").exception, DeviceError)
    assert run(tmp_path, "S1", "--json").exit_code == 0


class ScriptedClient:
    """A farm that runs and examines every phone that it is asked for."""

    def __init__(self, paths: object) -> None:
        pass

    def __enter__(self) -> ScriptedClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get(self, path: str) -> Any:
        return {}

    def post(self, path: str, *, timeout_s: float) -> Any:
        device_id = path.removeprefix("/api/v1/devices/").removesuffix("/doctor")
        return document(device_id, f"asked-{device_id}", 1.0, [])


@pytest.fixture
def two_hosts(tmp_path: Path) -> None:
    """The farm has phones of one address at its own machine and at a joined host."""
    joined = HostJoined(1.0, "hub1", "10.0.0.2", {})
    added = (
        DeviceAdded(2.0, "usb:1-1", "usb:1-1", "usb"),
        DeviceAdded(3.0, "hub1/usb:1-1", "usb:1-1", "usb", "hub1"),
        DeviceAdded(4.0, "hub1/tcp:h:1", "tcp:h:1", "operator", "hub1"),
    )
    with SqliteStore(farm_paths(tmp_path).database) as store:
        store.append([joined, *added]).result(60)


@pytest.mark.usefixtures("two_hosts")
def test_phones_of_equal_addresses_are_told_apart_by_their_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "FarmClient", ScriptedClient)
    every = json.loads(run(tmp_path, "--json").stdout)["phones"]
    found = {phone["device_id"]: phone["serial"] for phone in every}
    through_the_farm = ("hub1/tcp:h:1", "hub1/usb:1-1", "usb:1-1")
    assert {name: found[name] for name in through_the_farm} == {n: f"asked-{n}" for n in through_the_farm}
    assert found["usb:1-3"] == "S/1"
    for asked, serial in (("hub1/tcp:h:1", "asked-hub1/tcp:h:1"), ("tcp:h:1", "S/1")):
        (phone,) = json.loads(run(tmp_path, asked, "--json").stdout)["phones"]
        assert (phone["device_id"], phone["serial"]) == (asked, serial)


def test_of_a_phone_that_was_at_several_places_the_one_where_it_is_gets_examined(tmp_path: Path) -> None:
    with SqliteStore(farm_paths(tmp_path).database) as store:
        for place in ("tcp:h:1", "tcp:h:2"):
            ready = DeviceReady(2.0, place, "host", Identity(place, "S7", "f"), {}, "virtual", (), "1", 0)
            store.append([DeviceAdded(1.0, place, place, "announced"), ready]).result(60)
        store.append([DeviceLost(3.0, "tcp:h:1", "it was unplugged")]).result(60)
    (phone,) = json.loads(run(tmp_path, "S7", "--json").stdout)["phones"]
    assert phone["device_id"] == "tcp:h:2"


@pytest.mark.usefixtures("two_hosts")
def test_a_phone_of_a_joined_host_needs_the_farm(tmp_path: Path) -> None:
    failure = run(tmp_path, "hub1/usb:1-1").exception
    assert isinstance(failure, UserError)
    assert "start it with `mobifarm up" in str(failure)
