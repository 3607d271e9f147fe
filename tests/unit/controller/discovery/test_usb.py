"""The watcher over a bus that the test moves; libusb itself is met in tests/usb."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mobifarm.controller.discovery.usb import NO_BUS, UsbWatcher


class Usb1:
    """Stands in for the module: ``devices`` are on the bus, ``calls`` says what was asked of libusb."""

    CAP_HAS_HOTPLUG = 1

    class USBError(Exception):
        pass

    def __init__(self, hotplug: bool = True) -> None:
        self.devices: list[Any] = []
        self.hotplug = hotplug
        self.failure: Exception | None = None
        self.calls: list[str] = []
        self.callback: Any = None

    def USBContext(self) -> Usb1:  # noqa: N802 - libusb's name
        return self

    def open(self) -> None:
        self.calls.append("open")

    def close(self) -> None:
        self.calls.append("close")

    def hasCapability(self, capability: int) -> bool:  # noqa: N802 - libusb's name
        return self.hotplug and capability == self.CAP_HAS_HOTPLUG

    def hotplugRegisterCallback(self, callback: Any, flags: int) -> None:  # noqa: N802 - libusb's name
        self.callback = callback

    def handleEventsTimeout(self, tv: float) -> None:  # noqa: N802 - libusb's name
        self.calls.append(f"wait {tv:g}")
        if self.failure:
            raise self.failure

    def interruptEventHandler(self) -> None:  # noqa: N802 - libusb's name
        self.calls.append("interrupt")

    def getDeviceIterator(self, skip_on_error: bool) -> Iterator[Any]:  # noqa: N802 - libusb's name
        if self.failure:
            raise self.failure
        return iter(self.devices)


class Udev:
    def __init__(self, *paths: str) -> None:
        self.paths = frozenset(paths)

    def port_paths(self) -> frozenset[str]:
        return self.paths


@pytest.fixture
def usb1() -> Usb1:
    return Usb1()


def test_phones_are_named_by_their_place_and_told_apart_by_connection(
    usb1: Usb1, tmp_path: Path, usb_device: Any
) -> None:
    watcher = UsbWatcher(usb1, tmp_path)
    usb1.devices = [usb_device([2, 4], 7), usb_device([3], 8, kind=9)]
    assert watcher.scan().phones == {"usb:1-2.4": "1/7"}
    usb1.devices = [usb_device([2, 4], 9)]
    assert watcher.scan().phones == {"usb:1-2.4": "1/9"}
    assert watcher.covers("usb:1-2.4", "usb")
    assert not watcher.covers("tcp:h:1", "usb")


def test_hotplug_ends_the_wait_and_the_list_is_the_truth(usb1: Usb1, tmp_path: Path) -> None:
    watcher = UsbWatcher(usb1, tmp_path)
    watcher.scan()
    assert usb1.callback(None, None, None) is False  # stays registered
    watcher.wait(1.0)
    watcher.interrupt()
    watcher.wait(1.0)  # not again once it is interrupted
    watcher.close()
    assert usb1.calls == ["open", "wait 1", "interrupt", "close"]


def test_without_hotplug_each_look_is_fresh(tmp_path: Path) -> None:
    usb1 = Usb1(hotplug=False)
    watcher = UsbWatcher(usb1, tmp_path)
    watcher.scan()
    watcher.interrupt()
    watcher.wait(60.0)
    watcher.scan()
    assert usb1.calls == ["open", "close", "open", "close"]


def test_no_bus_is_said_and_what_to_do(usb1: Usb1, tmp_path: Path) -> None:
    scan = UsbWatcher(usb1, tmp_path / "missing").scan()
    assert (scan.phones, scan.trouble) == ({}, NO_BUS)
    assert "--no-usb" in NO_BUS.action


def test_a_bus_that_cannot_be_read_forgets_nobody_and_is_tried_again(
    usb1: Usb1, tmp_path: Path, usb_device: Any
) -> None:
    watcher = UsbWatcher(usb1, tmp_path)
    usb1.devices = [usb_device([2], 7)]
    watcher.scan()
    usb1.failure = usb1.USBError("oops")
    watcher.wait(1.0)
    scan = watcher.scan()
    assert scan.phones is None
    assert scan.trouble is not None
    assert "oops" in scan.trouble.reason
    usb1.failure = None
    assert watcher.scan().phones == {"usb:1-2": "1/7"}


def test_udev_may_be_ahead_but_not_for_long(usb1: Usb1, tmp_path: Path, usb_device: Any) -> None:
    udev = Udev("1-2")
    watcher = UsbWatcher(usb1, tmp_path, udev)
    troubles = [watcher.scan().trouble for _ in range(3)]
    assert troubles[:2] == [None, None]
    assert troubles[2] is not None
    assert "usb:1-2" in troubles[2].reason
    usb1.devices = [usb_device([2], 7)]
    assert watcher.scan().trouble is None
