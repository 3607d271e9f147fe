"""What udev knows of phones on USB: a second opinion beside libusb's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Protocol

UDEV_CONTROL: Final = Path("/run/udev/control")  # there while udev runs
_ADB_INTERFACE: Final = "255/66/1"  # INTERFACE of a device whose class, subclass and protocol are ADB's


class UdevBus(Protocol):
    def port_paths(self) -> frozenset[str]:
        """BUS-PORT.PORT… of every ADB interface."""
        ...


class PyudevBus:
    """Asks through pyudev; ``pyudev`` is the module."""

    def __init__(self, pyudev: Any) -> None:
        self._context = pyudev.Context()

    def port_paths(self) -> frozenset[str]:
        interfaces = self._context.list_devices(subsystem="usb", DEVTYPE="usb_interface")
        found = set()
        for interface in interfaces:
            # "1-2.4:1.0": the device's place, then configuration and interface.
            if interface.properties.get("INTERFACE") == _ADB_INTERFACE:
                found.add(str(interface.sys_name).partition(":")[0])
        return frozenset(found)


def open_udev(control: Path = UDEV_CONTROL) -> UdevBus | None:
    """udev's view of the bus; None where pyudev is not installed or udev does not run."""
    if not control.exists():
        return None
    try:
        import pyudev

        return PyudevBus(pyudev)
    except (ImportError, OSError):
        return None
