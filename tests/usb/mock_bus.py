"""Run with LD_PRELOAD=libumockdev-preload.so.0: plugs an invented phone in and out, and prints what is seen.

No kernel, no root and no hardware: umockdev answers what libusb and libudev ask of the system. One JSON line
per step, with the addresses that the watcher, udev's second opinion and the scan's trouble show.
"""

from __future__ import annotations

import ctypes
import json
import sys
import threading
import time

import pyudev

from mobifarm.controller.discovery.udev import PyudevBus
from mobifarm.controller.discovery.usb import UsbWatcher

DEADLINE_S = 60.0
HUB = "/devices/pci0000:00/0000:00:14.0/usb1"
PHONE = f"{HUB}/1-2"


def descriptors(*, hub: bool) -> bytes:
    """Device, configuration and interface descriptor, with two bulk endpoints for a phone."""
    kind = (9, 0, 1) if hub else (0, 0, 0)
    device = bytes([18, 1, 0, 2, *kind, 64, 0xD1, 0x18, 0xE7, 0x4E, 0, 1, 0, 0, 0, 1])
    if hub:
        interface = bytes([9, 4, 0, 0, 1, 9, 0, 0, 0]) + bytes([7, 5, 0x81, 3, 4, 0, 12])
    else:
        interface = bytes([9, 4, 0, 0, 2, 0xFF, 0x42, 0x01, 0])
        interface += bytes([7, 5, 0x01, 2, 0, 2, 0]) + bytes([7, 5, 0x82, 2, 0, 2, 0])
    total = 9 + len(interface)
    return device + bytes([9, 2, total, 0, 1, 1, 0, 0x80, 50]) + interface


def description(path: str, number: int, *, hub: bool) -> str:
    return f"""\
P: {path}
N: bus/usb/001/{number:03}
E: DEVNAME=/dev/bus/usb/001/{number:03}
E: DEVTYPE=usb_device
E: SUBSYSTEM=usb
E: BUSNUM=001
E: DEVNUM={number:03}
A: busnum=1
A: devnum={number}
A: speed=480
A: bConfigurationValue=1
H: descriptors={descriptors(hub=hub).hex().upper()}

"""


INTERFACE = f"""\
P: {PHONE}/1-2:1.0
E: DEVTYPE=usb_interface
E: SUBSYSTEM=usb
E: INTERFACE=255/66/1

"""


class TestBed:
    """umockdev's library, driven directly."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libumockdev.so.0")
        for name in ("umockdev_testbed_new", "umockdev_testbed_add_from_string"):
            getattr(self._library, name).restype = ctypes.c_void_p
        self._library.umockdev_testbed_new.argtypes = []
        text, bed = ctypes.c_char_p, ctypes.c_void_p
        self._library.umockdev_testbed_add_from_string.argtypes = [bed, text, ctypes.c_void_p]
        self._library.umockdev_testbed_uevent.argtypes = [bed, text, text]
        self._library.umockdev_testbed_remove_device.argtypes = [bed, text]
        self._bed = self._library.umockdev_testbed_new()

    def add(self, text: str) -> None:
        self._library.umockdev_testbed_add_from_string(self._bed, text.encode(), None)

    def uevent(self, path: str, action: str) -> None:
        self._library.umockdev_testbed_uevent(self._bed, f"/sys{path}".encode(), action.encode())

    def remove(self, path: str) -> None:
        self._library.umockdev_testbed_remove_device(self._bed, f"/sys{path}".encode())


def plug(bed: TestBed, number: int) -> None:
    bed.add(description(PHONE, number, hub=False) + INTERFACE)
    bed.uevent(PHONE, "add")
    bed.uevent(f"{PHONE}/1-2:1.0", "add")


def unplug(bed: TestBed) -> None:
    bed.uevent(f"{PHONE}/1-2:1.0", "remove")
    bed.uevent(PHONE, "remove")
    bed.remove(f"{PHONE}/1-2:1.0")
    bed.remove(PHONE)


def main() -> None:
    bed = TestBed()
    bed.add(description(HUB, 1, hub=True))
    udev = PyudevBus(pyudev)
    watcher = UsbWatcher(udev=udev)

    def show(step: str, wanted: dict[str, str]) -> None:
        """Look, as the watch does, until the wanted is seen."""
        until = time.monotonic() + DEADLINE_S
        while True:
            scan = watcher.scan()
            if scan.phones == wanted or time.monotonic() > until:
                break
            watcher.wait(1.0)
        trouble = scan.trouble.reason if scan.trouble else ""
        seen = dict(scan.phones or {})
        print(json.dumps([step, seen, sorted(udev.port_paths()), trouble]), flush=True)

    show("empty", {})
    # While the watcher waits for events, as it does in its thread; its timeout is longer than the test's.
    for number in (7, 8):
        mover = threading.Thread(target=plug, args=(bed, number))
        mover.start()
        watcher.wait(DEADLINE_S)
        mover.join()
        show(f"plugged {number}", {"usb:1-2": f"1/{number}"})
        mover = threading.Thread(target=unplug, args=(bed,))
        mover.start()
        watcher.wait(DEADLINE_S)
        mover.join()
        show(f"unplugged {number}", {})
    watcher.close()


if __name__ == "__main__":
    sys.exit(main())
