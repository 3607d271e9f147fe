"""Resets one phone's USB device, as if its cable had been pulled and put in again."""

from __future__ import annotations

from typing import Any

from mobifarm.controller.errors import DeviceError, HostError, NotThere


def reset_usb(port_path: str, library: Any = None) -> None:
    """Reset the device at BUS-PORT.PORT…; it enumerates again and keeps its place.

    Args:
        library: the module ``usb1``; loaded where it is not given.

    Raises:
        NotThere: nothing is plugged in there.
        HostError: libusb is missing, or this user may not use the device.
        DeviceError: the device does not take the reset.
    """
    usb = library or _libusb()
    with usb.USBContext() as context:
        for device in context.getDeviceIterator(skip_on_error=True):
            ports = ".".join(str(port) for port in device.getPortNumberList())
            if f"{device.getBusNumber()}-{ports}" == port_path:
                _reset(usb, device, port_path)
                return
    raise NotThere(f"nothing is plugged in at usb:{port_path}")


def _libusb() -> Any:
    try:
        import usb1
    except (ImportError, OSError) as error:
        raise HostError("libusb is missing; install the system package libusb-1.0-0") from error
    return usb1


def _reset(usb: Any, device: Any, port_path: str) -> None:
    try:
        handle = device.open()
    except usb.USBErrorAccess as error:
        raise HostError(
            f"this user may not use the device at usb:{port_path}; install the udev rules of the system "
            "package android-sdk-platform-tools-common and plug the phone in again"
        ) from error
    except usb.USBError as error:
        raise DeviceError(f"the device at usb:{port_path} cannot be opened ({error})") from error
    try:
        handle.resetDevice()
    except usb.USBErrorNotFound:
        pass  # it came back as another device: the reset did happen, and the place is the same
    except usb.USBError as error:
        raise DeviceError(f"the device at usb:{port_path} cannot be reset ({error})") from error
    finally:
        handle.close()
