"""Talks to an adb server that owns the phones of this host, through adbutils.

adbutils is loaded on first use only: without it the farm still runs in direct mode. Three habits of it are
kept away from: it starts an adb server where none answers (its own build of adb), it tells devices apart by
serial number alone, of which there may be two alike, and where the server refuses a phone it leaves the
connection open.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from mobifarm.controller.errors import AuthorisationRequired, DeviceError, HostError, LinkLost
from mobifarm.controller.transport.mux import StreamTimeoutError

DEADLINE_S: Final = 10.0
CONNECT_DEADLINE_S: Final = 20.0  # the server itself waits up to 10 s for a phone on TCP
_RECEIVE_BYTES: Final = 256 * 1024
_EMULATOR: Final = re.compile(r"emulator-(\d+)")
_TCP_SERIAL: Final = re.compile(r"[^:\s]+:\d{1,5}")
START_SERVER: Final = "run `adb start-server`, or start the farm without --adb-server"


@dataclass(frozen=True, slots=True)
class ServedPhone:
    """A phone as the server lists it; ``transport_id`` is new whenever it comes back."""

    address: str
    serial: str
    state: str  # "device", "unauthorized", "offline", "no" (permissions), "recovery", …
    transport_id: int


class AdbServer:
    """One adb server; every request is a connection of its own and has a deadline. Thread-safe."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port

    @property
    def name(self) -> str:
        return f"{self._host}:{self._port}"

    def phones(self) -> list[ServedPhone]:
        """All phones that the server knows, in any state.

        Raises:
            HostError: no server answers, or adbutils is missing.
        """
        with self._speaking() as client:
            listed = client.list(extended=True)
        found = []
        for entry in listed:
            transport_id = entry.transport_id
            if transport_id is not None:
                address = _address(entry.serial, entry.tags.get("usb"))
                found.append(ServedPhone(address, entry.serial, entry.state, transport_id))
        return found

    def connect(self, place: str) -> str:
        """Have the server connect to HOST:PORT anew; its answer, a success or not."""
        with self._speaking() as client:
            client.disconnect(place)  # a connection that went offline would count as one for a while
            return str(client.connect(place, timeout=CONNECT_DEADLINE_S))

    def open(self, phone: ServedPhone, service: str, timeout_s: float) -> SocketStream:
        """Open a stream to a service of the phone.

        Raises:
            DeviceError: the phone or the server refused (AuthorisationRequired where its owner must).
            HostError: no server answers.
        """
        with self._speaking(phone.address) as client:
            connection = _ask(client, timeout_s, f"host:transport-id:{phone.transport_id}", service)
            connection.conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return SocketStream(connection.conn, f"{phone.address} {service}")

    def track(self) -> DeviceTracker:
        """Notices changes of the list of phones; HostError where no server answers."""
        with self._speaking() as client:
            return DeviceTracker(_ask(client, DEADLINE_S, "host:track-devices"))

    @contextlib.contextmanager
    def _speaking(self, address: str = "") -> Iterator[Any]:
        """adbutils' client, with its errors turned into ours."""
        try:
            import adbutils
        except ImportError as error:
            raise HostError(
                "server mode needs adbutils", action="run `pip install 'mobifarm[adb-server]'`"
            ) from error
        try:
            # adbutils would start a server; whether one is to run is the user's decision.
            socket.create_connection((self._host, self._port), timeout=DEADLINE_S).close()
        except OSError as error:
            raise HostError(f"no adb server answers at {self.name}", action=START_SERVER) from error
        who = address or f"the adb server at {self.name}"
        try:
            yield adbutils.AdbClient(self._host, self._port, socket_timeout=DEADLINE_S)
        except (adbutils.AdbTimeout, TimeoutError) as error:
            raise HostError(f"the adb server at {self.name} did not answer in time") from error
        except (OSError, EOFError) as error:
            raise DeviceError(f"{who}: the adb server ended the connection ({error})") from error
        except adbutils.AdbError as error:
            raise _refusal(who, str(error)) from error


def _ask(client: Any, timeout_s: float, *commands: str) -> Any:
    """A new connection on which the server took these commands; none is left open where it refused one."""
    connection = client.make_connection(timeout=timeout_s)
    try:
        for command in commands:
            connection.send_command(command)
            connection.check_okay()
    except BaseException:
        connection.close()
        raise
    return connection


def _refusal(address: str, message: str) -> DeviceError:
    text = " ".join(message.split())[:300]
    if "unauthorized" in text or "authorizing" in text:
        return AuthorisationRequired(f"{address} does not trust the adb server's key yet")
    return DeviceError(f"{address}: the adb server says: {text}")


def _address(serial: str, port_path: str | None) -> str:
    """The same address that direct mode gives the phone, as far as the server tells its place."""
    if port_path:
        return f"usb:{port_path}"
    if match := _EMULATOR.fullmatch(serial):
        return f"tcp:127.0.0.1:{int(match[1]) + 1}"  # the server names it after its console, one port below
    if _TCP_SERIAL.fullmatch(serial):
        return f"tcp:{serial}"
    return f"adb:{serial}"


class DeviceTracker:
    """The server's stream of changes; only that there was one matters."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._connection.conn.settimeout(DEADLINE_S)

    def wait(self, timeout_s: float) -> bool:
        """Whether something changed before the timeout; HostError when the server has gone."""
        readable, _, _ = select.select([self._connection.conn], [], [], timeout_s)
        if not readable:
            return False
        try:
            self._connection.read_string_block()
        except Exception as error:  # adbutils' own, a broken number, or the socket's
            raise HostError("the adb server has ended", action=START_SERVER) from error
        return True

    def interrupt(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.conn.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()


class SocketStream:
    """One stream through the server; an ``interface.ByteStream``. One thread reads while another writes."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self._socket = connection
        self._socket.setblocking(False)
        self._name = name
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    def read(self, timeout_s: float | None = None) -> bytes:
        """Some bytes; b"" at the end of the stream.

        Raises:
            StreamTimeoutError: nothing came in time.
            LinkLost: the server broke the connection.
        """
        with self._using() as usable:
            if not usable:
                return b""
            if not self._ready(select.POLLIN, timeout_s):
                raise StreamTimeoutError(f"{self._name}: nothing came in {timeout_s:g} s")
            try:
                return self._socket.recv(_RECEIVE_BYTES)
            except OSError as error:
                if self._closed:
                    return b""
                raise LinkLost(f"{self._name}: the connection broke ({error})") from error

    def write(self, data: bytes, timeout_s: float | None = None) -> None:
        """Send all of ``data``.

        Raises:
            StreamTimeoutError: it was not taken in time (part of it may have been sent).
            DeviceError: the stream is closed.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        view = memoryview(data)
        with self._using() as usable:
            while len(view):
                left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                if usable and not self._ready(select.POLLOUT, left_s):
                    raise StreamTimeoutError(f"{self._name}: it took no data in time")
                try:
                    if not usable:
                        raise OSError("it was closed on this side")
                    view = view[self._socket.send(view) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise DeviceError(f"{self._name}: the stream is closed ({error})") from error

    def close(self) -> None:
        """End the stream; waiting threads are woken. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            if not self._users:
                self._socket.close()

    @contextlib.contextmanager
    def _using(self) -> Iterator[bool]:
        """Keeps the descriptor from being closed, and given to somebody else, under a waiting thread."""
        with self._lock:
            usable = not self._closed
            self._users += 1
        try:
            yield usable
        finally:
            with self._lock:
                self._users -= 1
                if self._closed and not self._users:
                    self._socket.close()

    def _ready(self, what: int, timeout_s: float | None) -> bool:
        poller = select.poll()
        poller.register(self._socket, what)
        return bool(poller.poll(None if timeout_s is None else timeout_s * 1000))
