"""Addresses of phones, and who else may hold them."""

from __future__ import annotations

import pytest

from mobifarm.controller.errors import NotThere, UserError
from mobifarm.controller.transport.direct import connect_direct
from mobifarm.controller.transport.usb import UsbPhone, UsbScan, list_usb


@pytest.mark.parametrize(
    "address", ["", "10.0.0.1:5555", "tcp:host", "tcp:host:port", "tcp::5555", "usb:1", "usb:1-"]
)
def test_addresses_that_are_none(tmp_path, address) -> None:
    with pytest.raises(UserError, match="is no phone's address"):
        connect_direct(address, key_path=tmp_path / "adbkey")


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_ports_that_are_none(tmp_path, port) -> None:
    with pytest.raises(UserError, match=f"there is no port {port} .*: give one from 1 to 65535"):
        connect_direct(f"tcp:127.0.0.1:{port}", key_path=tmp_path / "adbkey")


@pytest.mark.parametrize("host", ["foo..bar", "x" * 64 + ".local"])
def test_names_of_hosts_that_are_none(tmp_path, host) -> None:
    with pytest.raises(NotThere, match=f"no phone answers at tcp:{host}:5555"):
        connect_direct(f"tcp:{host}:5555", key_path=tmp_path / "adbkey")


def test_a_phone_on_the_bus_has_an_address() -> None:
    assert UsbPhone("1-2.4", "ABC").address == "usb:1-2.4"


def test_without_libusb_no_phone_is_found_and_the_reason_said(monkeypatch) -> None:
    # None makes the import fail, as it does where the library is missing.
    monkeypatch.setitem(__import__("sys").modules, "usb1", None)
    assert list_usb() == UsbScan((), "libusb is missing; install the system package libusb-1.0-0")
