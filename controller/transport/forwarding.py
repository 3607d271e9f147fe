"""A unix socket on the host whose connections end at a socket on the phone."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mobifarm.controller.errors import DeviceError, FarmError, HostError
from mobifarm.controller.transport.interface import ByteStream

_RECEIVE_BYTES: Final = 256 * 1024
# struct sockaddr_un holds 108 bytes, the last of them zero.
_PATH_LIMIT_BYTES: Final = 107


class SocketForward:
    """Accepts connections on a unix socket of mode 0600 and pumps each to a stream of its own.

    A client that closes its sending half keeps receiving until the phone is done: ADB cannot tell the phone
    about a half-closed connection. A client that goes away ends the stream, and the other way round.
    """

    def __init__(self, socket_path: Path, open_stream: Callable[[], ByteStream]) -> None:
        """Listen; the directory is made with mode 0700 where it is missing.

        Args:
            socket_path: at most 107 bytes; a stale socket there is replaced.
            open_stream: opens the phone's end for one connection.

        Raises:
            HostError: the socket cannot be made safely.
        """
        if len(os.fsencode(socket_path)) > _PATH_LIMIT_BYTES:
            raise HostError(
                f"the socket path {socket_path} is longer than {_PATH_LIMIT_BYTES} bytes; "
                "choose a shorter directory"
            )
        self._path = socket_path
        self._open_stream = open_stream
        self._lock = threading.Lock()
        self._clients: set[socket.socket] = set()
        self._closed = False
        self._listener = _listen(socket_path)
        self._acceptor = threading.Thread(
            target=self._accept, name=f"forward {socket_path.name}", daemon=True
        )
        self._acceptor.start()

    @property
    def path(self) -> Path:
        return self._path

    def close(self) -> None:
        """Stop listening, end all connections and remove the socket. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            clients = list(self._clients)
        _shut_down(self._listener)
        self._acceptor.join()
        self._listener.close()
        self._path.unlink(missing_ok=True)
        for client in clients:
            _shut_down(client)

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._closed:
                    client.close()
                    return
                self._clients.add(client)
            threading.Thread(
                target=self._serve, args=(client,), name=f"forward {self._path.name} down", daemon=True
            ).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            stream = self._open_stream()
        except FarmError:
            # The client sees a closed connection; the reason is the link's, and its owner hears it there.
            self._drop(client)
            return
        upwards = threading.Thread(
            target=_pump_up, args=(client, stream), name=f"forward {self._path.name} up", daemon=True
        )
        upwards.start()
        try:
            while data := stream.read():
                client.sendall(data)
        except (DeviceError, OSError):
            pass
        finally:
            stream.close()
            _shut_down(client)
            upwards.join()
            self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        # Closed under the lock, so that close() never shuts down a descriptor that has a new owner.
        with self._lock:
            self._clients.discard(client)
            client.close()


def _pump_up(client: socket.socket, stream: ByteStream) -> None:
    try:
        while data := client.recv(_RECEIVE_BYTES):
            stream.write(data)
        # The client's sending half is closed. POLLHUP, always reported, comes when the other half is too.
        poller = select.poll()
        poller.register(client, 0)
        poller.poll()
    except (DeviceError, OSError):
        pass
    finally:
        stream.close()


def _listen(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = path.parent.stat()
    if directory.st_uid != os.getuid() or stat.S_IMODE(directory.st_mode) & 0o077:
        raise HostError(f"the directory {path.parent} is open to other users; run: chmod 700 {path.parent}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise HostError(f"cannot listen on {path} ({error})") from error
    return listener


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
