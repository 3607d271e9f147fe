"""The ``server`` transport: an adb server owns the bus and this process asks it for streams to the phone."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import Final

from mobifarm.controller.errors import AuthorisationRequired, DeviceError, HostError
from mobifarm.controller.transport.adb_server import AdbServer, ServedPhone, SocketStream
from mobifarm.controller.transport.services import PhoneServices
from mobifarm.controller.transport.usb import LET_THIS_USER

_LIFELINE: Final = "shell,v2,raw:cat"  # ends when the server loses the phone, whichever way it was connected
_OPEN_TIMEOUT_S: Final = 10.0


class ServerTransport(PhoneServices):
    """A link through the server; a :class:`~mobifarm.controller.transport.interface.DeviceTransport`."""

    def __init__(self, server: AdbServer, phone: ServedPhone) -> None:
        """Raises DeviceError where the phone refuses, HostError where the server is gone."""
        super().__init__(phone.address, self._open)
        self._server = server
        self._phone = phone
        self._streams: weakref.WeakSet[SocketStream] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._loss = ""
        self._lost = threading.Event()
        self._lifeline = self._open(_LIFELINE, _OPEN_TIMEOUT_S)
        threading.Thread(target=self._watch, name=f"adb-lifeline {phone.address}", daemon=True).start()

    @property
    def loss_reason(self) -> str:
        return self._loss

    def wait_closed(self, timeout_s: float | None = None) -> bool:
        return self._lost.wait(timeout_s)

    def close(self) -> None:
        self._lose("the link was closed")

    def _open(self, service: str, timeout_s: float) -> SocketStream:
        if self._loss:
            raise DeviceError(self._loss)
        stream = self._server.open(self._phone, service, timeout_s)
        with self._lock:
            self._streams.add(stream)
        return stream

    def _watch(self) -> None:
        with contextlib.suppress(DeviceError):
            while self._lifeline.read():
                pass
        self._lose("the adb server lost the phone")

    def _lose(self, reason: str) -> None:
        with self._lock:
            if self._loss:
                return
            self._loss = f"{self.address}: {reason}"
            streams = list(self._streams)
        for stream in streams:
            stream.close()
        self._lost.set()


def connect_server(address: str, server: AdbServer) -> ServerTransport:
    """Open a link to a phone that an adb server has; the server is told to connect to one on TCP.

    Args:
        address: ``usb:BUS-PORT.PORT…``, ``tcp:HOST:PORT`` or ``adb:SERIAL``.

    Raises:
        AuthorisationRequired: nobody has accepted the server's key yet; the phone goes on asking.
        DeviceError: no phone there, or not one that can be used as it is.
        HostError: no server answers, it may not use the phone, or adbutils is missing.
    """
    phone = _find(server, address)
    if address.startswith("tcp:") and (phone is None or phone.state == "offline"):
        said = server.connect(address.removeprefix("tcp:"))
        phone = _find(server, address)
        if phone is None:
            raise DeviceError(f"no phone answers at {address}; the adb server says: {said}")
    if phone is None:
        raise DeviceError(f"the adb server at {server.name} has no phone at {address}; check the cable")
    match phone.state:
        case "device":
            return ServerTransport(server, phone)
        case "unauthorized" | "authorizing":
            raise AuthorisationRequired(f"{address} does not trust the adb server's key yet")
        case "no":
            raise HostError(f"the adb server may not use the phone at {address}", action=LET_THIS_USER)
        case "offline" | "connecting":
            raise DeviceError(
                f"{address} is {phone.state} for the adb server; plug it in again if it stays so"
            )
        case state:
            raise DeviceError(f"{address} is in {state} mode; start Android on it")


def _find(server: AdbServer, address: str) -> ServedPhone | None:
    found = [phone for phone in server.phones() if phone.address == address]
    # A phone that came back may be listed beside its old, offline self for a moment.
    return min(found, key=lambda phone: phone.state != "device", default=None)
