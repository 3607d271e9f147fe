"""Addresses of phones, and who else may hold them."""

from __future__ import annotations

import pytest

from mobifarm.controller.errors import UserError
from mobifarm.controller.transport.direct import connect_direct
from mobifarm.controller.transport.usb import UsbPhone, UsbScan, list_usb


@pytest.mark.parametrize(
    "address", ["", "10.0.0.1:5555", "tcp:host", "tcp:host:port", "tcp::5555", "usb:1", "usb:1-"]
)
def test_addresses_that_are_none(tmp_path, address) -> None:
    with pytest.raises(UserError, match="is no phone's address"):
        connect_direct(address, key_path=tmp_path / "adbkey")


def test_a_phone_on_the_bus_has_an_address() -> None:
    assert UsbPhone("1-2.4", "ABC").address == "usb:1-2.4"


def test_without_libusb_no_phone_is_found_and_the_reason_said(monkeypatch) -> None:
    # None makes the import fail, as it does where the library is missing.
    monkeypatch.setitem(__import__("sys").modules, "usb1", None)
    assert list_usb() == UsbScan((), "libusb is missing; install the system package libusb-1.0-0")
