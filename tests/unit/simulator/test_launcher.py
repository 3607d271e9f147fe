from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobifarm.simulator import launcher
from mobifarm.simulator.control import PhoneRecord
from mobifarm.simulator.emulation import Emulation, EmulationUnavailableError
from mobifarm.simulator.launcher import LaunchSettings, plan_phones, running_phones, share_processors
from mobifarm.simulator.phone import PhoneError
from mobifarm.simulator.profile import UnknownProfileError


def test_kinds_are_used_in_turn_and_names_are_unique(tmp_path: Path) -> None:
    planned = plan_phones(LaunchSettings(tmp_path, count=5, port=6000))
    assert [phone.name for phone in planned] == [
        "pixel-8",
        "galaxy-s24",
        "oneplus-12",
        "pixel-8-2",
        "galaxy-s24-2",
    ]
    assert [phone.port for phone in planned] == [6000, 6001, 6002, 6003, 6004]
    assert len({phone.serial for phone in planned}) == 5


@given(machine=st.integers(1, 64), phones=st.integers(1, 64))
def test_processors_are_shared_evenly(machine: int, phones: int) -> None:
    shares = share_processors(range(100, 100 + machine), phones)
    assert len(shares) == phones
    assert {len(share) for share in shares} == {max(1, machine // phones)}
    uses = Counter(processor for share in shares for processor in share)
    assert set(uses) <= set(range(100, 100 + machine))
    if phones <= machine:
        assert set(uses.values()) == {1}
    else:
        assert max(uses.values()) - min(uses.values()) <= 1
        assert len(uses) == machine


def test_named_kinds_and_free_ports(tmp_path: Path) -> None:
    planned = plan_phones(LaunchSettings(tmp_path, count=2, profiles=["oneplus-12"]))
    assert [(phone.name, phone.port) for phone in planned] == [("oneplus-12", 0), ("oneplus-12-2", 0)]


def test_each_phone_on_usb_has_a_controller_of_its_own(tmp_path: Path) -> None:
    planned = plan_phones(LaunchSettings(tmp_path, count=2, usb=True), ["udc.0", "udc.1", "udc.2"])
    assert [phone.usb_controller for phone in planned] == ["udc.0", "udc.1"]
    with pytest.raises(PhoneError, match=r"has 1 \(`modprobe dummy_hcd num=2`"):
        plan_phones(LaunchSettings(tmp_path, count=2, usb=True), ["udc.0"])
    assert {phone.usb_controller for phone in plan_phones(LaunchSettings(tmp_path, count=2), ["udc.0"])} == {
        ""
    }


def test_a_neural_processor_is_asked_for_where_a_phone_has_one(tmp_path: Path) -> None:
    asked = LaunchSettings(tmp_path, count=2, npu=True)
    assert all(phone.npu for phone in plan_phones(asked))
    assert not any(phone.npu for phone in plan_phones(replace(asked, npu=False)))
    with pytest.raises(PhoneError, match="none of these phones has a Snapdragon"):
        plan_phones(replace(asked, profiles=["pixel-8"]))


def test_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownProfileError):
        plan_phones(LaunchSettings(tmp_path, profiles=["x"]))


def test_only_phones_of_living_launchers_are_listed(tmp_path: Path) -> None:
    alive = PhoneRecord("a", "S", "pixel-8", "tcp:127.0.0.1:1", "/c", os.getpid(), True)
    dead = PhoneRecord("b", "S", "pixel-8", "tcp:127.0.0.1:1", "/c", 2**22 + 1, True)
    for record in (alive, dead):
        (tmp_path / f"{record.name}.json").write_text(record.to_json())
    (tmp_path / "c.json").write_text("not json")
    assert running_phones(tmp_path) == [alive]


def test_another_processor_is_not_there_without_the_sandbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "find_emulation", lambda abi: Emulation(abi, None))
    with pytest.raises(PhoneError, match="arm64-v8a phones need their sandbox here; leave --unsandboxed out"):
        launcher.choose_machine(tmp_path, True, "arm64-v8a")

    def refused(_abi: str) -> None:
        raise EmulationUnavailableError("qemu is missing")

    # Never a phone of another kind than was asked for.
    monkeypatch.setattr(launcher, "find_emulation", refused)
    with pytest.raises(PhoneError, match="no arm64-v8a phone can be run here: qemu is missing"):
        launcher.choose_machine(tmp_path, False, "arm64-v8a")


def test_a_profile_that_lies_where_its_phone_announces_itself_is_refused(tmp_path: Path) -> None:
    profile = tmp_path / "mine.json"
    profile.write_text((files("mobifarm.simulator") / "profiles" / "pixel-8.json").read_text())
    with pytest.raises(PhoneError, match="keep the profile in another folder"):
        plan_phones(LaunchSettings(tmp_path, profiles=[str(profile)]))
    assert plan_phones(LaunchSettings(tmp_path / "home", profiles=[str(profile)]))[0].name == "mine"


@pytest.mark.parametrize("serial", ["a\nb", "a=b c", "x" * 65])
def test_a_serial_number_that_cannot_be_one_is_refused(tmp_path: Path, serial: str) -> None:
    with pytest.raises(PhoneError, match="--serial has other characters"):
        plan_phones(LaunchSettings(tmp_path, serial=serial))


def test_a_phone_whose_sensors_cannot_be_written_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    broken, whole = mock.Mock(), mock.Mock()
    broken.sensors_stand_still = False
    broken.settings.name = "pixel-8"
    broken.update_sensors.side_effect = OSError(28, "No space left on device")
    for _ in range(3):
        launcher.update_sensors([broken, whole], {})
    assert whole.update_sensors.call_count == 3
    assert [record.getMessage() for record in caplog.records] == [
        "the sensors of pixel-8 stand still: [Errno 28] No space left on device"
    ]
    broken.update_sensors.side_effect = None
    launcher.update_sensors([broken], {})
    assert broken.sensors_stand_still is False
