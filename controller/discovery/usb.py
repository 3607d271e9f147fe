"""Phones on this machine's USB buses, through libusb: its callbacks where it has them, else looking again."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, Final

from mobifarm.controller.discovery.sighting import Scan, Trouble
from mobifarm.controller.discovery.udev import UdevBus, open_udev
from mobifarm.controller.transport.usb import NO_LIBUSB, adb_devices

logger = logging.getLogger(__name__)

USB_FOLDER: Final = Path("/dev/bus/usb")
NO_LIBUSB_TROUBLE: Final = Trouble(NO_LIBUSB, "then start the farm again; phones on TCP do not need it")
NO_BUS: Final = Trouble(
    "this machine shows no USB bus (/dev/bus/usb is missing)",
    "in a container or a virtual machine, pass the USB bus through; without one, start with --no-usb",
)
DISAGREEMENTS_LIMIT: Final = 3


class UsbWatcher:
    """Watches for ADB interfaces.

    The list of devices is the truth; callbacks only say when to look at it again, so that a lost one costs a
    second and no phone.

    Args:
        usb1: the module, or what stands in for it; None loads it at the first look.
        folder: of the bus's device nodes.
        udev: a second opinion on what is plugged in; None asks udev where pyudev is installed and udev runs.
    """

    source = "usb"

    def __init__(self, usb1: Any = None, folder: Path = USB_FOLDER, udev: UdevBus | None = None) -> None:
        self._usb1 = usb1
        self._folder = folder
        self._udev = udev or open_udev()
        self._context: Any = None
        self._has_hotplug = False
        self._disagreements = 0
        self._interrupted = threading.Event()

    def covers(self, address: str, source: str) -> bool:
        return address.startswith("usb:")

    def scan(self) -> Scan:
        if self._usb1 is None:
            try:
                import usb1
            except (ImportError, OSError):
                return Scan(None, NO_LIBUSB_TROUBLE)
            self._usb1 = usb1
        try:
            context = self._opened()
            phones = {
                # A device gets a new number on its bus whenever it is plugged in.
                f"usb:{port_path}": f"{device.getBusNumber()}/{device.getDeviceAddress()}"
                for port_path, device in adb_devices(context)
            }
        except self._usb1.USBError as error:
            self._drop_context()
            return Scan(
                None,
                Trouble(f"the USB bus cannot be read ({error})", "check /dev/bus/usb and this user's rights"),
            )
        if not self._has_hotplug:
            self._drop_context()  # without callbacks libusb keeps the list of its start
        trouble = self._disagreement(set(phones))
        if not phones and trouble is None and not self._folder.is_dir():
            trouble = NO_BUS
        return Scan(phones, trouble)

    def wait(self, timeout_s: float) -> None:
        if not self._has_hotplug or self._context is None:
            self._interrupted.wait(timeout_s)
        elif not self._interrupted.is_set():
            try:
                self._context.handleEventsTimeout(timeout_s)
            except self._usb1.USBError as error:
                logger.warning("waiting for USB events: %s", error)
                self._drop_context()

    def interrupt(self) -> None:
        self._interrupted.set()
        if (context := self._context) is not None and self._has_hotplug:
            context.interruptEventHandler()

    def close(self) -> None:
        self._drop_context()

    def _opened(self) -> Any:
        if self._context is None:
            context = self._usb1.USBContext()
            context.open()
            self._has_hotplug = bool(context.hasCapability(self._usb1.CAP_HAS_HOTPLUG))
            if self._has_hotplug:
                # Handling the event ends the wait, which is all that is needed of it.
                context.hotplugRegisterCallback(lambda *_: False, flags=0)
            self._context = context
        return self._context

    def _drop_context(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            context.close()

    def _disagreement(self, seen: set[str]) -> Trouble | None:
        """udev may be a moment ahead of libusb; only a lasting difference is trouble."""
        if self._udev is None:
            return None
        missing = sorted({f"usb:{path}" for path in self._udev.port_paths()} - seen)
        self._disagreements = self._disagreements + 1 if missing else 0
        if self._disagreements < DISAGREEMENTS_LIMIT:
            return None
        return Trouble(
            f"udev knows of a phone at {', '.join(missing)} that libusb does not show",
            "plug it in again; if that does not help, start the farm again",
        )
