"""Phones that an adb server has: it says when its list changes, and the list is read anew."""

from __future__ import annotations

import threading
from typing import Final

from mobifarm.controller.discovery.sighting import Scan, Trouble
from mobifarm.controller.errors import FarmError
from mobifarm.controller.transport.adb_server import AdbServer, DeviceTracker

_AWAY: Final = frozenset({"offline", "connecting"})


class AdbServerWatcher:
    """Watches one server. While it is away nothing is known of its phones: their links are dead."""

    source = "adb server"

    def __init__(self, server: AdbServer) -> None:
        self._server = server
        self._tracker: DeviceTracker | None = None
        self._interrupted = threading.Event()

    def covers(self, address: str, source: str) -> bool:
        return address.startswith(("usb:", "adb:"))

    def scan(self) -> Scan:
        try:
            if self._tracker is None:
                self._tracker = self._server.track()
            listed = self._server.phones()
        except FarmError as error:
            self.close()
            return Scan(None, Trouble(str(error), error.action))
        return Scan({phone.address: str(phone.transport_id) for phone in listed if phone.state not in _AWAY})

    def wait(self, timeout_s: float) -> None:
        if self._interrupted.is_set() or self._tracker is None:
            self._interrupted.wait(timeout_s)
            return
        try:
            self._tracker.wait(timeout_s)
        except FarmError:
            self.close()

    def interrupt(self) -> None:
        self._interrupted.set()
        if tracker := self._tracker:
            tracker.interrupt()

    def close(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()
