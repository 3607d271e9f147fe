"""What the list of devices says of plugging in."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console, Group

from mobifarm.controller.cli.devices import _live, _table, devices
from mobifarm.controller.cli.farm import parse_adb_server
from mobifarm.controller.cli.output import notice_lines
from mobifarm.controller.core.events import DeviceAdded
from mobifarm.controller.core.views import DeviceView
from mobifarm.controller.errors import UserError
from mobifarm.controller.paths import farm_paths
from mobifarm.controller.store.sqlite import SqliteStore


def view(**changes: Any) -> DeviceView:
    values: dict[str, Any] = dict.fromkeys(DeviceView.__dataclass_fields__, "")
    numbers = dict.fromkeys(("measurement_epoch", "consecutive_failures", "leases_granted"), 0)
    values |= {"tags": (), **numbers, "changed_at": time.time(), "attempt_id": None, "trial_id": None}
    return DeviceView(**{**values, "device_id": "usb:1-2", "ready_after_s": None, **changes})


def printed(device: DeviceView, live: Mapping[str, Any]) -> str:
    console = Console(width=240, file=io.StringIO())
    console.print(Group(_table([device], live), *notice_lines(live["notices"], live["hosts"])))
    return str(console.file.getvalue())


NOTHING: Mapping[str, Any] = {"devices": {}, "hosts": 1, "notices": []}


def test_the_time_from_plugging_in_to_ready() -> None:
    assert "12.3 s" in printed(view(state="ready", ready_after_s=12.34), NOTHING)


def test_tags() -> None:
    assert "bench, loud" in printed(view(tags=("bench", "loud")), NOTHING)
    assert "bench" not in printed(view(tags=None), NOTHING)  # from before they were told


def test_a_settling_phone_tells_how_long_it_is_left_alone() -> None:
    settling = {"progress": None, "transfer": None, "reading": None, "settling_until": time.time() + 100}
    device = view(state="discovered", reason="it goes in and out", action="check the cable")
    text = printed(device, {**NOTHING, "devices": {"usb:1-2": settling}})
    assert "it goes in and out; " in text
    assert " s left; check the cable" in text
    calm = {**settling, "settling_until": time.time() - 1}
    assert " left" not in printed(device, {**NOTHING, "devices": {"usb:1-2": calm}})


def test_where_phones_cannot_be_seen() -> None:
    notice = {"at": 1.0, "host": "h", "source": "usb", "reason": "no USB bus", "action": "pass it through"}
    assert "usb: no USB bus; pass it through" in printed(view(), {**NOTHING, "notices": [notice]})


def test_where_there_are_several_hosts_each_notice_names_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [
        {"host": host, "source": "usb", "reason": "this machine shows no USB bus", "action": ""}
        for host in "ab"
    ]
    answers = {
        "/api/v1/live": {"devices": {}, "notices": seen},
        "/api/v1/hosts": [{"host": "a"}, {"host": "b"}],
    }
    client = SimpleNamespace(get=answers.__getitem__)
    monkeypatch.setattr("mobifarm.controller.cli.devices.FarmClient", lambda _: nullcontext(client))
    text = printed(view(), _live(farm_paths(tmp_path)))
    assert "\na: usb: this machine shows no USB bus\nb: usb: this machine" in text
    assert "\nusb: this" in printed(view(), {**NOTHING, "notices": seen[:1]})


def test_each_notice_has_a_line_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with SqliteStore(farm_paths(tmp_path).database) as store:
        store.append([DeviceAdded(1.0, "usb:1-1", "usb:1-1", "test")]).result(60)
    notices = [{"source": source, "reason": "it is blind", "action": ""} for source in ("usb", "announced")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mobifarm.controller.cli.devices._live", lambda _: {**NOTHING, "notices": notices})
        devices(SimpleNamespace(invoked_subcommand=None), tmp_path)  # type: ignore[arg-type]
    assert capsys.readouterr().out.endswith("usb: it is blind\nannounced: it is blind\n")


def test_ids_and_states_can_be_copied_from_a_narrow_terminal() -> None:
    asks = "the phone asks whether to allow USB debugging; unlock the phone and tap Allow"
    phones = [
        view(device_id=f"tcp:127.0.0.1:4400{i}", serial=f"VPCA39C5BAA{i}", model="SM-S928B", **more)
        for i, more in enumerate(({"state": "awaiting_authorisation", "reason": asks}, {"state": "ready"}))
    ]
    console = Console(width=80, file=io.StringIO())
    console.print(_table(phones, NOTHING))
    lines = str(console.file.getvalue()).splitlines()
    assert len(lines) <= 7
    for phone in phones:
        (line,) = [line for line in lines if phone.device_id in line]
        assert phone.state in line


def test_that_no_farm_runs_is_said(tmp_path: Path) -> None:
    left = _live(farm_paths(tmp_path))
    assert "left: no farm is running here; start one with `mobifarm up`" in printed(view(), left)


def test_the_place_of_an_adb_server() -> None:
    assert parse_adb_server("127.0.0.1:5037") == ("127.0.0.1", 5037)
    for text in ("5037", "host:", ":5037", "host:port", "host:99999"):
        with pytest.raises(UserError, match="HOST:PORT"):
            parse_adb_server(text)
