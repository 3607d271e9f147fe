"""A phone's cable as a TCP port of the loopback interface, as of a phone in ``adb tcpip`` mode."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, Protocol

LOOPBACK: Final = "127.0.0.1"


class PortError(Exception):
    """Hosts cannot reach the phone that way; the message says why and what to do."""


class Port(Protocol):
    """The phone's end of its cable. All methods belong to one event loop."""

    @property
    def address(self) -> str:
        """Where hosts find the phone."""
        ...

    @property
    def is_open(self) -> bool: ...

    def open(self) -> None:
        """Plug the cable in: take hosts' connections from now on. Raises :class:`PortError`."""
        ...

    def close(self) -> None:
        """Pull the cable: take no more connections. Those that exist are the phone's to cut."""
        ...


class TcpPort:
    """``port`` 0 takes a free one, which stays the phone's; ``connected`` gets each host's connection."""

    def __init__(self, port: int, connected: Callable[[socket.socket], None]) -> None:
        self._port = port
        self._connected = connected
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = None

    @property
    def address(self) -> str:
        """``tcp:127.0.0.1:PORT``."""
        return f"tcp:{LOOPBACK}:{self._port}"

    @property
    def is_open(self) -> bool:
        return self._listener is not None

    def open(self) -> None:
        if self._listener is not None:
            return
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((LOOPBACK, self._port))
            listener.listen(16)
        except OSError as error:
            listener.close()
            raise PortError(
                f"the phone cannot listen on {LOOPBACK}:{self._port} ({error.strerror}); "
                "choose another --port, or 0 for a free one"
            ) from error
        listener.setblocking(False)
        self._port = listener.getsockname()[1]
        self._listener = listener
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connected(connection)
