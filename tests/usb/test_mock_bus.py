"""libusb's and udev's own hotplug, with a phone that umockdev invents: no kernel, no root, no hardware."""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("mock_bus.py")
PRELOAD = "libumockdev-preload.so.0"
DEADLINE_S = 200.0  # below the script's four waits of 60 s: events must end them


def test_a_phone_is_seen_when_it_is_plugged_in_and_unplugged() -> None:
    pytest.importorskip("pyudev", reason="pyudev is not installed (extra udev)")
    pytest.importorskip("usb1", exc_type=OSError, reason="libusb is missing")
    if ctypes.util.find_library("umockdev") is None:
        pytest.skip("umockdev is not installed (Debian package umockdev)")
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "LD_PRELOAD": PRELOAD},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    phone = "usb:1-2"
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        ["empty", {}, [], ""],
        ["plugged 7", {phone: "1/7"}, ["1-2"], ""],
        ["unplugged 7", {}, [], ""],
        ["plugged 8", {phone: "1/8"}, ["1-2"], ""],
        ["unplugged 8", {}, [], ""],
    ]
