"""A phone's cable as USB: a device of this kernel with Android's ADB interface, through FunctionFS.

Needs root, configfs, the kernel's ``usb_f_fs`` and a device controller: that of a board with a USB device
port, or the kernel's ``dummy_hcd``, whose devices appear on this machine's own bus. Plugging in makes the
device anew and unplugging removes it, so nothing is left between the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mobifarm.simulator.adbd.packets import HEADER_SIZE, ProtocolError, decode_header
from mobifarm.simulator.tcp_port import PortError
from mobifarm.simulator.usb_descriptors import (
    PRODUCT_ID,
    VENDOR_ID,
    Event,
    descriptors,
    parse_events,
    strings,
)

log = logging.getLogger(__name__)

CONTROLLERS: Final = Path("/sys/class/udc")
_GADGETS: Final = Path("/sys/kernel/config/usb_gadget")
# As Android's adbd: the kernel takes a transfer's memory in one piece. A multiple of every packet's size.
_TRANSFER_BYTES: Final = 16 * 1024
_EVENTS_BYTES: Final = 12 * 8
_JOIN_TIMEOUT_S: Final = 5.0
_DETACH: Final = 2  # MNT_DETACH
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class UsbIdentity:
    """What the device says of itself before anybody speaks ADB to it."""

    manufacturer: str
    product: str
    serial: str


def free_controllers() -> list[str]:
    """Names of this machine's USB device controllers to which nothing is bound."""
    try:
        found = sorted(CONTROLLERS.iterdir())
    except OSError:
        return []
    return [path.name for path in found if not (path / "function").read_text().strip()]


class UsbPort:
    """A USB device on ``controller``; ``connected`` gets a connection whenever a host configures it.

    ``folder`` is made to mount FunctionFS at.
    """

    address = "usb"

    def __init__(
        self,
        controller: str,
        identity: UsbIdentity,
        folder: Path,
        connected: Callable[[socket.socket], None],
    ) -> None:
        self._controller = controller
        self._identity = identity
        self._folder = folder
        self._connected = connected
        self._gadget = _GADGETS / f"mobifarm-{controller}"
        self._function = f"ffs.{controller}"
        self._loop = asyncio.get_running_loop()
        self._endpoints: list[int] = []  # control, host to phone, phone to host
        self._session: _Session | None = None

    @property
    def is_open(self) -> bool:
        return bool(self._endpoints)

    def open(self) -> None:
        if self._endpoints:
            return
        try:
            # A launcher that was killed leaves its gadget behind.
            self._remove()
            self._create()
        except OSError as error:
            self.close()
            raise PortError(
                f"the phone cannot be a USB device on {self._controller} ({error}); this needs root and the "
                "kernel's modules libcomposite, usb_f_fs and a device controller such as dummy_hcd"
            ) from error

    def close(self) -> None:
        # Off the bus first: it ends the transfers that the session's threads wait for.
        with contextlib.suppress(OSError):
            (self._gadget / "UDC").write_text("\n")
        self._end_session()
        endpoints, self._endpoints = self._endpoints, []
        for endpoint in endpoints[:1]:
            self._loop.remove_reader(endpoint)
        for endpoint in endpoints:
            os.close(endpoint)
        self._remove()

    # -- the kernel's side --------------------------------

    def _create(self) -> None:
        english = self._gadget / "strings" / "0x409"
        configuration = self._gadget / "configs" / "c.1"
        function = self._gadget / "functions" / self._function
        for folder in (self._gadget, english, configuration, function, self._folder):
            folder.mkdir(exist_ok=True)
        (self._gadget / "idVendor").write_text(hex(VENDOR_ID))
        (self._gadget / "idProduct").write_text(hex(PRODUCT_ID))
        (english / "manufacturer").write_text(self._identity.manufacturer)
        (english / "product").write_text(self._identity.product)
        (english / "serialnumber").write_text(self._identity.serial)
        (configuration / self._function).symlink_to(function)
        if _libc.mount(self._controller.encode(), bytes(self._folder), b"functionfs", 0, None):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(self._folder))
        control = os.open(self._folder / "ep0", os.O_RDWR | os.O_NONBLOCK)
        self._endpoints.append(control)
        os.write(control, descriptors())
        os.write(control, strings())
        # Not blocking: a read while no host has configured the device fails, and does not wait for one.
        self._endpoints += [os.open(self._folder / f"ep{n}", os.O_RDWR | os.O_NONBLOCK) for n in (1, 2)]
        self._loop.add_reader(control, self._on_event)
        (self._gadget / "UDC").write_text(self._controller)

    def _remove(self) -> None:
        """Undo :meth:`_create`, however far it came."""
        _libc.umount2(bytes(self._folder), _DETACH)
        configuration = self._gadget / "configs" / "c.1"
        with contextlib.suppress(OSError):
            (configuration / self._function).unlink()
        for folder in (
            self._gadget / "functions" / self._function,
            configuration,
            self._gadget / "strings" / "0x409",
            self._gadget,
            self._folder,
        ):
            with contextlib.suppress(OSError):
                folder.rmdir()

    # -- the host's side --------------------------------

    def _on_event(self) -> None:
        try:
            data = os.read(self._endpoints[0], _EVENTS_BYTES)
        except BlockingIOError:
            return
        for event in parse_events(data):
            log.info("%s: %s", self._controller, event.name)
            if event in (Event.ENABLE, Event.DISABLE, Event.UNBIND):
                # The kernel keeps only the last of several events: a new ENABLE may stand for DISABLE, too.
                self._end_session()
            if event is Event.ENABLE:
                self._begin_session()

    def _begin_session(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        session = _Session(ours, self._endpoints[1], self._endpoints[2])

        def phone_hung_up() -> None:
            self._loop.call_soon_threadsafe(self._replug, session)

        self._session = session
        session.start(phone_hung_up)
        self._connected(theirs)

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session:
            session.end()

    def _replug(self, session: _Session) -> None:
        """The phone cut the link. USB has no word for that: like Android's, it leaves the bus and returns."""
        if session is self._session:
            self.close()
            self.open()


class _Session:
    """Carries bytes between two endpoints and a socket while a host has the device configured."""

    def __init__(self, connection: socket.socket, from_host: int, to_host: int) -> None:
        self._connection = connection
        self._from_host = from_host
        self._to_host = to_host
        self._threads: list[threading.Thread] = []

    def start(self, phone_hung_up: Callable[[], None]) -> None:
        """Begin; ``phone_hung_up`` is called from a thread."""
        for work in (self._receive, lambda: self._send(phone_hung_up)):
            thread = threading.Thread(target=work, name="usb", daemon=True)
            self._threads.append(thread)
            thread.start()

    def end(self) -> None:
        """Stop; the endpoints have to be disabled, which ends the transfers on them."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_JOIN_TIMEOUT_S)
        self._connection.close()

    def _receive(self) -> None:
        """Host to phone: a stream of bytes. Ends when the endpoint is disabled or the socket is closed."""
        buffer = memoryview(bytearray(_TRANSFER_BYTES))
        with contextlib.suppress(OSError):
            while True:
                # An empty transfer marks the end of one of whole packets.
                if count := os.readv(self._from_host, [buffer]):
                    self._connection.sendall(buffer[:count])

    def _send(self, phone_hung_up: Callable[[], None]) -> None:
        """Phone to host: header and payload are transfers of their own, as hosts read them."""
        try:
            while header := self._take(HEADER_SIZE):
                remaining = decode_header(header).length
                os.write(self._to_host, header)
                while remaining:
                    part = self._take(min(remaining, _TRANSFER_BYTES))
                    os.write(self._to_host, part)
                    remaining -= len(part)
        except EOFError:
            phone_hung_up()
        except (OSError, ProtocolError) as error:
            log.info("the USB session ended: %s", error)

    def _take(self, size: int) -> bytes:
        """Exactly ``size`` bytes from the phone. Raises EOFError where it closed."""
        data = self._connection.recv(size, socket.MSG_WAITALL)
        if len(data) < size:
            raise EOFError
        return data
