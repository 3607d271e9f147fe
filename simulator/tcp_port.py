"""A phone's cable as a TCP port of the loopback interface, as of a phone in ``adb tcpip`` mode."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

log = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
_CONNECTIONS: Final = Path("/proc/net/tcp")


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


def user_of(table: str, here: tuple[str, int], there: tuple[str, int]) -> int | None:
    """The id of the user whose socket is at ``here``, connected to ``there``; None where there is none.

    ``table`` is the text of /proc/net/tcp (proc(5)); both ends are IPv4 addresses with ports.
    """
    wanted = [_hexadecimal(*end) for end in (here, there)]
    for line in table.splitlines()[1:]:
        columns = line.split()
        # A socket that its owner has closed has no inode, and belongs to user 0 in this table.
        if columns[1:3] == wanted and columns[9] != "0":
            return int(columns[7])
    return None


def _hexadecimal(address: str, port: int) -> str:
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}:{port:04X}"


class TcpPort:
    """``port`` 0 takes a free one, which stays the phone's; ``connected`` gets each host's connection.

    Connections of other users of this computer are closed: a phone that takes every key would give them a
    shell of this user's. ``users`` are the ids of those who may connect, this user and root where None.
    """

    def __init__(
        self,
        port: int,
        connected: Callable[[socket.socket], None],
        users: frozenset[int] | None = None,
    ) -> None:
        self._port = port
        self._users = frozenset({0, os.getuid()}) if users is None else users
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
            connection, peer = self._listener.accept()
        except OSError:
            return
        user = user_of(_CONNECTIONS.read_text(), peer, connection.getsockname())
        if user not in self._users:
            log.warning("a connection of another user of this computer was closed (user id %s)", user)
            connection.close()
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connected(connection)
