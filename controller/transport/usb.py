"""ADB over USB: adb-shell's transport with its gaps closed, and the list of phones on the bus.

libusb is loaded on first use only: without it the farm still runs with phones on TCP.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mobifarm.controller.errors import DeviceError, HostError, LinkLost, NotThere, Silent
from mobifarm.controller.transport.holders import holder_of_file, holder_of_port

ADB_SERVER_PORT: Final = 5037
_ADB_INTERFACE: Final = (0xFF, 0x42, 0x01)
_POLL_S: Final = 0.25
_SEND_TIMEOUT_S: Final = 30.0
_SILENCE_S: Final = 0.05
_DRAIN_LIMIT_S: Final = 2.0
_TRANSFER_BYTES: Final = 16 * 1024  # the phone's largest, and whole packets of every size
FREE_THE_BUS: Final = (
    "run `adb kill-server` (and close Android Studio, which starts it again), "
    "or start the farm with --adb-server"
)
LET_THIS_USER: Final = (
    "install the udev rules of the system package android-sdk-platform-tools-common, "
    "add this user to the group plugdev, and plug the phone in again"
)
NO_LIBUSB: Final = "libusb is missing; install the system package libusb-1.0-0"


@dataclass(frozen=True, slots=True)
class UsbPhone:
    """A phone on the bus. ``port_path`` is BUS-PORT.PORT…; ``serial`` is "" where it cannot be read."""

    port_path: str
    serial: str

    @property
    def address(self) -> str:
        return f"usb:{self.port_path}"


@dataclass(frozen=True, slots=True)
class UsbScan:
    """The phones on the bus now; where it cannot be looked at, none, and why."""

    phones: tuple[UsbPhone, ...]
    unavailable_reason: str = ""


def list_usb() -> UsbScan:
    """Look for ADB interfaces on all USB buses; takes milliseconds and opens phones only to read serials."""
    try:
        import usb1
    except (ImportError, OSError):
        return UsbScan((), NO_LIBUSB)
    phones = []
    try:
        with usb1.USBContext() as context:
            for port_path, device in adb_devices(context):
                phones.append(UsbPhone(port_path, _read_serial(usb1, device)))
    except usb1.USBError as error:
        return UsbScan((), f"the USB bus cannot be read ({error})")
    return UsbScan(tuple(sorted(phones, key=lambda phone: phone.port_path)))


def adb_devices(context: Any) -> Iterator[tuple[str, Any]]:
    """Every device with an ADB interface and its place, BUS-PORT.PORT…; no device is opened.

    Args:
        context: an open ``usb1.USBContext``.
    """
    for device in context.getDeviceIterator(skip_on_error=True):
        if any(
            (setting.getClass(), setting.getSubClass(), setting.getProtocol()) == _ADB_INTERFACE
            for setting in device.iterSettings()
        ):
            ports = ".".join(str(port) for port in device.getPortNumberList())
            yield f"{device.getBusNumber()}-{ports}", device


def _read_serial(usb1: Any, device: Any) -> str:
    try:
        return str(device.getSerialNumber() or "")
    except usb1.USBError:
        # No permission, or the phone is just leaving.
        return ""


def refuse_foreign_adb_server(port: int = ADB_SERVER_PORT) -> None:
    """Raise where an adb server runs: it claims every phone on the bus, and it is not ours to stop.

    Raises:
        HostError: something answers at the server's port.
    """
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return
    holder = holder_of_port(port)
    who = f" (pid {holder.pid})" if holder else ""
    raise HostError(
        f"an adb server{who} answers on 127.0.0.1:{port} and holds the USB bus", action=FREE_THE_BUS
    )


class UsbWire:
    """The two bulk endpoints of a phone's ADB interface."""

    def __init__(self, port_path: str, adb_server_port: int = ADB_SERVER_PORT) -> None:
        """Claim the interface.

        Raises:
            DeviceError: no phone there, or this user may not use it.
            HostError: libusb is missing or an adb server holds the bus.
        """
        refuse_foreign_adb_server(adb_server_port)
        try:
            import usb1
            from adb_shell import exceptions
            from adb_shell.transport.usb_transport import UsbTransport
        except (ImportError, OSError) as error:
            raise HostError(NO_LIBUSB) from error
        self._usb1 = usb1
        self._exceptions = exceptions
        self._interrupted = threading.Event()
        self._deadline: float | None = None
        address = f"usb:{port_path}"
        try:
            self._transport = UsbTransport.find_adb(port_path=port_path)
            self._transport.connect(_SEND_TIMEOUT_S)
            self._packet_bytes = max(
                endpoint.getMaxPacketSize() for endpoint in self._transport._setting.iterEndpoints()
            )
            self._drain()
        except exceptions.UsbDeviceNotFoundError as error:
            raise NotThere(f"no phone with USB debugging on is at {address}; check the cable") from error
        except usb1.USBErrorBusy as error:
            raise self._held(address) from error
        except usb1.USBErrorAccess as error:
            raise HostError(f"this user may not use the phone at {address}", action=LET_THIS_USER) from error
        except (usb1.USBError, ValueError, TypeError) as error:
            # TypeError: adb-shell passes its argument for a warning's text as the warning's category.
            raise DeviceError(
                f"the phone at {address} cannot be opened ({error}); plug it in again"
            ) from error

    def _held(self, address: str) -> HostError:
        """Says who claimed the phone's interface before us."""
        device: Any = getattr(self._transport, "_device", None)
        try:
            node = Path(f"/dev/bus/usb/{device.getBusNumber():03}/{device.getDeviceAddress():03}")
            holder = holder_of_file(node)
        except (AttributeError, self._usb1.USBError):
            holder = None
        if holder and holder.name == "adb":
            return HostError(f"an adb server (pid {holder.pid}) holds the USB bus", action=FREE_THE_BUS)
        who = str(holder) if holder else "another program"
        return HostError(
            f"{who} uses the phone at {address}", action=f"end it; if it is an adb server, {FREE_THE_BUS}"
        )

    def _drain(self) -> None:
        """Drop what the phone has sent to whoever was connected before; half a packet would garble all."""
        until = time.monotonic() + _DRAIN_LIMIT_S
        while time.monotonic() < until:
            try:
                self._transport.bulk_read(_TRANSFER_BYTES, _SILENCE_S)
            except self._exceptions.UsbReadFailedError:
                # Silence, or trouble that the first use of the wire will tell of.
                return

    def read_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            if self._interrupted.is_set():
                raise LinkLost("the link was interrupted")
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise Silent("it did not answer in time")
            try:
                data += self._transport.bulk_read(size - len(data), _POLL_S)
            except self._exceptions.UsbReadFailedError as error:
                if not isinstance(error.usb_error, self._usb1.USBErrorTimeout):
                    raise LinkLost(f"the USB connection broke ({error})") from error
                # A transfer may time out after part of it came.
                data += getattr(error.usb_error, "received", b"")
        return bytes(data)

    def set_read_timeout(self, timeout_s: float | None) -> None:
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s

    def write(self, header: bytes, payload: bytes | memoryview) -> None:
        # The phone reads header and payload as two transfers.
        self._write_transfer(header)
        if payload:
            self._write_transfer(bytes(payload))

    def _write_transfer(self, data: bytes) -> None:
        try:
            sent = self._transport.bulk_write(data, _SEND_TIMEOUT_S)
            if sent == len(data) and sent % self._packet_bytes == 0:
                # A transfer of whole packets has no end of its own; an empty packet marks it.
                self._transport.bulk_write(b"", _SEND_TIMEOUT_S)
        except self._exceptions.UsbWriteFailedError as error:
            raise LinkLost(f"the USB connection broke ({error})") from error
        if sent != len(data):
            raise LinkLost("it took only part of a packet")

    def interrupt(self) -> None:
        # libusb must not be closed under a running transfer; the reader looks at this between transfers.
        self._interrupted.set()

    def close(self) -> None:
        self._interrupted.set()
        self._transport.close()
