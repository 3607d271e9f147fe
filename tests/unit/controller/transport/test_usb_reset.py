"""Resetting a USB device, over a scripted libusb."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mobifarm.controller.errors import DeviceError, HostError, NotThere
from mobifarm.controller.transport.usb_reset import reset_usb


class USBError(Exception):
    pass


class USBErrorAccess(USBError):
    pass


class USBErrorNotFound(USBError):
    pass


class Device:
    def __init__(self, ports: list[int], opening: Exception | None, resetting: Exception | None) -> None:
        self.ports, self.opening, self.resetting = ports, opening, resetting
        self.did: list[str] = []

    def getBusNumber(self) -> int:  # noqa: N802
        return 1

    def getPortNumberList(self) -> list[int]:  # noqa: N802
        return self.ports

    def open(self) -> Device:
        if self.opening:
            raise self.opening
        return self

    def resetDevice(self) -> None:  # noqa: N802
        self.did.append("reset")
        if self.resetting:
            raise self.resetting

    def close(self) -> None:
        self.did.append("close")


class Context:
    def __init__(self, devices: list[Device]) -> None:
        self.devices = devices

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def getDeviceIterator(self, skip_on_error: bool) -> list[Device]:  # noqa: N802
        return self.devices


def library(*devices: Device) -> Any:
    return SimpleNamespace(
        USBContext=lambda: Context(list(devices)),
        USBError=USBError,
        USBErrorAccess=USBErrorAccess,
        USBErrorNotFound=USBErrorNotFound,
    )


@pytest.mark.parametrize("resetting", [None, USBErrorNotFound("it came back")])
def test_the_device_at_the_place_is_reset_and_no_other(resetting: Exception | None) -> None:
    other, wanted = Device([2], None, None), Device([2, 4], None, resetting)
    reset_usb("1-2.4", library(other, wanted))
    assert (other.did, wanted.did) == ([], ["reset", "close"])


@pytest.mark.parametrize(
    ("place", "opening", "resetting", "error", "words"),
    [
        ("1-9", None, None, NotThere, "nothing is plugged in at usb:1-9"),
        ("1-2", USBErrorAccess("no"), None, HostError, "udev rules"),
        ("1-2", USBError("odd"), None, DeviceError, "cannot be opened"),
        ("1-2", None, USBError("stuck"), DeviceError, "cannot be reset"),
    ],
)
def test_what_goes_wrong_is_said(
    place: str, opening: Exception | None, resetting: Exception | None, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        reset_usb(place, library(Device([2], opening, resetting)))
