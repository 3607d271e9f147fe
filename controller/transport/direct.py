"""The ``direct`` transport: this process talks ADB to the phone itself, with no adb server in between."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Final

from mobifarm.controller.errors import DeviceError, UserError
from mobifarm.controller.transport.file_sync import receive_file, send_file
from mobifarm.controller.transport.forwarding import SocketForward
from mobifarm.controller.transport.handshake import Banner, shake_hands
from mobifarm.controller.transport.interface import ShellResult
from mobifarm.controller.transport.keys import ensure_key
from mobifarm.controller.transport.mux import Multiplexer, MuxStream
from mobifarm.controller.transport.shell import run_command
from mobifarm.controller.transport.tcp import TcpWire
from mobifarm.controller.transport.usb import UsbWire
from mobifarm.controller.transport.wire import Wire

_OPEN_TIMEOUT_S: Final = 10.0
_PULL_LIMIT_BYTES: Final = 256 << 20
_STREAM_SERVICES: Final = ("tcp:", "localabstract:", "localfilesystem:")
_TCP_ADDRESS: Final = re.compile(
    r"tcp:(?:\[(?P<host6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^:\s]+)):(?P<port>[0-9]{1,5})"
)
_USB_ADDRESS: Final = re.compile(r"usb:(?P<port_path>[0-9]+-[0-9]+(?:\.[0-9]+)*)")


class DirectTransport:
    """An open, authenticated link; a :class:`~mobifarm.controller.transport.interface.DeviceTransport`."""

    def __init__(self, address: str, mux: Multiplexer, banner: Banner) -> None:
        self._address = address
        self._mux = mux
        self._banner = banner

    @property
    def address(self) -> str:
        return self._address

    @property
    def banner_properties(self) -> Mapping[str, str]:
        """The few properties that the phone names when the link comes up, e.g. ``ro.product.model``."""
        return self._banner.properties

    def shell(self, command: str, timeout_s: float = 30.0) -> ShellResult:
        stream = self._mux.open(f"shell,v2,raw:{command}", min(timeout_s, _OPEN_TIMEOUT_S))
        return run_command(stream, self._address, command, timeout_s)

    def push(self, source: Path, target: str, mode: int = 0o644, timeout_s: float = 600.0) -> None:
        with source.open("rb") as file:
            self._send(file, target, mode, int(source.stat().st_mtime), timeout_s)

    def push_bytes(self, data: bytes, target: str, mode: int = 0o644, timeout_s: float = 60.0) -> None:
        self._send(io.BytesIO(data), target, mode, 0, timeout_s)

    def pull_bytes(self, source: str, timeout_s: float = 60.0) -> bytes:
        stream = self._mux.open("sync:", min(timeout_s, _OPEN_TIMEOUT_S))
        try:
            return receive_file(stream, self._address, source, timeout_s, _PULL_LIMIT_BYTES)
        finally:
            stream.close()

    def open_stream(self, destination: str, timeout_s: float = 10.0) -> MuxStream:
        if not destination.startswith(_STREAM_SERVICES):
            raise UserError(
                f"{destination!r} is no socket on a phone; use one of {', '.join(_STREAM_SERVICES)}"
            )
        return self._mux.open(destination, timeout_s)

    def forward(self, destination: str, socket_path: Path) -> SocketForward:
        return SocketForward(socket_path, lambda: self.open_stream(destination))

    @property
    def loss_reason(self) -> str:
        return self._mux.loss_reason

    def wait_closed(self, timeout_s: float | None = None) -> bool:
        return self._mux.wait_closed(timeout_s)

    def close(self) -> None:
        self._mux.close()

    def _send(self, file: BinaryIO, target: str, mode: int, modified_s: int, timeout_s: float) -> None:
        stream = self._mux.open("sync:", min(timeout_s, _OPEN_TIMEOUT_S))
        try:
            send_file(stream, self._address, file, target, mode, modified_s, timeout_s)
        finally:
            stream.close()


def connect_direct(
    address: str,
    *,
    key_path: Path,
    timeout_s: float = 10.0,
    authorisation_timeout_s: float = 120.0,
    on_authorisation: Callable[[], None] = lambda: None,
) -> DirectTransport:
    """Open a link to a phone.

    Args:
        address: ``tcp:HOST:PORT`` or ``usb:BUS-PORT.PORT…``.
        key_path: the farm's ADB key; made where it is missing.
        timeout_s: for connecting and authenticating, each.
        authorisation_timeout_s: how long to wait for a person to accept the key on the phone's screen.
        on_authorisation: called from this thread when that wait begins.

    Raises:
        UserError: the address or the key cannot be used.
        AuthorisationRequired: nobody accepted the key in time.
        DeviceError: no phone there, or not one that can be used as it is.
        HostError: libusb is missing, or another program holds the phone.
    """
    wire = _open_wire(address, timeout_s)
    try:
        banner = shake_hands(
            wire, address, ensure_key(key_path), timeout_s, authorisation_timeout_s, on_authorisation
        )
        if banner.system != "device":
            raise DeviceError(f"{address} is in {banner.system or 'an unknown'} mode; start Android on it")
        if "shell_v2" not in banner.features:
            raise DeviceError(f"{address} speaks an ADB of before Android 7, which is too old for the agent")
    except BaseException:
        wire.close()
        raise
    return DirectTransport(
        address, Multiplexer(wire, address, banner.maximum_payload_bytes, banner.checksums), banner
    )


def _open_wire(address: str, timeout_s: float) -> Wire:
    if match := _TCP_ADDRESS.fullmatch(address):
        return TcpWire(match["host6"] or match["host"], int(match["port"]), timeout_s)
    if match := _USB_ADDRESS.fullmatch(address):
        return UsbWire(match["port_path"])
    raise UserError(
        f"{address!r} is no phone's address; write tcp:HOST:PORT or usb:BUS-PORT (e.g. usb:1-2.4)"
    )
