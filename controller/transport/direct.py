"""The ``direct`` transport: this process talks ADB to the phone itself, with no adb server in between."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from mobifarm.controller.errors import DeviceError, UserError
from mobifarm.controller.transport.handshake import Banner, shake_hands
from mobifarm.controller.transport.keys import ensure_key
from mobifarm.controller.transport.mux import Multiplexer
from mobifarm.controller.transport.services import PhoneServices
from mobifarm.controller.transport.tcp import TcpWire
from mobifarm.controller.transport.usb import UsbWire
from mobifarm.controller.transport.wire import Wire

_TCP_ADDRESS: Final = re.compile(
    r"tcp:(?:\[(?P<host6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^:\s]+)):(?P<port>[0-9]{1,5})"
)
_USB_ADDRESS: Final = re.compile(r"usb:(?P<port_path>[0-9]+-[0-9]+(?:\.[0-9]+)*)")


class DirectTransport(PhoneServices):
    """An open, authenticated link; a :class:`~mobifarm.controller.transport.interface.DeviceTransport`."""

    def __init__(self, address: str, mux: Multiplexer, banner: Banner) -> None:
        super().__init__(address, mux.open)
        self._mux = mux
        self._banner = banner

    @property
    def banner_properties(self) -> Mapping[str, str]:
        """The few properties that the phone names when the link comes up, e.g. ``ro.product.model``."""
        return self._banner.properties

    @property
    def features(self) -> frozenset[str]:
        """What the phone's adbd says it can do, e.g. ``shell_v2``."""
        return self._banner.features

    @property
    def loss_reason(self) -> str:
        return self._mux.loss_reason

    def wait_closed(self, timeout_s: float | None = None) -> bool:
        return self._mux.wait_closed(timeout_s)

    def close(self) -> None:
        self._mux.close()


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
        if not 0 < int(match["port"]) < 65536:
            raise UserError(f"there is no port {match['port']} ({address}): give one from 1 to 65535")
        return TcpWire(match["host6"] or match["host"], int(match["port"]), timeout_s)
    if match := _USB_ADDRESS.fullmatch(address):
        return UsbWire(match["port_path"])
    raise UserError(
        f"{address!r} is no phone's address; write tcp:HOST:PORT or usb:BUS-PORT (e.g. usb:1-2.4)"
    )
