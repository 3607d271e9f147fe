"""A device on a USB bus as libusb's binding shows it."""

from __future__ import annotations

import pytest

ADB_CLASS = 0xFF


class Setting:
    def __init__(self, kind: int) -> None:
        self._kind = kind

    def getClass(self) -> int:  # noqa: N802 - libusb's name
        return self._kind

    def getSubClass(self) -> int:  # noqa: N802 - libusb's name
        return 0x42

    def getProtocol(self) -> int:  # noqa: N802 - libusb's name
        return 1


class UsbDevice:
    """At these ports of bus 1, with one interface of some other class and one of class ``kind``."""

    def __init__(
        self, ports: list[int], number: int = 1, kind: int = ADB_CLASS, serial: str | Exception = ""
    ) -> None:
        self._ports, self._number, self._kind, self._serial = ports, number, kind, serial

    def iterSettings(self) -> list[Setting]:  # noqa: N802 - libusb's name
        return [Setting(8), Setting(self._kind)]

    def getBusNumber(self) -> int:  # noqa: N802 - libusb's name
        return 1

    def getPortNumberList(self) -> list[int]:  # noqa: N802 - libusb's name
        return self._ports

    def getDeviceAddress(self) -> int:  # noqa: N802 - libusb's name
        return self._number

    def getSerialNumber(self) -> str:  # noqa: N802 - libusb's name
        if isinstance(self._serial, Exception):
            raise self._serial
        return self._serial


@pytest.fixture(scope="session")
def usb_device() -> type[UsbDevice]:
    return UsbDevice
