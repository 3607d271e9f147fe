from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.discovery.folder import FolderWatcher

ADDRESS = "tcp:127.0.0.1:5555"


def announce(folder: Path, name: str, **body: Any) -> None:
    fresh = folder / f"{name}.new"
    fresh.write_text(json.dumps(body))
    fresh.replace(folder / f"{name}.json")


def test_a_folder_that_is_not_there_announces_nobody(tmp_path: Path) -> None:
    scan = FolderWatcher(tmp_path / "later").scan()
    assert (dict(scan.phones or {}), scan.trouble) == ({}, None)


def test_an_address_is_enough(tmp_path: Path) -> None:
    announce(tmp_path, "a", address=ADDRESS)
    (tmp_path / "launcher.log").write_text("not for us")
    assert list(FolderWatcher(tmp_path).scan().phones or {}) == [ADDRESS]


def test_a_phone_on_usb_is_left_to_the_bus(tmp_path: Path) -> None:
    announce(tmp_path, "a", address="usb", plugged=True, plugs=1, pid=os.getpid())
    scan = FolderWatcher(tmp_path).scan()
    assert (dict(scan.phones or {}), scan.trouble) == ({}, None)


def test_unplugged_and_plugged_in_again_is_another_connection(tmp_path: Path) -> None:
    watcher = FolderWatcher(tmp_path)
    announce(tmp_path, "a", address=ADDRESS, plugged=True, plugs=1, pid=os.getpid())
    first = watcher.scan().phones
    announce(tmp_path, "a", address=ADDRESS, plugged=False, plugs=1, pid=os.getpid())
    assert watcher.scan().phones == {}
    announce(tmp_path, "a", address=ADDRESS, plugged=True, plugs=2, pid=os.getpid())
    again = watcher.scan().phones
    assert first
    assert again
    assert first[ADDRESS] != again[ADDRESS]


def test_an_announcement_ends_with_its_process_and_with_its_file(tmp_path: Path) -> None:
    watcher = FolderWatcher(tmp_path)
    announce(tmp_path, "a", address=ADDRESS, pid=2**22 + 1)
    announce(tmp_path, "b", address="tcp:phone.local:5555")
    assert list(watcher.scan().phones or {}) == ["tcp:phone.local:5555"]
    (tmp_path / "b.json").unlink()
    assert watcher.scan().phones == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("[]", "tcp:HOST:PORT"),
        ('{"address": "usb:1-2"}', "tcp:HOST:PORT"),
        ('{"address": "tcp:h:70000"}', "tcp:HOST:PORT"),
        (" " * 70_000, "no small file"),
    ],
)
def test_a_file_that_announces_no_phone_is_named_and_harms_no_other(
    tmp_path: Path, text: str, why: str
) -> None:
    announce(tmp_path, "good", address=ADDRESS)
    (tmp_path / "bad.json").write_text(text)
    scan = FolderWatcher(tmp_path).scan()
    assert list(scan.phones or {}) == [ADDRESS]
    assert scan.trouble is not None
    assert "bad.json" in scan.trouble.reason
    assert why in scan.trouble.reason
