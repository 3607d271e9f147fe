"""ADB over TCP: phones in ``adb tcpip`` mode and virtual phones."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

from mobifarm.controller.errors import LinkLost, NotThere, Silent

# A phone that takes no byte for this long is gone: a torn packet cannot be mended.
_SEND_TIMEOUT_S = 30
_READ_BUFFER_BYTES = 256 * 1024
# Larger payloads go out by themselves, without a copy behind the header.
_COPY_LIMIT_BYTES = 16 * 1024


class TcpWire:
    """A connected TCP socket.

    Unlike adb-shell's own transport it switches Nagle's algorithm off (a header and its payload are two
    writes, which costs 50 ms a command) and never returns a short write (which corrupts the packet stream).
    """

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        """Connect.

        Raises:
            NotThere: nothing answers at this address.
        """
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout_s)
        except (OSError, UnicodeError) as error:  # the latter where a name is none: foo..bar
            raise NotThere(
                f"no phone answers at tcp:{host}:{port} ({error}); check that it is switched on and that its "
                "ADB listens there (`adb tcpip 5555` on a phone with a cable)"
            ) from error
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A phone that vanished without a word (power, radio) is noticed within about 20 s, whether the
        # connection is idle or data is on its way.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_TIMEOUT_S, 0))
        self._reader = self._socket.makefile("rb", buffering=_READ_BUFFER_BYTES)
        self._deadline: float | None = None

    def read_exactly(self, size: int) -> bytes:
        try:
            if self._deadline is not None:
                self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
            data: bytes = self._reader.read(size)
        except TimeoutError as error:
            raise Silent("it did not answer in time") from error
        except (OSError, ValueError) as error:
            raise LinkLost(f"the connection broke ({error})") from error
        if len(data) < size:
            raise LinkLost("it closed the connection")
        return data

    def set_read_timeout(self, timeout_s: float | None) -> None:
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        if timeout_s is None:
            # Back to a blocking descriptor, on which the kernel's send timeout holds.
            self._socket.settimeout(None)

    def write(self, header: bytes, payload: bytes | memoryview) -> None:
        try:
            if len(payload) <= _COPY_LIMIT_BYTES:
                self._socket.sendall(header + bytes(payload))
            else:
                self._socket.sendall(header, socket.MSG_MORE)
                self._socket.sendall(payload)
        except (BlockingIOError, TimeoutError) as error:
            raise LinkLost(f"it took no data for {_SEND_TIMEOUT_S} s") from error
        except OSError as error:
            raise LinkLost(f"the connection broke ({error})") from error

    def interrupt(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.interrupt()
        with contextlib.suppress(OSError):
            self._reader.close()
        self._socket.close()
